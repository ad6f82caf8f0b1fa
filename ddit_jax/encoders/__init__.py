"""The frozen networks around the MM-DiT: text encoders and image autoencoder.

`t5` and `clip` turn token ids into features, `sd3_context` joins them as SD3
does. `vae` (built from `vae_layers`) turns images into a `posterior` of
latents and latents into images. `pure_module` wraps each of them as pure
functions of a plain parameter tree.
"""
