"""Config dicts and files become parts, or one clear line."""

import dataclasses
import json

import pytest
from ml_collections import ConfigDict

from ddit_jax.config.load import (
  config_module,
  from_dict,
  load_config,
  split_overrides,
)
from ddit_jax.data.config import DataConfig, TaskConfig
from ddit_jax.errors import InputError
from ddit_jax.experiment.config import Config, default_config

DIGITS = "configs/digits.py"
HEADER = "from ddit_jax.experiment.config import default_config\n"


def complaint(argument, overrides=None) -> str:
  with pytest.raises(InputError) as caught:
    load_config(Config, argument, overrides or {})
  assert "\n" not in str(caught.value)
  return str(caught.value)


def test_the_default_config_holds_every_setting():
  settings = Config()
  assert default_config().to_dict() == dataclasses.asdict(settings)
  assert from_dict(Config, default_config()) == settings
  assert from_dict(Config, {}) == settings


def test_every_kind_of_value_survives_json():
  mixture = {"0": {"caption": 1.0}, "7": {"caption": 1.0, "where": 0.25}}
  stream = TaskConfig(batch_size=4, mixture=mixture)
  data = DataConfig(image_to_text=stream)
  settings = Config(name="ünïcode", data=data)
  text = json.dumps(dataclasses.asdict(settings))
  assert from_dict(Config, json.loads(text)) == settings


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
    (
      "optimizer",
      {"decay": "cosin"},
      "optimizer.decay must be one of ('constant', 'linear', 'cosine'), got ",
    ),
    ("init_weights", "mean", "init_weights must be one of ('ema', 'params'), "),
    (
      "optimizer",
      {"beta2": 1.0},
      "optimizer.beta2 must be in [0, 1), got 1.0",
    ),
    ("mesh", {"fsdp": 0}, "mesh.fsdp must be positive or -1, got 0"),
  ],
)
def test_bad_entries_are_named(section, values, message):
  with pytest.raises(InputError) as caught:
    from_dict(Config, {section: values})
  assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_whole_number_is_good_enough_for_a_float():
  settings = from_dict(Config, {"loss": {"text_weight": 2}})
  assert type(settings.loss.text_weight) is float


def test_a_future_version_is_the_complaint_whatever_else_is_unknown():
  config = {"schema_version": 7, "hologram": {"depth": 3}}
  with pytest.raises(InputError) as caught:
    from_dict(Config, config, "the run in runs/x")
  assert str(caught.value) == (
    "the run in runs/x has schema_version 7, this ddit_jax reads version 3: "
    "install the release that wrote it"
  )


def test_misspelt_keys_of_a_config_dict_are_named_too():
  config = ConfigDict({"model": {"sise": "tiny"}})
  with pytest.raises(InputError, match=r"model\.sise: did you mean 'size'"):
    from_dict(Config, config)


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


@pytest.fixture
def config_file(tmp_path):
  """Writes a config file; gives its path."""

  def write(text, name="mine.py"):
    path = tmp_path / name
    path.write_text(text)
    return str(path)

  return write


def test_overrides_are_told_from_flags():
  argv = ["--config=a.py", "--config.train.num_steps=5", "--workdir=x"]
  assert split_overrides(argv) == (
    ["--config=a.py", "--workdir=x"],
    {"train.num_steps": "5"},
  )
  # Only the first "=" separates.
  assert split_overrides(["--config.name=a=b"])[1] == {"name": "a=b"}


@pytest.mark.parametrize(
  ("argv", "message"),
  [
    (["--config.seed"], "--config.seed has no value: write --config.seed=VAL"),
    (["--config.seed=1", "--config.seed=1"], "--config.seed is given twice"),
  ],
)
def test_overrides_without_value_or_given_twice_are_refused(argv, message):
  with pytest.raises(InputError, match=message):
    split_overrides(argv)


