"""Batched samplers, each one jitted program.

- `image_sampler`: solves the velocity ODE.
- `text_sampler`: fills in masked tokens of any pattern.
"""
