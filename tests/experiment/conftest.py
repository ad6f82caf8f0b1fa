"""Caches of a tiny run, shared by all tests of this folder."""

import pathlib

import pytest

from ddit_jax.experiment.write_cache import write_caches
from tests.experiment import cached_run


@pytest.fixture(scope="session")
def cached_files(tmp_path_factory) -> tuple[pathlib.Path, pathlib.Path]:
  """(pictures, weights) of `cached_run`. Not to be changed."""
  folder = tmp_path_factory.mktemp("files")
  cached_run.write_pictures(folder / "pictures")
  weights = cached_run.write_weights(folder / "weights")
  return folder / "pictures", weights


@pytest.fixture(scope="session")
def caches(cached_files, tmp_path_factory):
  """(folder, manifests) of its image task's caches. Not to be changed."""
  out = tmp_path_factory.mktemp("caches") / "out"
  run = cached_run.settings(*cached_files)
  return out, write_caches(run, cached_run.request(out))
