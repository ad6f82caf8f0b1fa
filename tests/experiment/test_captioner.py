"""Captioners at full size, as shapes; what configs they refuse."""

import dataclasses

import jax
import pytest

from ddit_jax.config.load import load_config
from ddit_jax.data.tokenizers import Tokenizer, word_tokenizer
from ddit_jax.errors import InputError
from ddit_jax.experiment.abstract_step import AbstractStep, AbstractWeights
from ddit_jax.experiment.config import Config
from ddit_jax.experiment.data import open_data, open_sources
from ddit_jax.experiment.layer_probe import probe_layers
from ddit_jax.pipelines.abstract_sampling import AbstractSampling
from ddit_jax.sharding.mesh import MeshConfig
from tests import tiny_run

PATH = "configs/feature_captioner.py"
GPT2 = Tokenizer(backend=None, end_id=50256, mask_id=50257, vocab_size=50258)
# As published, and a linear map from the features' width.
DECODER, WIDTH = 124_439_808, 768
CLIP_L, CLIP_BLOCK = 303_966_208, 12_596_224


def full_size(variant):
  """The model of a variant; its encoders are shapes, too."""
  config = load_config(Config, f"{PATH}:{variant}", {})
  encoders = None
  if config.model.encoders_from:
    encoders = AbstractWeights()
  return config.make_model(GPT2, encoders)


def test_clip_is_read_before_its_last_block():
  model = full_size("clip")
  assert model.network.num_parameters() == DECODER + (1024 + 1) * WIDTH
  encoder = model.parts()["image_encoder"]
  assert encoder.num_parameters() == CLIP_L - CLIP_BLOCK


def test_three_quarters_of_sd3_are_read_and_perhaps_trained():
  frozen, trained = full_size("sd3_frozen"), full_size("sd3_trained")
  own = DECODER + (1536 + 1) * WIDTH
  assert frozen.network.num_parameters() == own
  encoder = frozen.parts()["image_encoder"].num_parameters()
  assert trained.network.num_parameters() == own + encoder
  assert trained.parts().keys() == {"network", "text_encoder", "vae"}
  # Per block: two streams of q, k, v, out, MLP and six modulations.
  width = 1536
  linear = 4 * (width**2 + width) + 8 * width**2 + 5 * width
  block = 2 * (linear + 6 * (width**2 + width))
  rest = (
    (2 * 2 * 16 + 1) * width  # patches
    + (256 + 1) * width
    + (width + 1) * width  # times
    + (4096 + 1) * width  # texts
  )
  assert encoder == 18 * block + rest


@pytest.mark.parametrize(
  "changes, message",
  [
    ({}, "set data.text_to_image.batch_size=0"),
    ({"init_from": "x"}, "init_from is"),
    ({"model__has_mask_embedding": "True"}, "model.has_mask_embedding is True"),
    ({"train__weight_gathering": "once"}, "train.weight_gathering=per_use"),
    ({"optimizer__kind": "muon"}, "set adamw or adafactor"),
    ({"captioner__layer": "0"}, "layer"),
    ({"captioner__sigma": "1.5"}, "sigma must be in"),
    ({"captioner__clip": "H"}, "captioner.clip has no"),
    ({"captioner__decoder": "gpt3"}, "captioner.decoder has no"),
  ],
)
def test_what_does_not_fit_a_captioner_is_refused(changes, message):
  fitting = {"captioner__features": "mmdit"}
  if changes:
    fitting["data__text_to_image__batch_size"] = "0"
  with pytest.raises(ValueError, match=message):
    tiny_run.settings(**fitting, **changes)


def test_images_and_texts_too_long_for_gpt2_are_refused():
  config = load_config(
    Config, f"{PATH}:clip", {"data.image_to_text.text_length": "800"}
  )
  with pytest.raises(ValueError, match="257 tokens and texts 800, but GPT-2"):
    config.make_model(GPT2)
  with pytest.raises(ValueError, match="image_size=224"):
    data = dataclasses.replace(
      config.data,
      image_to_text=dataclasses.replace(
        config.data.image_to_text, image_size=256
      ),
    )
    dataclasses.replace(config, data=data).make_model(GPT2)


@pytest.mark.parametrize(
  ("variant", "frozen"),
  [
    ("sd3_frozen", {"image_encoder", "null_text", "vae"}),
    pytest.param("sd3_trained", {"null_text", "vae"}, marks=pytest.mark.slow),
    pytest.param("clip", {"image_encoder"}, marks=pytest.mark.slow),
  ],
)
def test_a_captioners_step_is_planned_from_shapes(variant, frozen):
  config = load_config(Config, f"{PATH}:{variant}_dry", {})
  mesh = MeshConfig(fsdp=8).make()
  step = AbstractStep.of(config, mesh)
  # Of T5 the features of the empty caption are left.
  assert step.state.frozen.keys() == frozen
  before = jax.tree.map(lambda x: (x.shape, x.dtype), step.state)
  after = step.trace(mesh).out_info[0]
  assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == before
  flops = step.model_flops()
  assert flops["network"] > 0 and flops.get("text_encoder", 0) == 0
  assert ("image_encoder" in flops) == ("image_encoder" in frozen)


def test_sampling_of_a_captioner_is_not_planned():
  config = load_config(Config, f"{PATH}:clip", {})
  mesh = MeshConfig(fsdp=8).make()
  with pytest.raises(ValueError, match="only its training step can be planned"):
    AbstractSampling.of(config, mesh, "i2t")


def test_only_captioners_are_probed():
  with pytest.raises(InputError, match="features is none"):
    probe_layers(tiny_run.settings(), "x", [1])


def test_layers_are_checked_before_any_is_trained():
  config = load_config(Config, f"{PATH}:clip", {})
  with pytest.raises(InputError, match="block 25 cannot be read"):
    probe_layers(config, "x", [6, 25])
  train = dataclasses.replace(config.train, validate_every=9, num_steps=8)
  with pytest.raises(InputError, match="no layer would have a"):
    probe_layers(dataclasses.replace(config, train=train), "x", [6])


def test_sources_without_images_are_refused(tmp_path):
  (tmp_path / "books.txt").write_text("a cat\n" * 40)
  books = {
    "kind": "plain_text",
    "path": str(tmp_path / "books.txt"),
    "documents": "line",
  }
  config = load_config(Config, f"{PATH}:clip_dry", {})
  task = dataclasses.replace(
    config.data.image_to_text, mixture={"0": {"books": 1.0}}
  )
  data = dataclasses.replace(
    config.data, sources={"books": books}, image_to_text=task
  )
  config = dataclasses.replace(config, data=data)
  with pytest.raises(ValueError, match="'books' has no images, and a captio"):
    open_data(
      config,
      word_tokenizer(["a", "cat"]),
      open_sources(config.data),
      tmp_path,
    )
