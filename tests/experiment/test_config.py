"""A config refuses what cannot run."""

import dataclasses
import functools
import importlib
import inspect
import json
import pkgutil
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddit_jax
from ddit_jax.batch import DualBatch, ImageToTextBatch, TextToImageBatch
from ddit_jax.config.load import as_json, from_dict, load_config
from ddit_jax.data.config import DataConfig, TaskConfig
from ddit_jax.data.text import caption_tokens
from ddit_jax.digits.world import WORLDS
from ddit_jax.errors import InputError
from ddit_jax.experiment.config import Config, EvaluateConfig, SampleConfig
from ddit_jax.experiment.model_config import ModelConfig
from ddit_jax.experiment.vocabulary import make_tokenizer
from ddit_jax.lora.lora import LoraConfig
from ddit_jax.models.config import SIZES
from ddit_jax.train.loop import TrainConfig
from ddit_jax.train.optimizer import OptimizerConfig
from ddit_jax.train.state import init_state
from ddit_jax.train.step import TrainStep
from tests import tiny_run


def parts_of(part, path=""):
  """(dotted path, part) of the tree below and with a part."""
  yield path, part
  for field in dataclasses.fields(part):
    value = getattr(part, field.name)
    if dataclasses.is_dataclass(value):
      yield from parts_of(value, f"{path}{field.name}.")


PARTS = dict(parts_of(Config()))


@pytest.mark.parametrize("path", sorted(PARTS))
def test_every_setting_is_documented_where_it_is_declared(path):
  part = PARTS[path]
  # A part that is several parts documents only its own settings.
  described = "".join(
    kind.__doc__.partition("Attributes:")[2] for kind in type(part).__mro__
  )
  for field in dataclasses.fields(part):
    is_section = part is PARTS[""] and f"{field.name}." in PARTS
    assert is_section or f" {field.name}" in described, field.name


def dataclasses_of_the_package():
  for info in pkgutil.walk_packages(ddit_jax.__path__, "ddit_jax."):
    # The page needs an extra that tests do without.
    if not info.name.startswith(("ddit_jax.__main__", "ddit_jax.demo.")):
      for value in vars(importlib.import_module(info.name)).values():
        if isinstance(value, type) and dataclasses.is_dataclass(value):
          yield value


def test_no_setting_is_declared_twice():
  """No other dataclass has two fields of a part, by name and type."""

  def typed(kind):
    """What the class itself declares; a base's fields are the base's."""
    return {
      (name, str(declared))
      for name, declared in inspect.get_annotations(kind).items()
      if not dataclasses.is_dataclass(declared)
    }

  parts = {type(part) for part in PARTS.values()}
  others = set(dataclasses_of_the_package()) - parts
  copies = {
    (part.__name__, other.__name__)
    for part in parts
    for other in others
    if len(typed(part) & typed(other)) > 1
  }
  # The plan has what the config's -1 stands for on this machine. A network's
  # shapes have common names; those of ModelConfig replace a named size's.
  shapes = ("MMDiTConfig", "PatchEmbedding", "PreNormConfig", "T5Config")
  assert copies == {
    ("DataConfig", "ReadPlan"),
    *(("ModelConfig", name) for name in shapes),
  }


def test_settings_survive_json():
  settings = Config()
  resolved = as_json(settings)
  assert json.loads(json.dumps(resolved)) == resolved
  assert from_dict(Config, resolved) == settings


