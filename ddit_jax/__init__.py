"""D-DiT, the Dual Diffusion Transformer, in JAX."""
