"""Batched samplers, each one jitted program.

- `image_sampler`: solves the velocity ODE.
- `text_sampler`: fills in masked tokens of any pattern.
"""

import lazy_loader

# Imported on first use.
__getattr__, __dir__, __all__ = lazy_loader.attach(
  __name__,
  submod_attrs={
    "image_sampler": ["ImageSampling", "generate_latents", "sample_latents"],
    "text_sampler": ["TextSampling", "generate_tokens", "infill"],
  },
)
