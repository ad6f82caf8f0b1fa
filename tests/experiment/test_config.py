"""A config refuses what cannot run."""

import dataclasses
import json
import typing

import pytest

from ddit_jax.experiment.config import (
  Config,
  DataConfig,
  EvaluateConfig,
  ModelConfig,
  SampleConfig,
  TaskConfig,
  TrainConfig,
)
from ddit_jax.lora.lora import LoraConfig
from ddit_jax.train.optimizer import OptimizerConfig

SECTIONS = {
  name: kind
  for name, kind in typing.get_type_hints(Config).items()
  if dataclasses.is_dataclass(kind)
}


@pytest.mark.parametrize("kind", [Config, *SECTIONS.values()])
def test_every_field_is_documented(kind):
  described = kind.__doc__.partition("Attributes:")[2]
  is_section = kind is Config
  for field in dataclasses.fields(kind):
    if is_section and field.name in SECTIONS:
      continue
    assert f" {field.name}" in described, f"{kind.__name__}.{field.name}"


def test_settings_survive_json():
  settings = Config()
  resolved = dataclasses.asdict(settings)
  assert json.loads(json.dumps(resolved)) == resolved


@pytest.mark.parametrize(
  ("kind", "changes", "message"),
  [
    (DataConfig, {"pool_size": 0}, "^pool_size must be positive, got 0"),
    (
      DataConfig,
      {"image_to_text": TaskConfig(batch_size=8, text_length=-1)},
      "^image_to_text.text_length must be positive, got -1",
    ),
    (
      DataConfig,
      {"text_to_image": TaskConfig(batch_size=8, pool_size=-1)},
      "^text_to_image.pool_size is negative: -1",
    ),
    (TrainConfig, {"num_steps": 0}, "^num_steps must be positive"),
    (TrainConfig, {"log_every": 0}, "^log_every must be positive"),
    (OptimizerConfig, {"beta2": 1.0}, r"^beta2 must lie in \[0, 1"),
    (OptimizerConfig, {"decay_fraction": 1.5}, "over 1: 1.5"),
    (OptimizerConfig, {"warmup_steps": -1}, "warmup_steps is negative: -1"),
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
    (EvaluateConfig, {"seed": -1}, "^seed must lie in 0 to"),
    (EvaluateConfig, {"num_pope_images": -1}, "num_pope_images is negative"),
    (Config, {"seed": -1}, "seed must lie in 0 to 4294967295"),
    (Config, {"seed": 2**32}, "got 4294967296"),
  ],
)
def test_values_out_of_range_are_refused(kind, changes, message):
  kind()  # the defaults are fine
  with pytest.raises(ValueError, match=message):
    kind(**changes)


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
