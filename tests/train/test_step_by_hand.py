"""Whole steps of a linear model by hand; the real one's memory and layout."""

import contextlib
import functools
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddit_jax.batch import DualBatch, ImageToTextBatch, TextToImageBatch
from ddit_jax.data.pixel_codec import PixelCodec
from ddit_jax.diffusion.flow_matching import FlowMatching
from ddit_jax.experiment.model import DualModel
from ddit_jax.losses.dual import DualLoss
from ddit_jax.models.config import size
from ddit_jax.models.module import Network
from ddit_jax.prng import key_for
from ddit_jax.sharding.mesh import MeshConfig
from ddit_jax.train.loop import TrainConfig
from ddit_jax.train.optimizer import OptimizerConfig
from ddit_jax.train.state import TrainState, abstract_state, state_shardings
from ddit_jax.train.step import TrainStep
from tests.train.adamw_by_hand import adamw_by_hand

VOCAB, LENGTH, BATCH, NUM_STEPS = 6, 5, 8, 3
MASK = VOCAB - 1
TEXT_WEIGHT, LARGEST_DECAY = 0.7, 0.15
SETTINGS = OptimizerConfig(
  ema_decay=LARGEST_DECAY,
  learning_rate=0.05,
  warmup_steps=1,
  weight_decay=0.1,
  clip_norm=0.2,
)
NULL_TOKENS = np.full(LENGTH, 1, np.int32)
FROZEN = {"vae": {"gain": np.float32(0.8)}}


class LinearModel:
  """velocity = scale * x + time * sigma; logits = table[token] + tint * x̄."""

  mask_id = MASK
  has_mask_embedding = False

  def encode(self, variables, images, key):
    del key  # A posterior without spread.
    return variables["vae"]["gain"] * PixelCodec().encode(images)

  def condition(self, variables, tokens, is_text_clean=False):
    return tokens

  def predict(self, variables, latents, tokens, sigma, has_image=None):
    p = variables["network"]["params"]
    sigma = sigma[:, None, None, None]
    mean = latents.mean((1, 2, 3))[:, None, None]
    return types.SimpleNamespace(
      velocity=p["scale"] * latents + p["time"] * sigma,
      logits=p["table"][tokens] + p["tint"][None, None] * mean,
    )

  def text_logits(self, variables, text_hidden):
    raise NotImplementedError("`predict` gives all logits")


def gradients_by_hand(params, corrupted):
  """Derivatives of the dual loss, example by example, in float64."""
  images = jax.tree.map(lambda x: np.asarray(x, np.float64), corrupted.images)
  texts = corrupted.texts
  grads = {k: np.zeros(v.shape) for k, v in params.items()}
  for i in range(BATCH):
    x, sigma = images.latents[i], images.sigma[i]
    error = params["scale"] * x + params["time"] * sigma - images.velocity[i]
    grads["scale"] += images.weight[i] * (2 * error * x).mean()
    grads["time"] += images.weight[i] * (2 * error * sigma).mean()
    mean = np.asarray(texts.latents[i], np.float64).mean()
    for j in np.flatnonzero(texts.is_masked[i]):
      token = int(texts.tokens[i, j])
      assert token == MASK
      logits = params["table"][token] + params["tint"] * mean
      chance = np.exp(logits - logits.max())
      chance[MASK] = 0
      slope = chance / chance.sum()
      slope[texts.clean_tokens[i, j]] -= 1
      slope *= TEXT_WEIGHT * float(texts.weight[i])
      grads["table"][token] += slope
      grads["tint"] += slope * mean
  return grads


def first_params():
  draw = np.random.default_rng(0)
  shapes = {"scale": (), "time": (), "table": (VOCAB, VOCAB), "tint": (VOCAB,)}
  return {k: draw.normal(size=s).astype("f4") for k, s in shapes.items()}


def host_batch(step: int) -> DualBatch:
  draw = np.random.default_rng(100 + step)
  images = draw.integers(0, 256, (2, BATCH, 4, 4, 3), dtype=np.uint8)
  tokens = draw.integers(0, MASK, (2, BATCH, LENGTH)).astype(np.int32)
  loss_mask = draw.random((BATCH, LENGTH)) < 0.7
  return DualBatch(
    TextToImageBatch(images[0], tokens[0]),
    ImageToTextBatch(images[1], tokens[1], loss_mask),
  )


def train_step(num_microbatches: int, model) -> TrainStep:
  return TrainStep(
    model=model,
    loss=DualLoss(
      flow_matching=FlowMatching(loss_weighting="sigma_squared"),
      text_weight=TEXT_WEIGHT,
    ),
    optimizer=SETTINGS,
    train=TrainConfig(
      num_steps=NUM_STEPS,
      num_microbatches=num_microbatches,
    ),
    seed=0,
  )


