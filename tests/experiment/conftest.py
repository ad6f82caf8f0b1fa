"""One tiny training run, shared by all tests of this folder."""

import contextlib
import pathlib

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from ddit_jax.experiment import trainer
from ddit_jax.experiment.write_cache import write_caches
from ddit_jax.sharding.mesh import MeshConfig
from tests import tiny_run
from tests.experiment import cached_run

_is_quick = []


@contextlib.contextmanager
def quick_compilation(folder: pathlib.Path):
  """Optimises little, and reads back from `folder` what it has seen.

  Inside itself it does nothing, so that its end does not end the outer one.
  """
  if _is_quick:
    yield
    return
  _is_quick.append(True)
  jax.config.update("jax_disable_most_optimizations", True)
  jax.config.update("jax_compilation_cache_dir", str(folder))
  try:
    yield
  finally:
    _is_quick.clear()
    jax.config.update("jax_disable_most_optimizations", False)
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()


@pytest.fixture(scope="session")
def compiled_programs(tmp_path_factory) -> pathlib.Path:
  """Where compiled programs are kept."""
  return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module", autouse=True)
def quick(compiled_programs):
  """All tests of this folder compile quickly."""
  with quick_compilation(compiled_programs):
    yield


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
def trained(tmp_path_factory, compiled_programs) -> pathlib.Path:
  """The workdir of an undisturbed run on one device. Not to be changed."""
  workdir = tmp_path_factory.mktemp("trained") / "run"
  with (
    pytest.MonkeyPatch.context() as monkeypatch,
    quick_compilation(compiled_programs),
  ):
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
def caches(cached_files, tmp_path_factory, compiled_programs):
  """(folder, manifests) of its image stream's caches. Not to be changed."""
  out = tmp_path_factory.mktemp("caches") / "out"
  with quick_compilation(compiled_programs):
    run = cached_run.settings(*cached_files)
    return out, write_caches(run, cached_run.request(out))
