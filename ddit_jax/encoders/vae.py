"""SD3's image autoencoder: pixels to the MM-DiT's latents and back."""

import dataclasses
from typing import Literal

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from ddit_jax.errors import check_bounds
from ddit_jax.models.config import MAX_DEPTH, MAX_WIDTH
from ddit_jax.models.layers import checked_dtype, linear
from ddit_jax.models.module import PureModule
from ddit_jax.sharding.rules import constrain

_Latents = Float[Array, "batch rows columns channels"]
_Images = Float[Array, "batch height width colours"]


@flax.struct.dataclass
class Posterior:
  """A diagonal Gaussian of latents, before `AutoencoderConfig.to_network`.

  Attributes:
    mean: float32.
    logvar: logarithm of the variance, in [-30, 20].
  """

  mean: _Latents
  logvar: _Latents

  @classmethod
  def from_moments(
    cls, moments: Float[Array, "batch rows columns moments"]
  ) -> "Posterior":
    """The inverse of `moments`."""
    mean, logvar = jnp.split(moments.astype(jnp.float32), 2, axis=-1)
    return cls(mean=mean, logvar=logvar)

  def moments(self) -> Float[Array, "batch rows columns moments"]:
    """Mean and log variance, concatenated along the channels."""
    return jnp.concatenate([self.mean, self.logvar], axis=-1)

  def at(self, noise: _Latents) -> _Latents:
    """mean + standard deviation * noise."""
    return self.mean + jnp.exp(0.5 * self.logvar) * noise

  def sample(self, key: Key[Array, ""]) -> _Latents:
    """Random latents."""
    return self.at(jax.random.normal(key, self.mean.shape))


# Features of any resolution; a stage changes all but the batch.
_Image = Float[Array, "batch rows columns channels"]
_NewImage = Float[Array, "batch new_rows new_columns new_channels"]


def _conv(
  features: int,
  *,
  name: str,
  dtype: DTypeLike,
  side: int = 3,
  axes: tuple[str, str] = ("embed", "width"),
  stride: int = 1,
  padding="SAME",
) -> nn.Conv:
  """A float32-parameter convolution with bias and named kernel dimensions.

  Args:
    features: output channels.
    name: the module's name in the parameter tree.
    dtype: dtype of the computation.
    side: of the square kernel, in pixels.
    axes: logical names of input and output channels.
    stride: of both directions, in pixels.
    padding: as `nn.Conv` takes it.
  """
  return nn.Conv(
    features,
    (side, side),
    strides=stride,
    padding=padding,
    dtype=dtype,
    param_dtype=jnp.float32,
    kernel_init=nn.with_logical_partitioning(
      nn.initializers.lecun_normal(), (None, None, *axes)
    ),
    bias_init=nn.with_logical_partitioning(
      nn.initializers.zeros_init(), axes[-1:]
    ),
    name=name,
  )


def group_norm(
  num_groups: int, *, name: str | None, dtype: DTypeLike
) -> nn.GroupNorm:
  """Group norm with learned scale and bias; its statistics are float32."""
  return nn.GroupNorm(
    num_groups=num_groups,
    epsilon=1e-6,
    dtype=dtype,
    param_dtype=jnp.float32,
    # E[x^2] - E[x]^2 loses digits where a group's mean is large.
    use_fast_variance=False,
    scale_init=nn.with_logical_partitioning(
      nn.initializers.ones_init(), ("width",)
    ),
    bias_init=nn.with_logical_partitioning(
      nn.initializers.zeros_init(), ("width",)
    ),
    name=name,
  )


def _spread(x: _Image) -> _Image:
  """Splits the examples over all devices, which hold the same weights."""
  return constrain(x, "images", None, None, "width")