@pytest.mark.parametrize(
  ("kind", "changes", "message"),
  [
    (
      DataConfig,
      {"pool_size": 0},
      "^pool_size must be in 1 to 10000000, got 0",
    ),
    (
      TaskConfig,
      {"text_length": -1},
      "^text_length must be in 1 to 1048576, got -1",
    ),
    (
      TaskConfig,
      {"pool_size": -1},
      "^pool_size is negative: -1",
    ),
    (TrainConfig, {"num_steps": 0}, "^num_steps must be in 1 to 2147483647"),
    (TrainConfig, {"num_steps": 2**31}, "^num_steps must be in 1 to"),
    (TrainConfig, {"log_every": 0}, "^log_every must be in 1 to"),
    (OptimizerConfig, {"beta2": 1.0}, r"^beta2 must be in \[0, 1"),
    (OptimizerConfig, {"decay_fraction": 1.5}, "over 1: 1.5"),
    (OptimizerConfig, {"warmup_steps": -1}, "warmup_steps is negative: -1"),
    (OptimizerConfig, {"warmup_steps": 2**31}, "at most 2147483647, got 2147"),
    (DataConfig, {"validation_size": 10**9}, "^validation_size must be in 1"),
    (OptimizerConfig, {"learning_rate": 0.0}, "learning_rate must be pos"),
    (SampleConfig, {"batch_size": 0}, "^batch_size must be positive"),
    (
      OptimizerConfig,
      {"kind": "adafactor", "beta1": 0.0, "first_moment_dtype": "bfloat16"},
      "keeps no first moment: leave it float32",
    ),
    (
      Config,
      {"lora": LoraConfig(rank=4)},
      "lora.rank is 4 but init_from is empty",
    ),
    (
      Config,
      {
        "lora": LoraConfig(rank=4),
        "init_from": "runs/digits",
        "optimizer": OptimizerConfig(kind="muon"),
      },
      "use adamw or adafactor",
    ),
    (
      Config,
      {
        "lora": LoraConfig(rank=4),
        "init_from": "runs/digits",
        "train": TrainConfig(weight_gathering="once"),
      },
      "adapters are merged at each use, set it to per_use",
    ),
    (EvaluateConfig, {"seed": -1}, "^seed must be in 0 to"),
    (EvaluateConfig, {"num_pope_images": -1}, "num_pope_images is negative"),
    (Config, {"seed": -1}, "seed must be in 0 to 4294967295"),
    (Config, {"seed": 2**32}, "got 4294967296"),
  ],
)
def test_values_out_of_range_are_refused(kind, changes, message):
  # The only part without defaults for all of its fields.
  required = {"batch_size": 8} if kind is TaskConfig else {}
  kind(**required)
  with pytest.raises(ValueError, match=message):
    kind(**required | changes)


def test_a_batch_must_divide_into_its_parts():
  train = TrainConfig(num_microbatches=5)
  with pytest.raises(ValueError) as caught:
    Config(train=train)
  assert str(caught.value) == (
    "data.text_to_image.batch_size = 32 is not divisible by "
    "train.num_microbatches = 5"
  )


def test_settings_cannot_be_changed_or_given_by_position():
  with pytest.raises(dataclasses.FrozenInstanceError):
    ModelConfig().size = "small"
  with pytest.raises(TypeError):
    ModelConfig("small")


@pytest.fixture(scope="module")
def settings():
  return tiny_run.settings()


@pytest.fixture(scope="module")
def tokenizer(settings):
  return make_tokenizer(tiny_run.settings().data)


def test_the_mesh_takes_all_devices_and_splits_all_batches(settings):
  mesh = settings.make_mesh()
  assert tuple(mesh.shape.values()) == (1, 8, 1, 1)
  mesh = tiny_run.settings(mesh__replica="2", mesh__tensor="2").make_mesh()
  assert tuple(mesh.shape.values()) == (2, 2, 1, 2)


@pytest.mark.parametrize(
  ("overrides", "message"),
  [
    (
      {"data__text_to_image__batch_size": "4"},
      "data.text_to_image.batch_size = 4 is not",
    ),
    (
      {"data__image_to_text__batch_size": "9"},
      "data.image_to_text.batch_size = 9 is not",
    ),
    ({"data__validation_size": "10"}, "data.validation_size = 10 is not"),
    (
      {"train__num_microbatches": "2"},
      r"image.batch_size / train.num_microbatches \(2\) = 4 is not",
    ),
  ],
)
def test_batches_that_the_devices_do_not_divide_are_refused(overrides, message):
  with pytest.raises(ValueError, match=message):
    tiny_run.settings(**overrides).make_mesh()


def test_the_network_fits_tokenizer_text_and_image(settings, tokenizer):
  network = settings.make_model(tokenizer).network
  config = network.config
  assert config.vocab_size == tokenizer.vocab_size
  assert config.max_text_length == settings.data.image_to_text.text_length
  assert config.max_grid * config.patch_size >= WORLDS["one_digit"].canvas
  assert network.execution.scan_unroll == settings.model.execution.scan_unroll


def test_an_image_larger_than_the_network_is_refused(tokenizer):
  settings = tiny_run.settings(data__world="scenes_32")
  with pytest.raises(ValueError, match=r"32 x 32 pixels .* ends at 16"):
    settings.make_model(tokenizer)


def test_the_null_caption_holds_no_word(settings, tokenizer):
  null = caption_tokens(tokenizer, "", settings.data.text_to_image.text_length)
  assert (
    null.tolist()
    == [tokenizer.end_id] * settings.data.image_to_text.text_length
  )


def choices(part):
  """(part, field) of every `Literal` in a tree of parts."""
  for name, kind in typing.get_type_hints(type(part)).items():
    value = getattr(part, name)
    if dataclasses.is_dataclass(value):
      yield from choices(value)
    elif typing.get_origin(kind) is typing.Literal:
      yield part, name


