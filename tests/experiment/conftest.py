"""One tiny training run, shared by all tests of this folder."""

import pathlib

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from ddit_jax.experiment import build, training
from ddit_jax.sharding.mesh import make_mesh
from tests import tiny_run


@pytest.fixture(scope="package", autouse=True)
def compile_once(tmp_path_factory):
  """Compiles quickly, and reads back what would be compiled again."""
  options = {
    "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
    "jax_disable_most_optimizations": True,
  }
  before = {name: getattr(jax.config, name) for name in options}
  for name, value in options.items():
    jax.config.update(name, value)
  yield
  for name, value in before.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()


@pytest.fixture
def on_one_device(monkeypatch):
  """Training sees the first device only."""
  use_first_device(monkeypatch)


def use_first_device(monkeypatch) -> None:
  def first_only(**sizes):
    return make_mesh(**sizes, devices=jax.devices()[:1])

  monkeypatch.setattr(build, "make_mesh", first_only)


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> pathlib.Path:
  """The workdir of an undisturbed run on one device. Not to be changed."""
  workdir = tmp_path_factory.mktemp("trained") / "run"
  with pytest.MonkeyPatch.context() as monkeypatch:
    use_first_device(monkeypatch)
    assert training.train(tiny_run.settings(), str(workdir)) == 0
  return workdir
