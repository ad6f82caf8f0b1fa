"""One tiny training run, shared by all tests of this folder."""

import pathlib

import jax
import pytest

from ddit_jax.experiment import trainer
from ddit_jax.experiment.write_cache import write_caches
from ddit_jax.sharding.mesh import MeshConfig
from tests import tiny_run
from tests.experiment import cached_run


def use_first_device(monkeypatch) -> None:
  make = MeshConfig.make

  def first_only(config, devices=None):
    return make(config, devices or jax.devices()[:1])

  monkeypatch.setattr(MeshConfig, "make", first_only)


@pytest.fixture
def on_one_device(monkeypatch):
  """Training sees the first device only."""
  use_first_device(monkeypatch)


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> pathlib.Path:
  """The workdir of an undisturbed run on one device. Not to be changed."""
  workdir = tmp_path_factory.mktemp("trained") / "run"
  with pytest.MonkeyPatch.context() as monkeypatch:
    use_first_device(monkeypatch)
    assert trainer.train(tiny_run.settings(), str(workdir))
  return workdir


@pytest.fixture(scope="session")
def cached_files(tmp_path_factory) -> tuple[pathlib.Path, pathlib.Path]:
  """(pictures, weights) of `cached_run`. Not to be changed."""
  folder = tmp_path_factory.mktemp("files")
  cached_run.write_pictures(folder / "pictures")
  weights = cached_run.write_weights(folder / "weights")
  return folder / "pictures", weights


@pytest.fixture(scope="session")
def caches(cached_files, tmp_path_factory):
  """(folder, manifests) of its image stream's caches. Not to be changed."""
  out = tmp_path_factory.mktemp("caches") / "out"
  run = cached_run.settings(*cached_files)
  return out, write_caches(run, cached_run.request(out))
