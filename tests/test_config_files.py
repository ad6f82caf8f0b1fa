"""Config dicts become settings, or one clear line."""

import dataclasses
import json

import pytest
from ml_collections import ConfigDict

from ddit_jax.config.load import (
  config_module,
  default_config,
  to_settings,
)
from ddit_jax.config.settings import (
  ConfigError,
  DataSettings,
  ExperimentSettings,
  StreamSettings,
)


def test_the_default_config_holds_every_setting():
  settings = ExperimentSettings()
  assert default_config().to_dict() == dataclasses.asdict(settings)
  assert to_settings(default_config()) == settings
  assert to_settings({}) == settings


def test_every_kind_of_value_survives_json():
  mixture = {"0": {"caption": 1.0}, "7": {"caption": 1.0, "where": 0.25}}
  stream = StreamSettings(batch_size=4, mixture=mixture)
  data = DataSettings(image_to_text=stream)
  settings = ExperimentSettings(name="ünïcode", data=data)
  text = json.dumps(dataclasses.asdict(settings))
  assert to_settings(json.loads(text)) == settings


@pytest.mark.parametrize(
  ("section", "values", "message"),
  [
    ("train", {"num_step": 5}, "unknown config key train.num_step: did you "),
    ("trian", {}, "unknown config key trian: did you mean 'train'?"),
    ("train", {"num_steps": "5"}, "train.num_steps must be int, got '5' of "),
    ("train", {"num_steps": True}, "must be int, got True of type bool"),
    ("train", {"num_steps": 5.0}, "must be int, got 5.0 of type float"),
    ("loss", {"is_merged": 1}, "loss.is_merged must be bool, got 1 of type"),
    ("data", {"world": ["a"]}, "data.world must be str, got ['a'] of type"),
    ("data", {"world": ("a",)}, "data.world must be str, got ('a',) of type"),
    (
      "data",
      {"text_to_image": {"batch_size": 4, "mixture": [1]}},
      "data.text_to_image.mixture must be a mapping",
    ),
    (
      "data",
      {"text_to_image": {"batch_size": 4, "mixture": {"0": {"a": "much"}}}},
      "data.text_to_image.mixture.0.a must be float, got 'much'",
    ),
    (
      "optimizer",
      {"learning_rate": float("inf")},
      "optimizer.learning_rate must be a finite number, got inf",
    ),
    ("loss", {"text_weight": float("nan")}, "must be a finite number, got nan"),
    ("seed", {}, "seed must be int, got {} of type dict"),
    ("model", None, "model is a section, got None"),
  ],
)
def test_bad_entries_are_named(section, values, message):
  with pytest.raises(ConfigError) as caught:
    to_settings({section: values})
  assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_whole_number_is_good_enough_for_a_float():
  settings = to_settings({"loss": {"text_weight": 2}})
  assert type(settings.loss.text_weight) is float


def test_a_future_version_is_the_complaint_whatever_else_is_unknown():
  config = {"schema_version": 7, "hologram": {"depth": 3}}
  with pytest.raises(ConfigError) as caught:
    to_settings(config, "the run in runs/x")
  assert str(caught.value) == (
    "the run in runs/x has schema_version 7, this ddit_jax reads version 1: "
    "install the release that wrote it"
  )


def test_misspelt_keys_of_a_config_dict_are_named_too():
  config = ConfigDict({"model": {"sise": "tiny"}})
  with pytest.raises(ConfigError, match=r"model\.sise: did you mean 'size'"):
    to_settings(config)


def test_a_config_file_is_a_module_that_another_can_vary(tmp_path):
  (tmp_path / "base.py").write_text(
    "def get_config(variant='a'): return [variant]"
  )
  (tmp_path / "mine.py").write_text(
    "import pathlib\n"
    "from ddit_jax.config.load import config_module\n"
    "base = config_module(pathlib.Path(__file__).parent / 'base.py')\n"
    "def get_config(): return base.get_config('b') + ['mine']\n"
  )
  assert config_module(tmp_path / "mine.py").get_config() == ["b", "mine"]
  (tmp_path / "broken.py").write_text("1 / 0")
  with pytest.raises(ZeroDivisionError):
    config_module(tmp_path / "broken.py")
