"""diffusers' transformer of Stable Diffusion 3, of the size of our network."""

from ddit_jax.models.config import MMDiTConfig

# Of the pooled CLIP features that SD3 conditions on and D-DiT does not have.
POOLED_WIDTH = 2048


def sd3_transformer(network: MMDiTConfig):
  """An SD3Transformer2DModel with random weights, on torch's device."""
  import diffusers

  return diffusers.SD3Transformer2DModel(
    sample_size=128,
    patch_size=network.patch_size,
    in_channels=network.latent_channels,
    out_channels=network.latent_channels,
    num_layers=network.depth,
    attention_head_dim=network.head_dim,
    num_attention_heads=network.num_heads,
    joint_attention_dim=network.context_dim,
    caption_projection_dim=network.width,
    pooled_projection_dim=POOLED_WIDTH,
    pos_embed_max_size=network.max_grid,
  )
