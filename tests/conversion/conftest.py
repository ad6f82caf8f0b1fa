"""Checkpoints of all formats, made once, and full-precision products."""

import pathlib

import jax
import pytest
import torch

from ddit_jax.conversion.convert import ConvertOptions, convert, plan_import
from tests.conversion import checkpoints

# Networks this small gain nothing from threads, and PyTorch's wait by spinning.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def sd3_folder(tmp_path_factory) -> pathlib.Path:
  """Format (a). Tests must not change it."""
  folder = tmp_path_factory.mktemp("a") / "sd3"
  checkpoints.save_sd3_folder(folder)
  return folder


@pytest.fixture(scope="session")
def single_file(tmp_path_factory, sd3_folder) -> pathlib.Path:
  """Format (b) with the tensors of `sd3_folder`. Tests must not change it."""
  path = tmp_path_factory.mktemp("b") / "sd3.safetensors"
  checkpoints.save_single_file(path, sd3_folder)
  return path


@pytest.fixture(scope="session")
def ddit_folder(tmp_path_factory, sd3_folder) -> pathlib.Path:
  """Format (c). Tests must not change it."""
  folder = tmp_path_factory.mktemp("c") / "ddit"
  checkpoints.save_ddit_folder(folder, sd3_folder)
  return folder


@pytest.fixture(scope="session")
def converted(tmp_path_factory, sd3_folder, single_file, ddit_folder):
  """Every format and target, converted and verified once. Do not change."""
  root = tmp_path_factory.mktemp("converted")
  for name, source, fields in (
    ("a_sd3", sd3_folder, {"target": "sd3"}),
    ("b_sd3", single_file, {"target": "sd3"}),
    ("a_ddit", sd3_folder, {}),
    ("b_ddit", single_file, {"vocab_size": checkpoints.VOCABULARY}),
    ("c", ddit_folder, {}),
  ):
    options = ConvertOptions(is_verified=True, **fields)
    convert(plan_import(source, options), root / name, options)
  return root


@pytest.fixture(autouse=True)
def full_precision():
  with jax.default_matmul_precision("highest"):
    yield