def first_state(step: TrainStep) -> TrainState:
  params = jax.tree.map(jnp.asarray, first_params())
  return TrainState(
    step=jnp.int32(0),
    num_skipped=jnp.int32(0),
    num_skipped_in_row=jnp.int32(0),
    params=params,
    ema=jax.tree.map(jnp.copy, params),
    opt_state=step.chain.init(params),
    constants={},
    frozen=FROZEN,
  )


@pytest.mark.parametrize("num_microbatches", [1, 4])
def test_three_steps_equal_those_by_hand(num_microbatches):
  step = train_step(num_microbatches, LinearModel())
  root = key_for(jax.random.key(0), "training")
  corrupt = jax.jit(
    functools.partial(
      step.loss.corrupt,
      model=step.model,
      variables=FROZEN,
      null_tokens=NULL_TOKENS,
    )
  )
  run = jax.jit(step)
  state = first_state(step)
  by_hand, averages = first_params(), first_params()
  gradients, norms = [], []
  for i in range(NUM_STEPS):
    batch = host_batch(i)
    corrupted = corrupt(batch, root, jnp.int32(i))
    gradients.append(gradients_by_hand(by_hand, corrupted))
    state, metrics = run(state, batch, NULL_TOKENS)
    norm = np.sqrt(sum(np.square(g).sum() for g in gradients[-1].values()))
    norms.append(norm)
    # Measured relative errors up to 4.9e-7.
    assert float(metrics["grad_norm"]) == pytest.approx(norm, rel=2e-6)
    by_hand = adamw_by_hand(first_params(), gradients, SETTINGS, set(by_hand))
    decay = min(LARGEST_DECAY, (1 + i) / (10 + i))
    averages = {
      k: decay * averages[k] + (1 - decay) * by_hand[k] for k in by_hand
    }
  assert int(state.step) == NUM_STEPS
  assert state.frozen["vae"]["gain"] == FROZEN["vae"]["gain"]
  assert min(norms) < SETTINGS.clip_norm < max(norms)
  for name in by_hand:
    # Measured 7.5e-7 after changes of up to 0.1: Adam's bias correction
    # 1 - 0.999 ** n has few digits in float32.
    np.testing.assert_allclose(state.params[name], by_hand[name], atol=5e-6)
    np.testing.assert_allclose(state.ema[name], averages[name], atol=5e-6)


@functools.cache
def lowered(has_mesh: bool):
  """(text, state's arrays) of the real network's step, not compiled."""
  network = Network(
    size("tiny", depth=2, width=32, vocab_size=VOCAB, max_text_length=LENGTH)
  )
  step = train_step(2, DualModel(network=network, mask_id=MASK))
  mesh = MeshConfig(fsdp=4, tensor=2).make()
  layout = state_shardings(network, step.chain, mesh)
  state = abstract_state(network, step.chain, layout)
  batch = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), host_batch(0)
  )
  run = jax.jit(step, donate_argnums=0, out_shardings=(layout, None))
  null = jax.ShapeDtypeStruct(NULL_TOKENS.shape, NULL_TOKENS.dtype)
  with jax.set_mesh(mesh) if has_mesh else contextlib.nullcontext():
    return run.lower(state, batch, null).as_text(), jax.tree.leaves(state)


def test_every_array_of_the_state_is_written_over_by_its_successor():
  """Shape, dtype or layout would else be another one after the step."""
  text, leaves = lowered(True)
  assert text.count("tf.aliasing_output") == len(leaves)


def test_activations_are_pinned_under_a_mesh_and_only_there():
  text, _ = lowered(True)
  pins = set(re.findall(r"sdy\.sharding_constraint .*: tensor<(\S+)>", text))
  # Both streams' tokens, q/k/v and MLP: 1 patch, 5 words, 4 examples a part.
  streams = {
    f"4x{tokens}x{rest}xf32"
    for tokens in (1, LENGTH)
    for rest in ("32", "3x4x8", "128")
  }
  # The split batch: latents, numbers, ids and masks of both streams.
  parts = {"2x4x4x4x3xf32", "2x4xf32", "2x4x5xi32", "2x4x5xi1"}
  # adaLN's rows of the blocks and of the image head, and the logits.
  others = {"4x6x32xf32", "4x2x32xf32", f"4x{LENGTH}x{VOCAB}xf32"}
  assert pins == streams | parts | others
  assert "sdy.sharding_constraint" not in lowered(False)[0]
