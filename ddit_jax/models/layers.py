"""Linear layers and norms whose parameters carry logical axis names."""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Shaped

from ddit_jax.sharding.rules import constrain


def linear(
  features: int | tuple[int, ...],
  axes: tuple[str | None, ...],
  *,
  name: str,
  dtype: DTypeLike = jnp.float32,
  axis: int | tuple[int, ...] = -1,
  kernel_init=None,
  bias_init=None,
  use_bias: bool = True,
  product: Callable | None = None,
) -> nn.DenseGeneral:
  """A linear map with float32 parameters and named kernel dimensions.

  Args:
    features: output size(s).
    axes: a logical axis name per kernel dimension, inputs first.
    name: name of the module in the parameter tree.
    dtype: dtype of the computation.
    axis: the input dimension(s) that are contracted.
    kernel_init: default lecun-normal over the inputs.
    bias_init: default zeros.
    use_bias: whether there is a bias.
    product: in place of `jax.lax.dot_general`.
  """
  kernel_init = kernel_init or nn.initializers.lecun_normal()
  bias_init = bias_init or nn.initializers.zeros_init()
  num_outputs = 1 if isinstance(features, int) else len(features)
  return nn.DenseGeneral(
    features=features,
    axis=axis,
    use_bias=use_bias,
    dtype=dtype,
    param_dtype=jnp.float32,
    kernel_init=nn.with_logical_partitioning(kernel_init, axes),
    bias_init=nn.with_logical_partitioning(bias_init, axes[-num_outputs:]),
    name=name,
    dot_general=product,
  )


class LinearToHeads(nn.Module):
  """A linear map to rows of heads: queries, keys and values.

  Parameters and results have a dimension of heads and one of their features.

  Attributes:
    features: rows, heads, features of a head.
    dtype: dtype of the computation.
    merges_heads: whether the product has one dimension for both, as the kernel
      of short sequences reads them: it fills the lanes of a TPU's registers,
      where 64 features alone fill half of them.
  """

  features: tuple[int, int, int]
  dtype: DTypeLike = jnp.float32
  merges_heads: bool = False

  @nn.compact
  def __call__(
    self, tokens: Float[Array, "batch tokens width"]
  ) -> Float[Array, "batch tokens rows heads head_dim"]:
    width, (rows, *heads) = tokens.shape[-1], self.features
    init = nn.initializers.lecun_normal()

    def kernel_init(key, shape, dtype):
      return init(key, (width, math.prod(self.features)), dtype).reshape(shape)

    axes = ("embed", "rows", "heads", "head_dim")
    kernel = self.param(
      "kernel",
      nn.with_logical_partitioning(kernel_init, axes),
      (width, *self.features),
      jnp.float32,
    )
    tokens, kernel = nn.dtypes.promote_dtype(tokens, kernel, dtype=self.dtype)
    last = (-1,) if self.merges_heads else tuple(heads)
    result = jax.lax.dot_general(
      tokens, kernel.reshape(width, rows, *last), (((2,), (0,)), ((), ()))
    )
    bias = self.param(
      "bias",
      nn.with_logical_partitioning(nn.initializers.zeros_init(), axes[1:]),
      self.features,
      jnp.float32,
    )
    result += bias.astype(result.dtype).reshape(1, 1, rows, *last)
    return result.reshape(*tokens.shape[:-1], rows, *heads)


def from_heads(heads, kernel, dimension_numbers, precision=None):
  """A `dot_general` over heads and their features, as one dimension."""
  del dimension_numbers
  # Without it a TPU's compiler lays out the gradient by heads, and copies it.
  merged = jax.lax.optimization_barrier(heads.reshape(*heads.shape[:-2], -1))
  return jax.lax.dot_general(
    merged,
    kernel.reshape(-1, kernel.shape[-1]),
    (((heads.ndim - 2,), (0,)), ((), ())),
    precision=precision,
  )


def layer_norm(
  tokens: Float[Array, "batch tokens width"], epsilon: float = 1e-6
) -> Float[Array, "batch tokens width"]:
  """LayerNorm without affine parameters; statistics in float32."""
  x = tokens.astype(jnp.float32)
  centred = x - x.mean(axis=-1, keepdims=True)
  variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
  return (centred / jnp.sqrt(variance + epsilon)).astype(tokens.dtype)


class RMSNorm(nn.Module):
  """Root-mean-square norm over the last dimension, with a learned scale.

  Attributes:
    axis_name: logical name of the scale's dimension.
    epsilon: added to the mean square.
  """

  axis_name: str
  epsilon: float = 1e-6

  @nn.compact
  def __call__(self, x: Float[Array, "*dims"]) -> Float[Array, "*dims"]:
    scale = self.param(
      "scale",
      nn.with_logical_partitioning(
        nn.initializers.ones_init(), (self.axis_name,)
      ),
      (x.shape[-1],),
      jnp.float32,
    )
    y = x.astype(jnp.float32)
    mean_square = jnp.mean(jnp.square(y), axis=-1, keepdims=True)
    y = y / jnp.sqrt(mean_square + self.epsilon)
    return (y * scale.reshape((1,) * (y.ndim - 1) + (-1,))).astype(x.dtype)


def for_products(
  tokens: Float[Array, "batch tokens width"],
) -> Float[Array, "batch tokens width"]:
  """Gathers tokens along `tensor`, which splits the weights to come."""
  return constrain(tokens, "batch", "tokens", "width")


def for_stream(
  tokens: Float[Array, "batch tokens width"],
) -> Float[Array, "batch tokens width"]:
  """Splits tokens along `tensor`, too, since what follows is per token.

  So norms and residual sums are not repeated on the devices of the axis
  (Korthikanti et al. 2022, sequence parallelism).
  """
  return constrain(tokens, "batch", "stream_tokens", "width")


def pad_tokens(
  array: Shaped[Array, "batch tokens *rest"], num_tokens: int
) -> Shaped[Array, "batch padded_tokens *rest"]:
  """Appends tokens of zeros, or of False."""
  missing = num_tokens - array.shape[1]
  widths = [(0, 0), (0, missing)] + [(0, 0)] * (array.ndim - 2)
  return jnp.pad(array, widths) if missing else array


DTYPES = ("float32", "bfloat16")


def checked_dtype(name: str) -> jnp.dtype:
  """The dtype of this name.

  Raises:
    ValueError: it is neither "float32" nor "bfloat16".
  """
  if name == "float16":
    raise ValueError(
      "float16 cannot be used: the residual stream of T5 overflows it; use "
      "bfloat16 or float32"
    )
  if name not in DTYPES:
    raise ValueError(f"dtype must be one of {DTYPES}, got {name!r}")
  return jnp.dtype(name)
