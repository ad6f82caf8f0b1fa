"""SD3's image autoencoder: pixels to the MM-DiT's latents and back."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ddit_jax.encoders.posterior import Posterior
from ddit_jax.encoders.vae_layers import (
  DownBlock,
  MiddleBlock,
  UpBlock,
  conv,
  group_norm,
)
from ddit_jax.models.precision import checked_dtype
from ddit_jax.models.pure_module import PureModule

Images = Float[Array, "batch height width colours"]
Latents = Float[Array, "batch rows columns channels"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
  """Shapes of the autoencoder and the scale of its latents; SD3's as default.

  Attributes:
    image_channels: colours of an image.
    latent_channels: channels of a latent.
    block_widths: channels at each resolution, highest resolution first.
    layers_per_block: residual blocks at each resolution of the encoder; the
      decoder has one more.
    num_groups: groups of every norm; divides all block widths.
    shift: subtracted from the autoencoder's latents for the network.
    scale: multiplies them then.
  """

  image_channels: int = 3
  latent_channels: int = 16
  block_widths: tuple[int, ...] = (128, 256, 512, 512)
  layers_per_block: int = 2
  num_groups: int = 32
  shift: float = 0.0609
  scale: float = 1.5305

  def __post_init__(self):
    uneven = [w for w in self.block_widths if w % self.num_groups]
    if uneven or not self.block_widths:
      raise ValueError(
        f"block_widths {self.block_widths} must be multiples of num_groups "
        f"{self.num_groups}"
      )

  @property
  def downsampling(self) -> int:
    """Side of an image divided by the side of its latents."""
    return 2 ** (len(self.block_widths) - 1)

  def to_network(self, latents: Latents) -> Latents:
    """The autoencoder's latents as the MM-DiT takes them."""
    return (latents - self.shift) * self.scale

  def from_network(self, latents: Latents) -> Latents:
    """The MM-DiT's latents as the autoencoder takes them."""
    return latents / self.scale + self.shift


class Encoder(nn.Module):
  """Images to the numbers that fix a posterior.

  Attributes:
    config: shapes.
    dtype: dtype of the computation.
  """

  config: AutoencoderConfig
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, images: Images
  ) -> Float[Array, "batch rows columns statistics"]:
    cfg, dtype = self.config, self.dtype
    widths = cfg.block_widths
    conv_in = conv(
      widths[0], name="conv_in", dtype=dtype, axes=("channels", "width")
    )
    x = conv_in(images.astype(dtype))
    for i, width in enumerate(widths):
      block = DownBlock(
        width=width,
        num_layers=cfg.layers_per_block,
        num_groups=cfg.num_groups,
        has_downsample=i < len(widths) - 1,
        dtype=dtype,
        name=f"down_{i}",
      )
      x = block(x)
    x = MiddleBlock(cfg.num_groups, dtype, name="middle")(x)
    return _output(x, 2 * cfg.latent_channels, cfg.num_groups, dtype)


class Decoder(nn.Module):
  """The autoencoder's latents to images.

  Attributes:
    config: shapes.
    dtype: dtype of the computation.
  """

  config: AutoencoderConfig
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, latents: Latents) -> Images:
    cfg, dtype = self.config, self.dtype
    widths = cfg.block_widths[::-1]
    conv_in = conv(
      widths[0], name="conv_in", dtype=dtype, axes=("channels", "width")
    )
    x = conv_in(latents.astype(dtype))
    x = MiddleBlock(cfg.num_groups, dtype, name="middle")(x)
    for i, width in enumerate(widths):
      block = UpBlock(
        width=width,
        num_layers=cfg.layers_per_block + 1,
        num_groups=cfg.num_groups,
        has_upsample=i < len(widths) - 1,
        dtype=dtype,
        name=f"up_{i}",
      )
      x = block(x)
    return _output(x, cfg.image_channels, cfg.num_groups, dtype)


def _rounded(statistics: jax.Array, dtype: str) -> jax.Array:
  """Float32 numbers that `dtype` holds, so that storing in it is exact.

  A bfloat16 computation may keep more digits up to the next float32 operation,
  and XLA drops a mere cast there and back.
  """
  info = jnp.finfo(dtype)
  return jax.lax.reduce_precision(
    statistics.astype(jnp.float32), info.nexp, info.nmant
  )


def _output(x, channels: int, num_groups: int, dtype):
  """Norm, SiLU, convolution: the end of the encoder and of the decoder."""
  x = nn.silu(group_norm(num_groups, name="norm_out", dtype=dtype)(x))
  convolve = conv(
    channels, name="conv_out", dtype=dtype, axes=("embed", "channels")
  )
  return convolve(x)


class Autoencoder(nn.Module):
  """Encoder and decoder of SD3's `AutoencoderKL`.

  Attributes:
    config: shapes, and the scale of the latents.
    dtype: dtype of the computation, "float32" or "bfloat16".
  """

  config: AutoencoderConfig
  dtype: str = "float32"

  def setup(self):
    dtype = checked_dtype(self.dtype)
    self.encoder = Encoder(self.config, dtype)
    self.decoder = Decoder(self.config, dtype)

  def __call__(self, images: Images) -> Images:
    """Images reconstructed from the means of their posteriors."""
    return self.decode(self.config.to_network(self.encode(images).mean))

  def encode(self, images: Images) -> Posterior:
    """The posterior of images in [-1, 1].

    Raises:
      ValueError: the colours are not as configured, or a side is not a
        multiple of `config.downsampling`.
    """
    cfg, side = self.config, self.config.downsampling
    batch_free = images.shape[1:]
    if len(batch_free) != 3 or batch_free[-1] != cfg.image_channels:
      raise ValueError(
        f"images have shape {images.shape}, the autoencoder takes [batch, "
        f"height, width, {cfg.image_channels}]"
      )
    if batch_free[0] % side or batch_free[1] % side:
      raise ValueError(
        f"images of {batch_free[0]} x {batch_free[1]} pixels cannot be "
        f"encoded: crop or resize both sides to multiples of {side}"
      )
    statistics = _rounded(self.encoder(images), self.dtype)
    mean, logvar = jnp.split(statistics, 2, axis=-1)
    return Posterior(mean=mean, logvar=jnp.clip(logvar, -30.0, 20.0))

  def decode(self, latents: Latents) -> Images:
    """Images of the MM-DiT's latents; float32, not clipped to [-1, 1].

    Raises:
      ValueError: the latents have another number of channels.
    """
    channels = self.config.latent_channels
    if latents.ndim != 4 or latents.shape[-1] != channels:
      raise ValueError(
        f"latents have shape {latents.shape}, the autoencoder takes [batch, "
        f"rows, columns, {channels}]"
      )
    latents = self.config.from_network(latents.astype(jnp.float32))
    return self.decoder(latents).astype(jnp.float32)


def autoencoder(
  config: AutoencoderConfig,
  *,
  dtype: str = "float32",
  parameter_dtype: str = "float32",
) -> PureModule:
  """`Autoencoder` as pure functions: `apply(variables, images, "encode")`.

  Args:
    config: shapes, and the scale of the latents.
    dtype: dtype of the computation, "float32" or "bfloat16".
    parameter_dtype: dtype in which parameters are kept, of the same two.

  Raises:
    ValueError: a dtype is another, such as float16.
  """
  checked_dtype(dtype)
  side = config.downsampling
  images = jax.ShapeDtypeStruct((1, side, side, config.image_channels), "f4")
  return PureModule(
    module=Autoencoder(config, dtype),
    example_inputs=(images,),
    parameter_dtype=parameter_dtype,
  )
