"""T5 with int8 kernels against the same T5 with the kernels they stand for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddit_jax.encoders.int8 import quantised, quantised_like
from ddit_jax.encoders.t5 import T5Config, t5_encoder

CONFIG = T5Config(
  depth=3, width=24, num_heads=3, head_dim=16, mlp_width=40, vocab_size=60
)
IDS = np.random.default_rng(3).integers(0, 60, (2, 7)).astype(np.int32)
FLOATS, INT8 = t5_encoder(CONFIG), t5_encoder(CONFIG, has_int8_kernels=True)


@pytest.fixture(scope="module")
def variables():
  return jax.jit(FLOATS.init)(jax.random.key(0))


def dequantised(tree):
  """float64 kernels of int8 ones, by broadcasting each scale by hand."""
  if not isinstance(tree, dict):
    return tree
  if tree.keys() != {"kernel", "scale"}:
    return {name: dequantised(part) for name, part in tree.items()}
  kernel, scale = np.float64(tree["kernel"]), np.float64(tree["scale"])
  while scale.ndim < kernel.ndim:
    scale = np.expand_dims(scale, 1)
  return {"kernel": (kernel * scale).astype(np.float32)}


@pytest.mark.parametrize("num_inputs", [1, 2])
def test_each_weight_is_within_half_a_step_of_its_output(num_inputs):
  kernel = np.random.default_rng(0).normal(size=(2, 5, 6, 4))
  kernel = kernel.astype(np.float32)
  kernel[1, ..., 3] = 0
  ints, scale = quantised(jnp.asarray(kernel), 1, num_inputs)
  assert ints.dtype == jnp.int8
  for layer in range(2):
    for output in np.ndindex(kernel.shape[1 + num_inputs :]):
      where = (layer, *(slice(None),) * num_inputs, *output)
      largest = np.abs(kernel[where]).max()
      step = largest / 127 if largest else 1.0
      np.testing.assert_allclose(scale[(layer, *output)], step, rtol=1e-6)
      error = np.abs(np.float64(ints[where]) * step - kernel[where])
      # Rounded in float32.
      assert error.max() <= 0.5001 * step


def test_features_are_those_of_the_kernels_it_stands_for(variables):
  abstract = INT8.abstract_variables()
  small = jax.jit(lambda tree: quantised_like(tree, abstract))(variables)
  assert jax.tree.map(lambda x: (x.shape, x.dtype), small) == jax.tree.map(
    lambda x: (x.shape, x.dtype), abstract
  )
  got = jax.jit(INT8.apply)(small, IDS)
  same = dequantised(jax.tree.map(np.asarray, small))
  want = jax.jit(FLOATS.apply)(same, IDS)
  # Measured: 1.3e-6.
  np.testing.assert_allclose(got, want, atol=5e-6)


def test_features_differ_little_from_those_of_float_kernels(variables):
  small = quantised_like(variables, INT8.abstract_variables())
  got = jax.jit(INT8.apply)(small, IDS)
  want = jax.jit(FLOATS.apply)(variables, IDS)
  error = np.linalg.norm(got - want) / np.linalg.norm(want)
  # Measured: 1.0 %.
  assert 1e-4 < error < 0.02


def test_random_weights_have_lecuns_variance():
  """For dry runs and benchmarks."""
  params = INT8.init(jax.random.key(0))["params"]["blocks"]["mlp_out"]
  kernel = np.float64(params["kernel"]) * np.float64(params["scale"])[:, None]
  np.testing.assert_allclose(kernel.var() * CONFIG.mlp_width, 1, rtol=0.1)
