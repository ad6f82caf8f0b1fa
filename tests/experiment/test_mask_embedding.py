"""Training T5's row of the mask: nothing else of T5 takes part."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddit_jax.batch import DualBatch, ImageToTextBatch, TextToImageBatch
from ddit_jax.experiment.model import DualModel
from ddit_jax.experiment.toy_model import ToyModel
from ddit_jax.losses.dual import DualLoss
from ddit_jax.models.config import size
from ddit_jax.models.module import MASK_EMBEDDING, Network
from ddit_jax.sharding.mesh import MeshConfig
from tests.models import oracles

TOY = ToyModel.make()
MASK = TOY.tokenizer.mask_id
MODEL = DualModel(
  network=Network(
    size("toy_sd3", vocab_size=TOY.tokenizer.vocab_size),
    has_mask_embedding=True,
  ),
  text_encoder=TOY.encoder("text_encoder", "float32"),
  autoencoder=TOY.encoder("vae", "float32"),
  mask_id=MASK,
)
TOKENS = jnp.asarray([[2, MASK, 5, MASK], [3, 4, MASK, 6]])


@functools.cache
def variables():
  mesh = MeshConfig().make(jax.devices()[:1])
  frozen = {
    name: TOY.restore(name, part, mesh)
    for name, part in MODEL.parts().items()
    if name != "network"
  }
  network = jax.jit(MODEL.network.init)(jax.random.key(0))
  row = MODEL.frozen_mask_embedding(frozen)
  network["params"][MASK_EMBEDDING] = row
  return {**frozen, "network": network}


@jax.jit
def features(row, table=None):
  now = variables()
  params = {**now["network"]["params"], MASK_EMBEDDING: row}
  now = now | {"network": {**now["network"], "params": params}}
  if table is not None:
    t5 = {**now["text_encoder"]["params"], "token_embedding": table}
    now["text_encoder"] = {"params": t5}
  return MODEL.condition(now, TOKENS)


@jax.jit
def with_table(table):
  """The features of T5 with another table of tokens."""
  t5 = {**variables()["text_encoder"]["params"], "token_embedding": table}
  return MODEL.text_encoder.apply({"params": t5}, TOKENS)


def table_and_row():
  table = variables()["text_encoder"]["params"]["token_embedding"]
  return table, table[MASK]


def test_with_its_own_row_t5_gives_the_same_features():
  table, row = table_and_row()
  np.testing.assert_array_equal(features(row), with_table(table))


def test_another_row_is_what_another_table_would_be():
  table, row = table_and_row()
  moved = row + 0.3
  want = with_table(table.at[MASK].set(moved))
  np.testing.assert_array_equal(features(moved), want)
  assert np.abs(want - features(row)).max() > 1e-3


def test_the_gradient_is_that_of_the_masks_row_of_the_table():
  table, row = table_and_row()
  weights = jax.random.normal(jax.random.key(3), features(row).shape)
  want = jax.grad(lambda t: (with_table(t) * weights).sum())(table)[MASK]
  got = jax.grad(lambda row: (features(row) * weights).sum())(row)
  # Measured: equal, of values up to 7; compilers may differ.
  np.testing.assert_allclose(got, want, atol=1e-4)
  # The table's own row of the mask takes no part any more.
  others = jax.grad(lambda t: (features(row, t) * weights).sum())(table)
  np.testing.assert_array_equal(others[MASK], 0)


def test_a_clean_text_does_not_move_the_row():
  def of_row(row):
    now = variables()
    params = {**now["network"]["params"], MASK_EMBEDDING: row}
    now = now | {"network": {**now["network"], "params": params}}
    return MODEL.condition(now, TOKENS, is_text_clean=True).sum()

  gradient = jax.jit(jax.grad(of_row))(table_and_row()[1])
  np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("are_captions_cached", [False, True])
def test_merged_tasks_train_the_row_as_separate_ones(are_captions_cached):
  draw = np.random.default_rng(0)
  pixels = draw.integers(0, 256, (2, 2, 16, 16, 3), dtype=np.uint8)
  pixels = jnp.asarray(pixels)
  captions = jnp.asarray([[2, 3, 5, 4], [3, 4, 5, 6]])
  features = None
  if are_captions_cached:
    clean = functools.partial(MODEL.condition, is_text_clean=True)
    features = jax.jit(clean)(variables(), captions)
  batch = DualBatch(
    TextToImageBatch(pixels[0], captions, features),
    ImageToTextBatch(pixels[1], captions, jnp.ones((2, 4), bool)),
  )

  network = variables()["network"]
  params = oracles.randomised(network["params"], seed=1, scale=0.1)
  drawn = variables() | {"network": {**network, "params": params}}

  def results(is_merged):
    loss = DualLoss(is_merged=is_merged)

    def total(row, now):
      corrupted = loss.corrupt(
        *(batch, jax.random.key(0), jnp.int32(0)),
        model=MODEL,
        variables=now,
        null_tokens=jnp.ones(4, jnp.int32),
      )
      params = {**now["network"]["params"], MASK_EMBEDDING: row}
      now = now | {"network": {**now["network"], "params": params}}
      return loss.total(loss.losses(MODEL, now, corrupted)[0])

    return jax.jit(jax.value_and_grad(total))(table_and_row()[1], drawn)

  (want, want_gradient), (got, gradient) = results(False), results(True)
  # Measured 1e-7 and 4e-7.
  np.testing.assert_allclose(got, want, rtol=1e-6)
  largest = np.abs(want_gradient).max()
  assert largest > 0
  np.testing.assert_allclose(gradient, want_gradient, atol=5e-6 * largest)


def test_only_the_row_is_added_to_the_parameters():
  without = Network(MODEL.network.config)
  want = {MASK_EMBEDDING, *without.abstract_variables()["params"]}
  assert MODEL.network.abstract_variables()["params"].keys() == want
  more = MODEL.network.num_parameters() - without.num_parameters()
  assert more == MODEL.network.config.context_dim


def test_a_network_with_a_row_is_another_network():
  """Else jit would take one's compiled program for the other."""
  without = Network(MODEL.network.config)
  assert without != MODEL.network
  again = Network(MODEL.network.config, has_mask_embedding=True)
  assert again == MODEL.network and hash(again) == hash(MODEL.network)
