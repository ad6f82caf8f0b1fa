"""The frozen networks around the MM-DiT: text encoders and image autoencoder.

- `t5`: token ids to features.
- `t5_attention`: its attention.
- `int8`: its kernels at half the memory.
- `clip`: SD3's CLIP encoders, and their features joined with T5's.
- `clip_vision`: CLIP's image encoder.
- `vae`: images to a posterior of latents, and latents to images.
- `flops`: floating-point operations of one pass.
"""
