"""The network between its encoders: sizes, parts, and what goes through."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from ddit_jax.encoders.t5 import T5Config, t5_encoder
from ddit_jax.encoders.vae import AutoencoderConfig, autoencoder
from ddit_jax.experiment.model import DualModel
from ddit_jax.models.config import MMDiTConfig
from ddit_jax.models.module import Network
from ddit_jax.sharding.mesh import MeshConfig

SIZE = {"depth": 1, "width": 16, "num_heads": 2, "max_grid": 4, "vocab_size": 8}
ON_PIXELS = DualModel(
  network=Network(
    MMDiTConfig(**SIZE, latent_channels=3, context_dim=None, max_text_length=6)
  )
)
# Halves both sides of an image.
AUTOENCODER = autoencoder(
  AutoencoderConfig(
    latent_channels=4, block_widths=(4, 8), layers_per_block=1, num_groups=4
  )
)
TEXT_ENCODER = t5_encoder(
  T5Config(
    depth=1, width=8, num_heads=2, head_dim=4, mlp_width=8, vocab_size=16
  ),
  parameter_dtype="bfloat16",
)
ENCODED = DualModel(
  network=Network(MMDiTConfig(**SIZE, latent_channels=4, context_dim=8)),
  text_encoder=TEXT_ENCODER,
  autoencoder=AUTOENCODER,
)


def zeros_of(part):
  return jax.tree.map(
    lambda leaf: np.zeros(leaf.shape, "f4"), part.abstract_variables()
  )


def test_absent_encoders_are_no_parts():
  assert ON_PIXELS.parts() == {"network": ON_PIXELS.network}
  parts = ENCODED.parts()
  assert parts["text_encoder"] is TEXT_ENCODER
  assert parts["vae"] is AUTOENCODER
  assert sorted(parts) == ["network", "text_encoder", "vae"]


@pytest.mark.parametrize(
  ("model", "image", "latents"),
  [
    (ON_PIXELS, (4, 8), (4, 8, 3)),
    (ON_PIXELS, (2, 2), (2, 2, 3)),
    (ENCODED, (16, 8), (8, 4, 4)),
    (ENCODED, (4, 4), (2, 2, 4)),
  ],
)
def test_latents_have_the_autoencoders_shape(model, image, latents):
  assert model.latent_shape(*image) == latents


@pytest.mark.parametrize(
  ("model", "image", "message"),
  [
    (ON_PIXELS, (3, 4), "3 x 4 pixels .* multiples of 2"),
    (ON_PIXELS, (4, 7), "4 x 7 pixels .* multiples of 2"),
    (ENCODED, (8, 6), "8 x 6 pixels .* multiples of 4"),
    (ENCODED, (0, 8), "0 x 8 pixels .* multiples of 4"),
    (ON_PIXELS, (8, 10), "8 x 10 pixels are too large: .* ends at 8"),
    (ENCODED, (20, 16), "20 x 16 pixels are too large: .* ends at 16"),
  ],
)
def test_images_that_patches_cannot_cover_are_refused(model, image, message):
  with pytest.raises(ValueError, match=message):
    model.latent_shape(*image)


def test_tokens_go_through_without_a_text_encoder():
  tokens = jnp.asarray([[1, 7, 0]])
  assert ON_PIXELS.condition({}, tokens) is tokens


def test_a_text_encoder_turns_tokens_into_features():
  """With blocks that add nothing: the normed rows of the table."""
  variables = zeros_of(TEXT_ENCODER)
  table = np.random.default_rng(0).normal(size=(16, 8)).astype("f4")
  variables["params"]["token_embedding"] = table
  variables["params"]["final_norm"]["scale"] = np.ones(8, "f4")
  tokens = np.array([[3, 0], [15, 3]])
  features = ENCODED.condition({"text_encoder": variables}, jnp.asarray(tokens))
  rows = table[tokens].astype(np.float64)
  want = rows / np.sqrt(np.square(rows).mean(-1, keepdims=True))
  # Measured 2.3e-6, most of it epsilon.
  np.testing.assert_allclose(features, want, atol=1e-5)


def test_pixels_survive_scaling_and_decoding():
  pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
  latents = pixels.astype("f4") / 127.5 - 1
  decoded = ON_PIXELS.decode({}, jnp.asarray(latents))
  assert decoded.dtype == jnp.uint8
  np.testing.assert_array_equal(decoded, pixels)
  beyond = jnp.asarray([-7.0, 1.5, 9.0]).reshape(1, 1, 1, 3)
  assert ON_PIXELS.decode({}, beyond).ravel().tolist() == [0, 255, 255]


def test_an_autoencoder_decodes_latents_to_pixels():
  """With a decoder of zeros but for its last bias: a picture of one colour."""
  variables = zeros_of(AUTOENCODER)
  last = variables["params"]["decoder"]["conv_out"]
  last["bias"] = np.array([-1.0, 0.2, 3.0], "f4")
  latents = jnp.ones((2, 4, 2, 4))
  decoded = np.asarray(jax.jit(ENCODED.decode)({"vae": variables}, latents))
  assert decoded.shape == (2, 8, 4, 3) and decoded.dtype == np.uint8
  assert np.unique(decoded.reshape(-1, 3), axis=0).tolist() == [[0, 153, 255]]


def test_all_parts_are_laid_out_on_the_mesh():
  mesh = MeshConfig(fsdp=4, tensor=2).make()
  variables = ENCODED.abstract_variables(mesh)
  assert sorted(variables) == ["network", "text_encoder", "vae"]
  for leaf in jax.tree.leaves(variables):
    assert isinstance(leaf, jax.ShapeDtypeStruct)
    assert isinstance(leaf.sharding, NamedSharding)
    assert leaf.sharding.mesh == mesh
  # Layers, width in, (q, k, v), heads, head_dim.
  spec = PartitionSpec(None, ("fsdp",), None, ("tensor",), None)
  image = variables["network"]["params"]["blocks"]["image"]
  assert image["qkv"]["kernel"].sharding.spec == spec
  t5 = variables["text_encoder"]["params"]
  assert t5["blocks"]["qkv"]["kernel"].sharding.spec == spec
  table = t5["token_embedding"]
  assert table.sharding.spec == PartitionSpec(("tensor",), ("fsdp",))
  assert table.sharding.shard_shape(table.shape) == (8, 2)
  assert {leaf.dtype for leaf in jax.tree.leaves(t5)} == {jnp.dtype("bfloat16")}


def test_without_encoders_only_the_network_is_laid_out():
  mesh = MeshConfig(fsdp=8).make()
  variables = ON_PIXELS.abstract_variables(mesh)
  assert sorted(variables) == ["network"]
  assert sorted(variables["network"]) == ["constants", "params"]
