"""All encoders as pure functions: layout, sharded start, sharded run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddit_jax.encoders.clip import CLIPTextConfig, clip_text_encoder
from ddit_jax.encoders.t5 import T5_SIZES, T5Config, t5_encoder
from ddit_jax.encoders.vae import AutoencoderConfig, autoencoder
from ddit_jax.models.module import PureModule
from ddit_jax.sharding.mesh import MeshConfig
from tests.encoders import torch_weights

T5 = T5Config(
  depth=2, width=16, num_heads=4, head_dim=4, mlp_width=24, vocab_size=40
)
CLIP = CLIPTextConfig(
  depth=2,
  width=16,
  num_heads=2,
  mlp_width=24,
  activation="gelu",
  projection_dim=8,
  vocab_size=40,
  max_length=8,
)
VAE = AutoencoderConfig(
  latent_channels=4, block_widths=(8, 16), layers_per_block=1, num_groups=4
)
IDS = np.random.default_rng(0).integers(0, 40, (8, 7))
IMAGES = np.random.default_rng(1).uniform(-1, 1, (8, 4, 6, 3))
CASES = [
  pytest.param(t5_encoder(T5), IDS, id="t5"),
  pytest.param(clip_text_encoder(CLIP), IDS, id="clip"),
  pytest.param(autoencoder(VAE), IMAGES.astype("f4"), id="vae"),
]


def random_variables(encoder):
  random = np.random.default_rng(2)
  return jax.tree.map(
    lambda leaf: 0.3 * random.normal(size=leaf.shape).astype("f4"),
    encoder.abstract_variables(),
  )


@pytest.mark.parametrize("encoder, inputs", CASES)
def test_sharded_run_equals_one_device(encoder, inputs):
  inputs, variables = jnp.asarray(inputs), random_variables(encoder)
  apply = jax.jit(encoder.apply)
  want = apply(variables, inputs)
  mesh = MeshConfig(fsdp=4, tensor=2).make()
  with jax.set_mesh(mesh):
    placed = jax.device_put(variables, encoder.shardings(mesh))
    got = apply(placed, inputs)
  # Measured 2e-7: sums run in another order.
  assert torch_weights.largest_error(got, want) < 5e-6


def test_sharded_start_equals_one_device():
  encoder, mesh = t5_encoder(T5), MeshConfig(fsdp=4, tensor=2).make()
  key = jax.random.key(3)
  want = jax.jit(encoder.init)(key)
  got = encoder.init_sharded(key, mesh)
  # Measured 2e-7: the compiler fuses differently.
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), got, want
  )
  qkv = got["params"]["blocks"]["qkv"]["kernel"]
  assert qkv.shape == (2, 16, 3, 4, 4)
  assert qkv.sharding.shard_shape(qkv.shape) == (2, 4, 3, 2, 4)


def test_t5_xxl_splits_evenly_over_eight_devices():
  encoder = t5_encoder(T5_SIZES["xxl"], parameter_dtype="bfloat16")
  rows = encoder.placements(MeshConfig(fsdp=4, tensor=2).make())
  assert not [row.path for row in rows if row.is_refused]
  total = 2 * encoder.num_parameters()
  share = sum(row.bytes_per_device for row in rows)
  # Only the norms and the position bias are not split eight ways.
  assert total / 8 < share < 1.001 * total / 8


def test_parameters_are_counted_and_kept_in_the_given_dtype():
  encoder = t5_encoder(T5, parameter_dtype="bfloat16")
  qkv, out = 16 * 3 * 16, 16 * 16
  mlp, norms = 3 * 16 * 24, 2 * 16
  want = 2 * (qkv + out + mlp + norms) + 40 * 16 + 32 * 4 + 16
  assert encoder.num_parameters() == want
  abstract = encoder.abstract_variables()
  assert {x.dtype for x in jax.tree.leaves(abstract)} == {jnp.dtype("bfloat16")}
  with pytest.raises(ValueError, match="got 'int8'"):
    PureModule(module=encoder.module, example_inputs=(), parameter_dtype="int8")
