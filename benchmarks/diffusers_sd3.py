"""diffusers' transformer of Stable Diffusion 3, of the size of our network."""

from collections.abc import Callable

from ddit_jax.models.config import MMDiTConfig

# Of the pooled CLIP features that SD3 conditions on and D-DiT does not have.
POOLED_WIDTH = 2048


def sd3_transformer(network: MMDiTConfig):
  """An SD3Transformer2DModel with random weights, on torch's device.

  Its last block keeps the text stream where ours does.
  """
  import diffusers
  from diffusers.models.attention import JointTransformerBlock

  model = diffusers.SD3Transformer2DModel(
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
  if network.is_last_text_block_full:
    model.transformer_blocks[-1] = JointTransformerBlock(
      network.width, network.num_heads, network.head_dim
    )
  return model


def image_step(
  network: MMDiTConfig,
  side: int,
  batch: int,
  *,
  num_tokens: int,
  device: str,
  dtype,
  is_compiled: bool,
) -> Callable[[], None]:
  """A training step of the image loss, from latents and text features.

  Clips the gradient, updates float32 weights by AdamW and their average, as
  ours does.

  Args:
    network: its size.
    side: of the latents.
    batch: images.
    num_tokens: of each text.
    device: of torch.
    dtype: of torch; what products are computed in.
    is_compiled: whether by torch.compile, at the first call.

  Returns:
    A function that takes a step and waits for its end.
  """
  import torch

  with torch.device(device):
    model = sd3_transformer(network)
    average = [weight.detach().clone() for weight in model.parameters()]
    shape = (batch, network.latent_channels, side, side)
    latents, noise = torch.randn(2, *shape)
    sigma = torch.rand(batch)
    features = torch.randn(batch, num_tokens, network.context_dim)
    pooled = torch.zeros(batch, POOLED_WIDTH)
  weights = list(model.parameters())
  optimizer = torch.optim.AdamW(weights, lr=5e-5, fused=True)
  # For these shapes alone, after those of other sizes.
  forward = torch.compile(model, dynamic=False) if is_compiled else model

  def run() -> None:
    part = sigma[:, None, None, None]
    noisy = (1 - part) * latents + part * noise
    with torch.autocast(device, dtype, enabled=dtype != torch.float32):
      velocity = forward(
        hidden_states=noisy,
        encoder_hidden_states=features,
        pooled_projections=pooled,
        timestep=1000 * sigma,
      ).sample
    loss = (velocity.float() - (noise - latents)).square().mean()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(weights, 2.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    with torch.no_grad():
      torch._foreach_lerp_(average, weights, 1e-4)
    if device == "cuda":
      torch.cuda.synchronize()

  return run
