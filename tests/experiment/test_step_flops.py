"""A step's operations beside the products that the real step holds."""

import dataclasses

import jax
import numpy as np
import pytest

from ddit_jax.batch import DualBatch, ImageToTextBatch, TextToImageBatch
from ddit_jax.encoders.flops import t5_flops
from ddit_jax.encoders.t5 import T5_SIZES, T5Config, t5_encoder
from ddit_jax.encoders.vae import AutoencoderConfig, autoencoder
from ddit_jax.experiment.model import DualModel
from ddit_jax.experiment.step_flops import training_flops
from ddit_jax.losses.dual import DualLoss
from ddit_jax.models.config import SIZES, MMDiTConfig
from ddit_jax.models.flops import linear_flops
from ddit_jax.models.module import Network
from ddit_jax.planning.traced_flops import traced_flops
from ddit_jax.train.loop import TrainConfig
from ddit_jax.train.optimizer import OptimizerConfig
from ddit_jax.train.state import abstract_state
from ddit_jax.train.step import TrainStep

WIDTH, VOCAB, CONTEXT = 32, 40, 24
ROWS, LENGTH, SIDE, MASK = 4, 6, 16, VOCAB - 1
CONFIG = MMDiTConfig(
  depth=2, width=WIDTH, num_heads=2, context_dim=CONTEXT, vocab_size=VOCAB
)
T5 = T5Config(
  depth=2,
  width=CONTEXT,
  num_heads=2,
  head_dim=8,
  mlp_width=40,
  vocab_size=VOCAB,
)
VAE = AutoencoderConfig(block_widths=(32, 32), layers_per_block=1)


def model(has_mask_embedding=False):
  return DualModel(
    network=Network(CONFIG, has_mask_embedding=has_mask_embedding),
    text_encoder=t5_encoder(T5),
    autoencoder=autoencoder(VAE),
    mask_id=MASK,
  )


def shape(*sizes, dtype="i4"):
  return jax.ShapeDtypeStruct(sizes, dtype)


