"""The parts of SD3's image autoencoder, channels last."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ddit_jax.models.layers import linear
from ddit_jax.sharding.rules import constrain

Image = Float[Array, "batch rows columns channels"]
# Of another resolution or with another number of channels.
NewImage = Float[Array, "batch new_rows new_columns new_channels"]
EPSILON = 1e-6


def conv(
  features: int,
  *,
  name: str,
  dtype,
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


def group_norm(num_groups: int, *, name: str, dtype) -> nn.GroupNorm:
  """Group norm with learned scale and bias; its statistics are float32."""
  return nn.GroupNorm(
    num_groups=num_groups,
    epsilon=EPSILON,
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


class ResnetBlock(nn.Module):
  """Twice norm, SiLU, 3 x 3 convolution; added to the input.

  Attributes:
    width: output channels; the input passes a 1 x 1 convolution, `shortcut`,
      if it has another number of them.
    num_groups: groups of the norms.
    dtype: dtype of the computation.
  """

  width: int
  num_groups: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: Image
  ) -> Float[Array, "batch rows columns new_channels"]:
    hidden = x
    for i in (1, 2):
      norm = group_norm(self.num_groups, name=f"norm_{i}", dtype=self.dtype)
      convolve = conv(self.width, name=f"conv_{i}", dtype=self.dtype)
      hidden = convolve(nn.silu(norm(hidden)))
    if x.shape[-1] != self.width:
      x = conv(self.width, side=1, name="shortcut", dtype=self.dtype)(x)
    return constrain(x + hidden, "batch", None, None, "width")


class PixelAttention(nn.Module):
  """Single-head self-attention over all pixels; added to the input.

  Attributes:
    num_groups: groups of the norm.
    dtype: dtype of the computation.
  """

  num_groups: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Image) -> Image:
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
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Image) -> Image:
    settings = (x.shape[-1], self.num_groups, self.dtype)
    x = ResnetBlock(*settings, name="resnet_0")(x)
    x = PixelAttention(self.num_groups, self.dtype, name="attention")(x)
    return ResnetBlock(*settings, name="resnet_1")(x)


class DownBlock(nn.Module):
  """Residual blocks, then half the resolution unless it is the last one.

  Attributes:
    width: output channels.
    num_layers: residual blocks.
    num_groups: groups of the norms.
    has_downsample: whether the resolution is halved.
    dtype: dtype of the computation.
  """

  width: int
  num_layers: int
  num_groups: int
  has_downsample: bool
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Image) -> NewImage:
    settings = (self.width, self.num_groups, self.dtype)
    for i in range(self.num_layers):
      x = ResnetBlock(*settings, name=f"resnet_{i}")(x)
    if not self.has_downsample:
      return x
    downsample = conv(
      self.width,
      name="downsample",
      dtype=self.dtype,
      stride=2,
      # SD3 pads below and to the right only.
      padding=((0, 1), (0, 1)),
    )
    return downsample(x)


class UpBlock(nn.Module):
  """Residual blocks, then twice the resolution unless it is the last one.

  Attributes:
    width: output channels.
    num_layers: residual blocks.
    num_groups: groups of the norms.
    has_upsample: whether pixels are doubled and convolved.
    dtype: dtype of the computation.
  """

  width: int
  num_layers: int
  num_groups: int
  has_upsample: bool
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Image) -> NewImage:
    settings = (self.width, self.num_groups, self.dtype)
    for i in range(self.num_layers):
      x = ResnetBlock(*settings, name=f"resnet_{i}")(x)
    if not self.has_upsample:
      return x
    x = x.repeat(2, axis=1).repeat(2, axis=2)
    return conv(self.width, name="upsample", dtype=self.dtype)(x)
