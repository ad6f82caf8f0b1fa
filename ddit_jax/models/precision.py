"""The number formats that the encoders may compute and be stored in."""

import jax.numpy as jnp

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
