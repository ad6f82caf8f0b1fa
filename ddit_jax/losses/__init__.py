"""Both training losses; they call the network through `dual.Model`.

dual.py              the dual loss: corruption, network, weighted sum
flow_matching.py     the image loss
masked_diffusion.py  the text loss, whole or in chunks of positions
time_buckets.py      losses by diffusion time
"""
