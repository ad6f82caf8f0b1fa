"""The mathematics of both diffusions, without parameters.

- `flow_matching`: images.
- `masked_diffusion`: text.

Losses and samplers get every schedule and weight from here.
"""
