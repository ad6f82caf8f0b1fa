"""Settings refuse what cannot run, and none of them is decoration."""

import ast
import dataclasses
import inspect
import json
import pathlib
import typing

import pytest

import ddit_jax
from ddit_jax.config import settings as settings_module
from ddit_jax.config.settings import (
  ConfigError,
  DataSettings,
  EvaluateSettings,
  ExperimentSettings,
  LoraSettings,
  MeshSettings,
  ModelSettings,
  OptimizerSettings,
  SampleSettings,
  StreamSettings,
  TrainSettings,
)
from ddit_jax.sharding.mesh import make_mesh

PACKAGE = pathlib.Path(ddit_jax.__file__).parent
SECTIONS = {
  name: kind
  for name, kind in typing.get_type_hints(ExperimentSettings).items()
  if dataclasses.is_dataclass(kind)
}


def attributes_read() -> set[str]:
  """Names read as `x.name` in the modules that are handed settings."""
  names = set()
  for path in PACKAGE.rglob("*.py"):
    text = path.read_text()
    has_settings = (
      "ddit_jax.config.settings import" in text or ".settings." in text
    )
    if path.name == "config/settings.py" or not has_settings:
      continue
    names |= {
      node.attr
      for node in ast.walk(ast.parse(text))
      if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }
  return names


@pytest.mark.parametrize("section", [s for s in SECTIONS if s != "mesh"])
def test_every_field_is_read_somewhere(section):
  fields = {field.name for field in dataclasses.fields(SECTIONS[section])}
  assert fields - attributes_read() == set()


def test_every_top_level_field_is_read_somewhere():
  fields = {field.name for field in dataclasses.fields(ExperimentSettings)}
  # The version is checked by the settings and by `to_settings`.
  assert fields - attributes_read() - {"schema_version"} == set()


def test_the_mesh_section_is_what_make_mesh_takes():
  fields = {field.name for field in dataclasses.fields(MeshSettings)}
  assert fields == set(inspect.signature(make_mesh).parameters) - {"devices"}


def test_the_search_for_unread_fields_can_fail():
  assert "never_read_by_anyone" not in attributes_read()
  assert "condition_dropout" in attributes_read()


@pytest.mark.parametrize("kind", [ExperimentSettings, *SECTIONS.values()])
def test_every_field_is_documented(kind):
  described = kind.__doc__.partition("Attributes:")[2]
  is_section = kind is ExperimentSettings
  for field in dataclasses.fields(kind):
    if is_section and field.name in SECTIONS:
      continue
    assert f" {field.name}" in described, f"{kind.__name__}.{field.name}"


def test_settings_survive_json():
  settings = ExperimentSettings()
  resolved = dataclasses.asdict(settings)
  assert json.loads(json.dumps(resolved)) == resolved


@pytest.mark.parametrize(
  ("kind", "changes", "message"),
  [
    (DataSettings, {"pool_size": 0}, "data.pool_size must be positive, got 0"),
    (
      DataSettings,
      {"image_to_text": StreamSettings(batch_size=8, text_length=-1)},
      "data.image_to_text.text_length must be positive, got -1",
    ),
    (
      DataSettings,
      {"text_to_image": StreamSettings(batch_size=8, pool_size=-1)},
      "data.text_to_image.pool_size is negative: -1",
    ),
    (TrainSettings, {"num_steps": 0}, "train.num_steps must be positive"),
    (TrainSettings, {"log_every": 0}, "train.log_every must be positive"),
    (OptimizerSettings, {"beta2": 1.0}, r"optimizer.beta2 must lie in \[0, 1"),
    (OptimizerSettings, {"decay": "cosin"}, "must be one of .* got 'cosin'"),
    (OptimizerSettings, {"decay_fraction": 1.5}, "over 1: 1.5"),
    (OptimizerSettings, {"warmup_steps": -1}, "warmup_steps is negative: -1"),
    (OptimizerSettings, {"learning_rate": 0.0}, "learning_rate must be pos"),
    (SampleSettings, {"text_order": "left"}, "must be one of .* got 'left'"),
    (SampleSettings, {"temperature": -0.5}, "temperature is negative: -0.5"),
    (EvaluateSettings, {"split": "train"}, "evaluate.split must be one of"),
    (OptimizerSettings, {"kind": "sgd"}, "optimizer.kind must be one of"),
    (
      OptimizerSettings,
      {"first_moment_dtype": "float16"},
      "first_moment_dtype must be one of",
    ),
    (
      OptimizerSettings,
      {"kind": "adafactor", "beta1": 0.0, "first_moment_dtype": "bfloat16"},
      "keeps no first moment: leave it float32",
    ),
    (LoraSettings, {"rank": -1}, "lora.rank is negative: -1; 0 is off"),
    (LoraSettings, {"alpha": 0.0}, "lora.alpha must be positive, got 0"),
    (LoraSettings, {"targets": "attention,heads"}, "got 'heads'"),
    (
      ExperimentSettings,
      {"lora": LoraSettings(rank=4)},
      "lora.rank is 4 but init_from is empty",
    ),
    (
      ExperimentSettings,
      {
        "lora": LoraSettings(rank=4),
        "init_from": "runs/digits",
        "optimizer": OptimizerSettings(kind="muon"),
      },
      "use adamw or adafactor",
    ),
    (EvaluateSettings, {"seed": -1}, "evaluate.seed must lie in 0 to"),
    (EvaluateSettings, {"num_pope_images": -1}, "num_pope_images is negative"),
    (ExperimentSettings, {"seed": -1}, "seed must lie in 0 to 4294967295"),
    (ExperimentSettings, {"seed": 2**32}, "got 4294967296"),
  ],
)
def test_values_out_of_range_are_refused(kind, changes, message):
  kind()  # the defaults are fine
  with pytest.raises(ConfigError, match=message):
    kind(**changes)


def test_a_batch_must_divide_into_its_parts():
  train = TrainSettings(num_microbatches=5)
  with pytest.raises(ConfigError) as caught:
    ExperimentSettings(train=train)
  assert str(caught.value) == (
    "data.text_to_image.batch_size = 32 is not divisible by "
    "train.num_microbatches = 5"
  )


def test_a_config_of_the_future_is_refused():
  with pytest.raises(ConfigError, match=r"schema_version 2, .* version 1"):
    ExperimentSettings(schema_version=2)


def test_settings_cannot_be_changed_or_given_by_position():
  with pytest.raises(dataclasses.FrozenInstanceError):
    ModelSettings().size = "small"
  with pytest.raises(TypeError):
    ModelSettings("small")


def test_the_module_needs_no_other_of_this_package():
  text = pathlib.Path(settings_module.__file__).read_text()
  assert "ddit_jax" not in {
    name.name.split(".")[0]
    for node in ast.walk(ast.parse(text))
    if isinstance(node, ast.Import | ast.ImportFrom)
    for name in node.names
  }
