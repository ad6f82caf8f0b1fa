"""--config=FILE.py[:variant] and --config.key=value."""

import pytest

from ddit_jax.cli.config_argument import load, split_overrides
from ddit_jax.config.load import to_settings
from ddit_jax.config.settings import ConfigError

DIGITS = "configs/digits.py"
HEADER = "from ddit_jax.config.load import default_config\n"


def complaint(argument, overrides=None) -> str:
  with pytest.raises(ConfigError) as caught:
    load(argument, overrides or {})
  assert "\n" not in str(caught.value)
  return str(caught.value)


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
  with pytest.raises(ConfigError, match=message):
    split_overrides(argv)


def test_variants_and_overrides_reach_the_settings():
  default, cpu = load(DIGITS, {}), load(f"{DIGITS}:cpu", {})
  assert default == cpu
  changed = load(
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
    ({"schema_version": "2"}, "has schema_version 2, this ddit_jax reads"),
    ({"": "1"}, "unknown config key : "),
  ],
)
def test_bad_overrides_are_named(overrides, message):
  assert message in complaint(DIGITS, overrides)


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
  settings = load(path, {"train.num_steps": "7", "model.dtype": "bfloat16"})
  assert settings == to_settings(
    {
      "model": {"size": "small", "dtype": "bfloat16"},
      "train": {"num_steps": 7},
    }
  )
