"""The one attention function; its kernel is chosen here and nowhere else."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

KERNELS = ("auto", "xla", "cudnn")


def attend(
  query: Float[Array, "batch queries heads head_dim"],
  key: Float[Array, "batch keys heads head_dim"],
  value: Float[Array, "batch keys heads head_dim"],
  *,
  is_key: Bool[Array, "batch keys"] | None = None,
  kernel: str = "auto",
) -> Float[Array, "batch queries heads head_dim"]:
  """Softmax attention, scaled by 1 / sqrt(head_dim).

  Over all keys, or over those where `is_key` is True. The softmax is float32
  whatever the inputs are. "auto" takes cuDNN's fused kernel for half-precision
  inputs on NVIDIA GPUs and XLA's elsewhere.

  Raises:
    ValueError: the kernel has no such name.
  """
  if kernel not in KERNELS:
    raise ValueError(f"unknown attention kernel {kernel!r}; use {KERNELS}")
  if kernel == "auto":
    is_half = query.dtype in (jnp.bfloat16, jnp.float16)
    is_gpu = jax.default_backend() == "gpu"
    kernel = "cudnn" if is_half and is_gpu else "xla"
  mask = None if is_key is None else is_key[:, None, None, :]
  return jax.nn.dot_product_attention(
    query, key, value, mask=mask, implementation=kernel
  )