@pytest.mark.parametrize(
  ("part", "name"),
  list(choices(Config())),
  ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_part_built_in_python_refuses_an_unknown_choice(
  part, name, unchecked_shapes
):
  with pytest.raises(ValueError, match=f"^{name} must be one of"):
    dataclasses.replace(part, **{name: "other"})


def test_a_size_is_a_starting_point(tokenizer):
  changed = tiny_run.settings(
    model__depth="2", model__width="48", model__num_heads="3"
  ).make_model(tokenizer)
  config = changed.network.config
  assert (config.depth, config.width, config.num_heads) == (2, 48, 3)
  tiny = SIZES["tiny"]
  assert (config.patch_size, config.max_grid) == (tiny.patch_size, 4)
  assert config.mlp_ratio == tiny.mlp_ratio
  assert changed.largest_image == 16


@pytest.mark.parametrize(
  ("overrides", "message"),
  [
    ({"model__depth": "-1"}, "model.depth is negative: -1"),
    ({"model__depth": "1000000000"}, "model.depth must be in 1 to 1024"),
    ({"model__max_grid": "100000"}, "model.max_grid must be in 1 to 1024"),
    ({"model__num_heads": "5"}, "model.width 96 is not divisible by num_heads"),
    ({"model__width": "98", "model__num_heads": "7"}, "multiple of 4"),
    (
      {"model__size": "of_encoders", "model__width": "96"},
      "model.width is set, but size='of_encoders' takes all shapes from",
    ),
  ],
)
def test_shapes_that_do_not_fit_are_refused(overrides, message):
  with pytest.raises(InputError, match=message):
    tiny_run.settings(**overrides)


def test_larger_images_need_a_larger_grid_and_train(tokenizer):
  """64 x 64 pixels from scratch, up to the shapes of a step."""
  sides = {
    "data__sources__world__kind": "digits",
    "data__sources__world__texts": "captions",
    "data__text_to_image__image_size": "64",
    "data__image_to_text__image_size": "64",
  }
  with pytest.raises(ValueError, match=r"ends at 16; .* set model.max_grid=16"):
    tiny_run.settings(**sides).make_model(tokenizer)
  settings = tiny_run.settings(**sides, model__max_grid="16")
  model = settings.make_model(tokenizer)
  assert model.largest_image == 64
  assert "images of up to 64 x 64 pixels" in model.report(settings.make_mesh())
  # The distance of positions stays that of the size.
  config = model.network.config
  assert config.base_grid == config.max_grid == 16
  optimizer = settings.optimizer.make(4)
  step = TrainStep(
    model=model,
    loss=settings.loss,
    optimizer=settings.optimizer,
    train=settings.train,
    seed=0,
    is_mask_embedding_trained=False,
  )
  length = settings.data.text_to_image.text_length
  images = jax.ShapeDtypeStruct((8, 64, 64, 3), jnp.uint8)
  tokens = jax.ShapeDtypeStruct((8, length), jnp.int32)
  batch = DualBatch(
    TextToImageBatch(images, tokens),
    ImageToTextBatch(
      images, tokens, jax.ShapeDtypeStruct((8, length), jnp.bool_)
    ),
  )
  state = jax.eval_shape(
    functools.partial(init_state, model.network, optimizer), jax.random.key(0)
  )
  after, metrics = jax.eval_shape(
    step, state, batch, np.zeros(length, np.int32)
  )
  assert jax.tree.structure(after) == jax.tree.structure(state)
  assert metrics["loss/total"].shape == ()


@pytest.mark.parametrize(
  ("kind", "gathering", "placement", "remat"),
  [
    ("TPU v5", "once", "replicated", "save_all_but_qkv"),
    ("TPU v5 lite", "per_use", "fsdp", "full"),
    ("cpu", "per_use", "fsdp", "full"),
  ],
)
def test_chips_with_room_gather_once_and_recompute_little(
  kind, gathering, placement, remat
):
  large = load_config(Config, "configs/ddit_sd3.py:stage1", {})
  assert large.for_chip(kind).model.execution.remat == remat
  config = Config()
  assert config.for_chip(kind).train.weight_gathering == gathering
  placed = config.model.encoder_placement
  assert placed.on(kind).text_encoder == placement
  changed = dataclasses.replace(placed, text_encoder="tensor")
  assert changed.on(kind) == changed
  adapters = dataclasses.replace(
    config, lora=LoraConfig(rank=4), init_from="runs/digits"
  )
  assert adapters.for_chip(kind).train.weight_gathering == "per_use"
  captioner = load_config(Config, "configs/feature_captioner.py:clip", {})
  assert captioner.for_chip(kind).train.weight_gathering == "per_use"
  asked = dataclasses.replace(
    config, train=TrainConfig(weight_gathering="once", compiler_options="a=1")
  )
  assert asked.for_chip(kind) == asked
