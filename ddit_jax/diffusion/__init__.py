"""The mathematics of both diffusions, without parameters.

- `flow_matching`: images.
- `masked_diffusion`: text.

Losses and samplers get every schedule and weight from here.
"""

import lazy_loader

# Imported on first use.
__getattr__, __dir__, __all__ = lazy_loader.attach(
  __name__,
  submod_attrs={
    "flow_matching": ["FlowMatching", "classifier_free_guidance"],
    "masked_diffusion": ["MaskedDiffusion"],
  },
)