def test_variants_and_overrides_reach_the_settings():
  default, cpu = (
    load_config(Config, DIGITS, {}),
    load_config(Config, f"{DIGITS}:cpu", {}),
  )
  assert default == cpu
  changed = load_config(
    Config,
    DIGITS,
    {
      "train.num_steps": "12",
      "optimizer.learning_rate": "1",
      "loss.is_merged": "false",
      "name": "true",
      "data.image_to_text.mixture.0.caption": "0.5",
    },
  )
  assert changed.train.num_steps == 12
  assert changed.optimizer.learning_rate == 1.0
  assert changed.loss.is_merged is False and default.loss.is_merged is True
  assert changed.name == "true"
  assert changed.data.image_to_text.mixture["0"]["caption"] == 0.5
  assert changed.model == default.model


@pytest.mark.parametrize(
  ("overrides", "message"),
  [
    ({"train.num_step": "5"}, "unknown config key train.num_step: did you mea"),
    ({"trian.num_steps": "5"}, "unknown config section trian: did you mean 't"),
    ({"seed.x": "5"}, "unknown config section seed: "),
    ({"train": "5"}, "train is a section: set one of ['checkpoint_every', "),
    ({"train.num_steps": "many"}, "train.num_steps must be int, got 'many'"),
    ({"train.num_steps": ""}, "train.num_steps must be int, got ''"),
    ({"train.num_steps": "1e3"}, "must be int, got 1000.0 of type float"),
    ({"loss.is_merged": "yes"}, "loss.is_merged must be bool, got 'yes'"),
    ({"loss.is_merged": "1"}, "must be bool, got 1 of type int"),
    ({"optimizer.learning_rate": "nan"}, "must be float, got 'nan'"),
    ({"optimizer.learning_rate": "1e999"}, "must be a finite number, got inf"),
    (
      {"data.sources.mine.filters.max_ratio": "1e999"},
      "data.sources.mine.filters.max_ratio must be a finite number, got inf",
    ),
    ({"schema_version": "2"}, "has schema_version 2, this ddit_jax reads"),
    ({"": "1"}, "unknown config key : "),
    ({"seed": "{[]: 1}"}, "seed must be int, got '{[]: 1}'"),
    ({"seed": "(" * 3000}, "seed must be int, got '((("),
    ({"seed": "-" * 3000 + "1"}, "seed must be int, got '---"),
    ({"seed": "0x" + "f" * 5000}, "seed must be int, got '0xfff"),
    ({"seed": "'\\d'"}, "must be int, got '\\\\d' of type str"),
    ({"seed": "\0"}, "seed must be int, got '\\x00'"),
    ({"seed": "\ud800"}, "seed must be int, got '\\ud800'"),
    ({"optimizer.learning_rate": "1" + "0" * 400}, "must be float, got 1000"),
  ],
)
@pytest.mark.filterwarnings("error")
def test_bad_overrides_are_named(overrides, message):
  assert message in complaint(DIGITS, overrides)


def test_overrides_add_keys_where_the_user_names_them():
  changes = {
    "data.sources.mine.image_key": "photo",
    "data.sources.mine.follow_links": "true",
    "data.sources.mine.images": "'2024'",
    "data.sources.mine.filters.max_ratio": "9",
    "data.sources.more.kind": "parquet",
    "data.text_to_image.mixture.0.more": "0.5",
    "data.text_to_image.mixture.700.more": "1",
  }
  data = load_config(Config, "configs/own_images.py", changes).data
  assert data.sources == {
    "mine": {
      "kind": "image_folder",
      "path": "path/to/images",
      "image_key": "photo",
      "follow_links": True,
      "images": "2024",
      "filters": {"max_ratio": 9},
    },
    "more": {"kind": "parquet"},
  }
  assert data.text_to_image.mixture == {
    "0": {"mine": 1.0, "more": 0.5},
    "700": {"more": 1.0},
  }


def test_a_mapping_may_be_given_whole():
  changes = {
    "data.sources": "{'mine': {'kind': 'parquet', 'path': 'x'}}",
    "data.text_to_image.mixture.0": "{'mine': 2}",
  }
  data = load_config(Config, "configs/own_images.py", changes).data
  assert data.sources == {"mine": {"kind": "parquet", "path": "x"}}
  assert data.text_to_image.mixture == {"0": {"mine": 2.0}}


