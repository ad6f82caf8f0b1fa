"""Batched samplers, each one jitted program.

- `image_sampler`: solves the velocity ODE.
- `flow_solvers`: the methods that it solves it by.
- `guidance`: one velocity from those with and without the prompt.
- `step_cache`: steps of images that reuse the network's blocks.
- `text_sampler`: fills in masked tokens of any pattern.
- `text_planners`: the orders in which it reveals them.
- `beam_search`: texts of a causal language model.
- `text_options`: its config and presets.
"""

import lazy_loader

# Imported on first use.
__getattr__, __dir__, __all__ = lazy_loader.attach(
  __name__,
  submod_attrs={
    "image_sampler": ["ImageSampling", "generate_latents", "sample_latents"],
    "text_options": ["PRESETS", "TextSampling"],
    "text_sampler": ["Texts", "generate_tokens", "infill"],
  },
)
