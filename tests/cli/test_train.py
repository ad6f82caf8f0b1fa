"""`ddit train` checks its flags before it imports jax."""

import sys

import pytest

from ddit_jax.cli import train
from ddit_jax.errors import InputError

CONFIG = "--config=configs/digits.py"


def run(*argv, **overrides):
  return train.VERB.run(train.VERB.parse(list(argv)), overrides)


def test_config_and_workdir_are_needed():
  with pytest.raises(InputError, match="--config is missing"):
    run("--workdir=w")
  with pytest.raises(InputError, match="--workdir is missing: folder the run"):
    run(CONFIG, "--workdir=")


def test_the_config_is_checked_before_the_workdir_is_touched(tmp_path):
  with pytest.raises(InputError, match="unknown config key sed"):
    run(CONFIG, f"--workdir={tmp_path / 'w'}", sed="1")
  assert list(tmp_path.iterdir()) == []


def test_settings_and_folder_are_handed_over(monkeypatch):
  calls = []
  fake = type(sys)("training")
  fake.train = lambda settings, workdir: calls.append((settings, workdir)) or 0
  monkeypatch.setitem(sys.modules, "ddit_jax.experiment.trainer", fake)
  monkeypatch.setattr("ddit_jax.experiment.trainer", fake, raising=False)
  assert run(CONFIG, "--workdir=w", seed="5") == 0
  [(settings, workdir)] = calls
  assert (settings.seed, workdir) == (5, "w")


def test_distributed_without_a_cluster_says_so(monkeypatch):
  import jax

  def initialize():
    raise ValueError("coordinator_address should be defined.")

  monkeypatch.setattr(jax.distributed, "initialize", initialize)
  with pytest.raises(InputError, match="found no cluster job to join"):
    run(CONFIG, "--workdir=w", "--distributed")
