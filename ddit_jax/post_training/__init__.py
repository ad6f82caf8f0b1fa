"""Training a trained model on rewards and preferences, on both modalities.

- `config`: the `post_training` section: methods, rewards, draws.
- `rewards`: what drawn images and texts are worth, on the host.
- `draws`: the policies that are compared, and what rewards see.
- `image_draws`: images of the old policy and their worth.
- `text_draws`: texts of the old policy and their worth.
- `pairs`: preference pairs of the data, in place of draws.
- `rollouts`: a batch of prompts to a scored batch.
- `policy_loss`: the loss of such a step, in place of the dual loss.
- `held_out`: rewards of held-out prompts, and a stop when they fall.
"""
