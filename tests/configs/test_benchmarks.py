"""configs/benchmarks.py, which evaluates and trains nothing."""

import pytest

from ddit_jax.config.load import config_module, load_config
from ddit_jax.errors import InputError
from ddit_jax.experiment.config import Config

PATH = "configs/benchmarks.py"


def test_both_variants_load_and_are_described():
  published = load_config(Config, PATH, {})
  assert published == load_config(Config, f"{PATH}:published", {})
  assert published.benchmarks.prompt == "published"
  assert published.benchmarks.sampling == "published"
  own = load_config(Config, f"{PATH}:own", {})
  assert (own.benchmarks.prompt, own.benchmarks.sampling) == (
    "trained",
    "config",
  )
  text = config_module(PATH).__doc__
  assert "  published (default):" in text and "  own:" in text


def test_another_variant_or_choice_is_refused():
  with pytest.raises(InputError, match="there are published and own"):
    load_config(Config, f"{PATH}:x", {})
  with pytest.raises(InputError, match="prompt must be one of"):
    load_config(Config, PATH, {"benchmarks.prompt": "mine"})


def test_a_file_is_named_without_quotes():
  overrides = {"benchmarks.files.gqa.questions": "12.json"}
  config = load_config(Config, PATH, overrides)
  assert config.benchmarks.files == {"gqa": {"questions": "12.json"}}
  # A number is a name, too.
  config = load_config(Config, PATH, {"benchmarks.files.gqa.questions": "12"})
  assert config.benchmarks.files == {"gqa": {"questions": "12"}}