@pytest.mark.parametrize(
  ("key", "text", "message"),
  [
    ("data.sources", "{'mine'", "data.sources must be dict, got \"{'mine'\""),
    ("train", "{'num_steps': 1}", "train is a section: set one of ["),
    ("data.text_to_image.mixture.0.x", "much", "0.x must be float, got 'much'"),
    ("data.text_to_image.mixture.0.x", "[1]", "0.x must be float, got [1]"),
    (
      "data.text_to_image.mixture.0.x.y",
      "1",
      "unknown config key data.text_to_image.m",
    ),
    ("data.sources.mine.path.x", "1", "unknown config section data.sources.m"),
    ("data.sources.mine", "1", "data.sources.mine is a section: set one of"),
    ("data.sources.mine.", "1", "unknown config key data.sources.mine.: "),
    ("data.sources..path", "1", "unknown config section data.sources.: "),
    ("data.sources.new", "1", "data.sources.new must be a mapping, got 1"),
    ("data.sources.mine.x", "{1}", "mine.x must be a text, a number, True, "),
    ("data.sources.mine.x", "[{1: 2}]", "mine.x[0] must be a text, a number"),
    ("data.sources.mine.x", "1j", "got 1j of type complex"),
  ],
)
def test_bad_overrides_of_such_keys_are_named(key, text, message):
  assert message in complaint("configs/own_images.py", {key: text})


def test_code_in_an_override_is_not_run():
  code = "__import__('os').getpid()"
  assert "must be int" in complaint(DIGITS, {"seed": code})


def test_a_missing_file_or_variant_names_the_nearest():
  assert complaint("configs/digit.py") == (
    "no config file configs/digit.py: did you mean 'configs/digits.py'?"
  )
  assert "give a path to a .py file" in complaint("nowhere/at_all.py")
  assert "no config file configs" in complaint("configs")
  assert "no config file pyproject.toml" in complaint("pyproject.toml")
  message = complaint(f"{DIGITS}:gqu")
  assert "has no variant 'gqu'; it has cpu, gpu" in message


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("def get_config(:\n", "mine.py line 2 fails: SyntaxError: "),
    ("import no_such_module\n", "mine.py line 2 fails: ModuleNotFoundError"),
    ("x = 1\n", "mine.py has no get_config function"),
    ("def get_config():\n  pass\n", "returns a NoneType: return a ConfigDict"),
    (
      "def get_config():\n  config = default_config()\n"
      "  config.trian.num_steps = 3\n",
      "mine.py line 4 fails: AttributeError: ",
    ),
    (
      "def get_config():\n  config = default_config()\n"
      "  config.train.num_steps = 'many'\n",
      "mine.py line 4 fails: TypeError: ",
    ),
    (
      "def get_config():\n  config = default_config()\n"
      "  config.train.num_step = 3\n  return config\n",
      "unknown config key train.num_step: did you mean 'num_steps'?",
    ),
  ],
)
def test_a_broken_config_file_gives_one_line(config_file, text, message):
  assert message in complaint(config_file(HEADER + text))


def test_a_variant_of_a_file_without_variants_is_refused(config_file):
  path = config_file(f"{HEADER}def get_config():\n  return default_config()\n")
  assert "get_config() takes 0 positional" in complaint(f"{path}:gpu")


def test_a_config_need_not_be_complete_for_its_keys_to_be_overridden(
  config_file,
):
  path = config_file(
    "from ml_collections import ConfigDict\n"
    "def get_config():\n  return ConfigDict({'model': {'size': 'small'}})\n"
  )
  settings = load_config(
    Config, path, {"train.num_steps": "7", "model.execution.dtype": "bfloat16"}
  )
  assert settings == from_dict(
    Config,
    {
      "model": {"size": "small", "execution": {"dtype": "bfloat16"}},
      "train": {"num_steps": 7},
    },
  )
