"""Caches of a tiny run, shared by all tests of this folder."""

import pathlib

import pytest

from ddit_jax.experiment.write_cache import write_caches
from tests import tiny_run
from tests.experiment import cached_run


@pytest.fixture(scope="session")
def cached_files(tmp_path_factory) -> tuple[pathlib.Path, pathlib.Path]:
  """(pictures, weights) of `cached_run`. Not to be changed."""

  def write(folder):
    cached_run.write_pictures(folder / "pictures")
    cached_run.write_weights(folder / "weights")

  folder = tiny_run.made_once(tmp_path_factory, "cached_run", write)
  return folder / "pictures", folder / "weights"


@pytest.fixture(scope="session")
def caches(cached_files, tmp_path_factory):
  """(folder, manifests) of its image task's caches. Not to be changed."""
  run = cached_run.settings(*cached_files)

  def write(folder):
    return write_caches(run, cached_run.request(folder))

  folder = tiny_run.made_once(tmp_path_factory, "caches", write)
  return folder, write(folder)