class ResnetBlock(nn.Module):
  """Norm, SiLU and a 3 x 3 convolution, twice; added to the input.

  Attributes:
    width: output channels; if the input has another number of channels, it
      passes a 1 x 1 convolution, `shortcut`.
    num_groups: groups of the norms.
    dtype: dtype of the computation.
  """

  width: int
  num_groups: int
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(
    self, x: _Image
  ) -> Float[Array, "batch rows columns new_channels"]:
    hidden = x
    for i in (1, 2):
      norm = group_norm(self.num_groups, name=f"norm_{i}", dtype=self.dtype)
      convolve = _conv(self.width, name=f"conv_{i}", dtype=self.dtype)
      hidden = convolve(nn.silu(norm(hidden)))
    if x.shape[-1] != self.width:
      x = _conv(self.width, side=1, name="shortcut", dtype=self.dtype)(x)
    return _spread(x + hidden)


class PixelAttention(nn.Module):
  """Single-head self-attention over all pixels; added to the input.

  Attributes:
    num_groups: groups of the norm.
    dtype: dtype of the computation.
  """

  num_groups: int
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: _Image) -> _Image:
    batch, rows, columns, width = x.shape
    normed = group_norm(self.num_groups, name="norm", dtype=self.dtype)(x)
    project = linear(
      (3, width), ("embed", "rows", "width"), name="qkv", dtype=self.dtype
    )
    # [batch, pixels, q-k-v, one head, width]
    qkv = project(normed.reshape(batch, rows * columns, width))[:, :, :, None]
    attended = jax.nn.dot_product_attention(
      qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], implementation="xla"
    )
    out = linear(width, ("embed", "width"), name="out", dtype=self.dtype)
    return x + out(attended).reshape(x.shape)


class MiddleBlock(nn.Module):
  """Residual block, attention, residual block, all at the lowest resolution.

  Attributes:
    num_groups: groups of the norms.
    dtype: dtype of the computation.
  """

  num_groups: int
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: _Image) -> _Image:
    args = (x.shape[-1], self.num_groups, self.dtype)
    x = ResnetBlock(*args, name="resnet_0")(x)
    x = PixelAttention(self.num_groups, self.dtype, name="attention")(x)
    return ResnetBlock(*args, name="resnet_1")(x)


class Stage(nn.Module):
  """Residual blocks at one resolution, then half or twice the resolution.

  Attributes:
    width: output channels.
    num_layers: residual blocks.
    num_groups: groups of the norms.
    resample: "down" halves the resolution, "up" doubles it; None keeps it.
    dtype: dtype of the computation.
  """

  width: int
  num_layers: int
  num_groups: int
  resample: Literal["down", "up"] | None
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: _Image) -> _NewImage:
    args = (self.width, self.num_groups, self.dtype)
    for i in range(self.num_layers):
      x = ResnetBlock(*args, name=f"resnet_{i}")(x)
    if self.resample == "down":
      # SD3 pads only below and to the right.
      pad = ((0, 1), (0, 1))
      convolve = _conv(
        self.width, name="downsample", dtype=self.dtype, stride=2, padding=pad
      )
      return convolve(x)
    if self.resample == "up":
      x = x.repeat(2, axis=1).repeat(2, axis=2)
      return _conv(self.width, name="upsample", dtype=self.dtype)(x)
    return x


@dataclasses.dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
  """Shapes of the autoencoder and scale of its latents; defaults are SD3's.

  Attributes:
    image_channels: colours of an image.
    latent_channels: channels of a latent.
    block_widths: channels at each resolution, highest resolution first.
    layers_per_block: residual blocks at each resolution of the encoder; the
      decoder has one more.
    num_groups: groups of every norm; divides all block widths.
    shift: subtracted from latents before the MM-DiT sees them.
    scale: multiplies them after that.
  """

  image_channels: int = 3
  latent_channels: int = 16
  block_widths: tuple[int, ...] = (128, 256, 512, 512)
  layers_per_block: int = 2
  num_groups: int = 32
  shift: float = 0.0609
  scale: float = 1.5305

  def __post_init__(self):
    check_bounds(self, layers_per_block=MAX_DEPTH, num_groups=MAX_WIDTH)
    uneven = [w for w in self.block_widths if w < 1 or w % self.num_groups]
    if uneven or not 1 <= len(self.block_widths) <= 16:
      raise ValueError(
        f"block_widths {self.block_widths} must be 1 to 16 multiples of "
        f"num_groups {self.num_groups}"
      )

  @property
  def downsampling(self) -> int:
    """Side of an image divided by the side of its latents."""
    return 2 ** (len(self.block_widths) - 1)

  def to_network(self, latents: _Latents) -> _Latents:
    """The autoencoder's latents to the MM-DiT's."""
    return (latents - self.shift) * self.scale

  def from_network(self, latents: _Latents) -> _Latents:
    """The MM-DiT's latents to the autoencoder's."""
    return latents / self.scale + self.shift


