"""Both training losses.

`image_flow` and `text_mask` each draw their corruption for the whole global
batch first (`corrupt`), then give one weighted number an example; `dual` joins
them. They never import the network: they are handed `predict`.
"""
