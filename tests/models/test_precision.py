"""Which number formats the encoders take."""

import jax.numpy as jnp
import pytest

from ddit_jax.models.layers import checked_dtype


def test_both_formats_are_taken():
  assert checked_dtype("float32") == jnp.float32
  assert checked_dtype("bfloat16") == jnp.bfloat16


@pytest.mark.parametrize("name", ["float16", "float64", "fp32", ""])
def test_others_are_refused_with_the_way_out(name):
  with pytest.raises(ValueError, match="bfloat16"):
    checked_dtype(name)