class Encoder(nn.Module):
  """Images to the moments of their posteriors.

  Attributes:
    config: shapes.
    dtype: dtype of the computation.
  """

  config: AutoencoderConfig
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(
    self, images: _Images
  ) -> Float[Array, "batch rows columns moments"]:
    cfg, dtype = self.config, self.dtype
    widths = cfg.block_widths
    x = _conv(
      widths[0], name="conv_in", dtype=dtype, axes=("channels", "width")
    )(images.astype(dtype))
    for i, width in enumerate(widths):
      x = Stage(
        width=width,
        num_layers=cfg.layers_per_block,
        num_groups=cfg.num_groups,
        resample="down" if i < len(widths) - 1 else None,
        dtype=dtype,
        name=f"down_{i}",
      )(x)
    x = MiddleBlock(cfg.num_groups, dtype, name="middle")(x)
    return _output(x, 2 * cfg.latent_channels, cfg.num_groups, dtype)


class Decoder(nn.Module):
  """The autoencoder's latents to images.

  Attributes:
    config: shapes.
    dtype: dtype of the computation.
  """

  config: AutoencoderConfig
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, latents: _Latents) -> _Images:
    cfg, dtype = self.config, self.dtype
    widths = cfg.block_widths[::-1]
    x = _conv(
      widths[0], name="conv_in", dtype=dtype, axes=("channels", "width")
    )(latents.astype(dtype))
    x = MiddleBlock(cfg.num_groups, dtype, name="middle")(x)
    for i, width in enumerate(widths):
      x = Stage(
        width=width,
        num_layers=cfg.layers_per_block + 1,
        num_groups=cfg.num_groups,
        resample="up" if i < len(widths) - 1 else None,
        dtype=dtype,
        name=f"up_{i}",
      )(x)
    return _output(x, cfg.image_channels, cfg.num_groups, dtype)


def _rounded(
  moments: Float[Array, "*dims"], dtype: str
) -> Float[Array, "*dims"]:
  """Float32 values rounded to `dtype`, so that storing them in it is exact.

  A bfloat16 computation may keep more digits up to the next float32 operation,
  and XLA removes a cast there and back.
  """
  info = jnp.finfo(dtype)
  return jax.lax.reduce_precision(
    moments.astype(jnp.float32), info.nexp, info.nmant
  )


def _output(x: _Image, channels: int, num_groups: int, dtype) -> _NewImage:
  """Norm, SiLU, convolution: the end of the encoder and of the decoder."""
  x = nn.silu(group_norm(num_groups, name="norm_out", dtype=dtype)(x))
  convolve = _conv(
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

  def __call__(self, images: _Images) -> _Images:
    """Reconstructs images from the means of their posteriors."""
    return self.decode(self.config.to_network(self.encode(images).mean))

  def encode(self, images: _Images) -> Posterior:
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
    moments = _rounded(self.encoder(_spread(images)), self.dtype)
    mean, logvar = jnp.split(moments, 2, axis=-1)
    return Posterior(mean=mean, logvar=jnp.clip(logvar, -30.0, 20.0))

  def decode(self, latents: _Latents) -> _Images:
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
    return self.decoder(_spread(latents)).astype(jnp.float32)


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
    parameter_dtype: dtype of the stored parameters, of the same two.

  Raises:
    ValueError: another dtype, such as float16.
  """
  checked_dtype(dtype)
  side = config.downsampling
  images = jax.ShapeDtypeStruct((1, side, side, config.image_channels), "f4")
  return PureModule(
    module=Autoencoder(config, dtype),
    example_inputs=(images,),
    parameter_dtype=parameter_dtype,
  )
