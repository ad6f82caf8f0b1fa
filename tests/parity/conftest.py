"""One tiny golden set and its converted checkpoints, made once."""

import pathlib

import jax
import pytest
import torch
from parity.checkpoints import Checkpoints, Loaded

from tests.parity import golden_sets

# Networks this small gain nothing from threads, and PyTorch's wait by spinning.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def golden_folder(tmp_path_factory) -> pathlib.Path:
  """Checkpoints in all layouts and arrays of PyTorch. Do not change."""
  folder = tmp_path_factory.mktemp("golden")
  golden_sets.write_set(folder)
  return folder


@pytest.fixture(scope="session")
def checkpoints(golden_folder, tmp_path_factory) -> Checkpoints:
  """The set's checkpoints, converted when first asked for."""
  return Checkpoints(golden_folder, tmp_path_factory.mktemp("converted"))


@pytest.fixture(scope="session")
def ddit(checkpoints) -> Loaded:
  """The D-DiT among them."""
  return checkpoints.get("ddit")


@pytest.fixture(autouse=True)
def full_precision():
  with jax.default_matmul_precision("highest"):
    yield