def batch(pictures="u1", features=None):
  """Both streams, with pixels or with moments."""
  images = shape(ROWS, SIDE, SIDE, 3, dtype=pictures)
  if pictures != "u1":
    images = shape(ROWS, SIDE // 2, SIDE // 2, 32, dtype=pictures)
  tokens = shape(ROWS, LENGTH)
  return DualBatch(
    TextToImageBatch(images, tokens, features),
    ImageToTextBatch(images, tokens, shape(ROWS, LENGTH, dtype="?")),
  )


def traced(model, batch):
  """Products in the jaxpr of the real step."""
  step = TrainStep(
    model=model,
    loss=DualLoss(),
    optimizer=OptimizerConfig(),
    train=TrainConfig(num_steps=10),
    seed=0,
  )
  state = abstract_state(model.network, step.chain)
  state = state.replace(
    frozen={
      "text_encoder": model.text_encoder.abstract_variables(),
      "vae": model.autoencoder.abstract_variables(),
    }
  )
  null_tokens = np.zeros(LENGTH, np.int32)
  return traced_flops(jax.make_jaxpr(step)(state, batch, null_tokens).jaxpr)


def difference():
  """What the traced step has more than the model: heads nobody reads, once.

  And less: its inputs (patches, text, time) need no gradient.
  """
  patches, contents = (SIDE // 4) ** 2, 4 * 16
  text_head = linear_flops(LENGTH, WIDTH, VOCAB)
  image_head = linear_flops(patches, WIDTH, contents)
  image_head += linear_flops(1, WIDTH, 2 * WIDTH)
  inputs = linear_flops(patches, contents, WIDTH)
  inputs += linear_flops(1, 256, WIDTH)
  text = linear_flops(LENGTH, CONTEXT, WIDTH)
  return ROWS * (text_head + image_head - 2 * inputs), ROWS * text


def test_the_real_step_has_exactly_these_products():
  rest, text = difference()
  ours = training_flops(model(), batch())
  assert set(ours) == {"network", "text_encoder", "vae"}
  assert traced(model(), batch()) == sum(ours.values()) + rest - 2 * text


def test_training_the_masks_row_goes_back_through_t5_once():
  rest, text = difference()
  tied = model(has_mask_embedding=True)
  ours = training_flops(tied, batch(), is_mask_embedding_trained=True)
  plain = training_flops(tied, batch())
  # Its text then has a gradient, in one of the streams.
  assert traced(tied, batch()) == sum(ours.values()) + rest - text
  flops = t5_flops(T5, LENGTH)
  assert ours["text_encoder"] - plain["text_encoder"] == ROWS * (
    flops.passed_through - flops.forward
  )
  assert ours["network"] == plain["network"]


def test_cached_latents_and_features_cost_nothing():
  rest, text = difference()
  features = shape(ROWS, LENGTH, CONTEXT, dtype="f4")
  cached = batch("f4", features)
  ours = training_flops(model(), cached)
  assert ours["vae"] == 0
  # The text loss encodes its masked texts anyway, and the null caption once.
  assert ours["text_encoder"] == (ROWS + 1) * t5_flops(T5, LENGTH).forward
  assert ours["network"] == training_flops(model(), batch())["network"]
  assert traced(model(), cached) == sum(ours.values()) + rest - 2 * text


def test_streams_add_up_and_either_may_be_off():
  both = batch()
  alone = [
    training_flops(model(), dataclasses.replace(both, **{name: None}))
    for name in ("text_to_image", "image_to_text")
  ]
  total = training_flops(model(), both)
  assert total == {name: sum(one[name] for one in alone) for name in total}


def test_text_alone_is_seen_beside_the_null_image():
  tokens = shape(ROWS, LENGTH)
  texts = ImageToTextBatch(None, tokens, shape(ROWS, LENGTH, dtype="?"))
  ours = training_flops(model(), DualBatch(None, texts))
  assert ours["vae"] == 0
  full = training_flops(
    model(), dataclasses.replace(batch(), text_to_image=None)
  )
  # Eight tokens in place of sixteen patches.
  assert 0.5 < ours["network"] / full["network"] < 0.7


def test_a_network_of_its_own_pixels_and_tokens_has_one_part():
  tiny = DualModel(network=Network(SIZES["tiny"]))
  images, tokens = shape(2, 16, 16, 3, dtype="u1"), shape(2, 10)
  ours = training_flops(tiny, DualBatch(TextToImageBatch(images, tokens), None))
  assert set(ours) == {"network"}


def test_frozen_weights_need_no_gradients():
  trained, frozen = (
    training_flops(model(), batch(), is_network_frozen=is_frozen)["network"]
    for is_frozen in (False, True)
  )
  # Between two and three forward passes: attention still costs three.
  assert 2 / 3 < frozen / trained < 0.7


def test_the_papers_first_stage_in_petaflop():
  """By hand, from the known costs of one forward pass (three digits)."""
  full = DualModel(
    network=Network(SIZES["sd3_medium"]),
    text_encoder=t5_encoder(T5_SIZES["xxl"]),
    autoencoder=autoencoder(AutoencoderConfig()),
  )
  images = shape(512, 256, 256, 3, dtype="u1")
  tokens = shape(512, 64)
  streams = DualBatch(
    TextToImageBatch(images, tokens),
    ImageToTextBatch(images, tokens, shape(512, 64, dtype="?")),
  )
  ours = {k: v / 1e15 for k, v in training_flops(full, streams).items()}
  # 0.4586 TFLOP with both heads, of which the text head is 0.0063, which half
  # of the examples read, and the image head less.
  assert ours["network"] == pytest.approx(1024 * 3 * 0.4586e-3, rel=0.008)
  assert ours["text_encoder"] == pytest.approx(1024 * 0.594e-3, rel=0.001)
  assert ours["vae"] == pytest.approx(1024 * 0.273e-3, rel=0.001)
