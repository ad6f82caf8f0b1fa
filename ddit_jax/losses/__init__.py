"""The training losses; they call the network through `dual.Model`.

- `objective`: what a training step needs of a loss.
- `dual`: the dual loss: corruption, network, weighted sum.
- `flow_matching`: the image loss.
- `masked_diffusion`: the text loss, whole or in chunks of positions.
- `captioning`: the loss of a captioner.
- `time_buckets`: losses by diffusion time.
- `likelihood`: bounds of -log p of texts and images.
- `advantages`: rewards to advantages within the draws of one prompt.
- `diffusion_nft`: the loss of images with rewards.
- `diffusion_dpo`: the loss of pairs of images.
- `drawn_texts`: texts that a policy drew, and the bound of their probability.
- `espo`: the loss of texts with rewards.
- `vrpo`: the loss of pairs of texts.
"""

import lazy_loader

# Imported on first use.
__getattr__, __dir__, __all__ = lazy_loader.attach(
  __name__,
  submod_attrs={
    "dual": ["DualLoss"],
  },
)
