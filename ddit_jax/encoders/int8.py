"""Linear maps whose kernels are kept as int8: half of bfloat16's memory.

Each output of a kernel has a float32 scale, its largest absolute weight divided
by 127 (absmax quantisation by channel; Dettmers et al. 2022, section 2). Inputs
are not quantised. Only frozen weights can be kept so.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int8, Shaped

_LARGEST = 127


class Int8Linear(nn.Module):
  """A linear map without a bias; its kernel is read as int8 * scale.

  Attributes:
    features: output sizes.
    axis: the input dimensions that are contracted, counted from the end.
    axes: a logical axis name per kernel dimension, inputs first.
    dtype: of the computation.
  """

  features: tuple[int, ...]
  axis: tuple[int, ...]
  axes: tuple[str | None, ...]
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Shaped[Array, "*dims"]) -> Shaped[Array, "*outputs"]:
    inputs = tuple(x.shape[axis] for axis in self.axis)
    kernel = self.param(
      "kernel",
      nn.with_logical_partitioning(_random_int8, self.axes),
      (*inputs, *self.features),
    )
    scale = self.param(
      "scale",
      nn.with_logical_partitioning(
        # Variance 1 / inputs, as in Lecun's initialisation.
        nn.initializers.constant((3 / jnp.array(inputs).prod()) ** 0.5 / 127),
        self.axes[len(inputs) :],
      ),
      self.features,
      jnp.float32,
    )
    contracted = tuple(axis % x.ndim for axis in self.axis)
    y = jax.lax.dot_general(
      x.astype(self.dtype),
      # Exact in bfloat16. Compilers convert it where the product reads it.
      kernel.astype(self.dtype),
      ((contracted, tuple(range(len(inputs)))), ((), ())),
    )
    scale = scale.astype(self.dtype)
    return y * scale.reshape((1,) * (y.ndim - scale.ndim) + scale.shape)


def quantised(
  kernel: Float[Array, "*dims"], num_stacked: int, num_inputs: int
) -> tuple[Int8[Array, "*dims"], Float[Array, "*scales"]]:
  """(int8 kernel, float32 scales): kernel = int8 * scale, to half a scale.

  Args:
    kernel: [stacked, inputs, outputs].
    num_stacked: leading dimensions of separate kernels, such as layers.
    num_inputs: dimensions after these that are contracted.
  """
  kernel = kernel.astype(jnp.float32)
  inputs = tuple(range(num_stacked, num_stacked + num_inputs))
  largest = jnp.max(jnp.abs(kernel), axis=inputs, keepdims=True)
  # A kernel of zeros has any scale.
  scale = jnp.where(largest == 0, 1.0, largest / _LARGEST)
  return jnp.round(kernel / scale).astype(jnp.int8), jnp.squeeze(scale, inputs)


def quantised_like(variables: Any, abstract: Any) -> Any:
  """Variables of float kernels in the form of a module with `Int8Linear`.

  Args:
    variables: with "kernel" where `abstract` has "kernel" and "scale".
    abstract: shapes of the module's variables; kernels of a scan are stacked
      along their first dimension.
  """
  if not isinstance(abstract, dict):
    return variables
  if abstract.keys() != {"kernel", "scale"}:
    return {
      name: quantised_like(variables[name], part)
      for name, part in abstract.items()
    }
  num_outputs = abstract["scale"].ndim - 1
  kernel, scale = quantised(
    variables["kernel"], 1, variables["kernel"].ndim - 1 - num_outputs
  )
  return {"kernel": kernel, "scale": scale}


def _random_int8(key, shape) -> Int8[Array, "*dims"]:
  return jax.random.randint(key, shape, -_LARGEST, _LARGEST + 1, jnp.int8)
