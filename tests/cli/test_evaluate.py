"""`ddit evaluate` checks its flags and hands them over."""

import pytest

from ddit_jax.cli import evaluate
from ddit_jax.errors import InputError
from ddit_jax.pipelines import evaluate as evaluating

CONFIG = "--config=configs/digits.py"


def run(*argv, **overrides):
  return evaluate.VERB.run(evaluate.VERB.parse(list(argv)), overrides)


@pytest.mark.parametrize("missing", ["checkpoint", "config", "out"])
def test_all_three_flags_are_needed(missing):
  argv = {"checkpoint": "c", "config": "configs/digits.py", "out": "o"}
  del argv[missing]
  with pytest.raises(InputError, match=f"--{missing} is missing: "):
    run(*(f"--{name}={value}" for name, value in argv.items()))


def test_the_config_is_checked_before_the_checkpoint_is_opened():
  with pytest.raises(InputError, match=r"evaluate.split must be one of"):
    run(CONFIG, "--checkpoint=c", "--out=o", **{"evaluate.split": "validaton"})


def test_settings_and_options_are_handed_over(monkeypatch):
  calls = []
  monkeypatch.setattr(
    evaluating, "evaluate", lambda *args, **named: calls.append((args, named))
  )
  argv = (CONFIG, "--checkpoint=c", "--out=o", "--weights=params", "--step=2")
  run(*argv, **{"evaluate.split": "validation"})
  [((settings, checkpoint), named)] = calls
  assert settings.evaluate.split == "validation" and checkpoint == "c"
  assert named == {"out": "o", "weights": "params", "step": 2}
