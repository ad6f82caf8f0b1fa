"""From records to batches on devices.

`tokenizer` is the interface of every tokenizer, `text_layout` says how
captions, questions and answers lie in a fixed length, `records` turns a
source's examples into arrays, `streams` orders and batches them with Grain,
`device_feed` puts them on the mesh ahead of time.
"""
