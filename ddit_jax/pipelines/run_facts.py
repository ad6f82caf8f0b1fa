"""What a number depends on, for the manifest beside it."""

import dataclasses
import importlib.metadata
import pathlib
import platform
import shutil
import subprocess
import sys
from typing import Any

import jax

import ddit_jax
from ddit_jax.checkpoint.manifest import contents_digest
from ddit_jax.checkpoint.steps import step_folder
from ddit_jax.checkpoint.store import checkpoints_in
from ddit_jax.experiment.config import Config
from ddit_jax.experiment.pretrained import PretrainedModel
from ddit_jax.files import local_path
from ddit_jax.pipelines.pipeline import Pipeline
from ddit_jax.pipelines.sd3 import Sd3Pipeline

_LIBRARIES = (
  "ddit_jax",
  "jax",
  "jaxlib",
  "flax",
  "numpy",
  "orbax-checkpoint",
  "pillow",
)


def _weights_hash(
  path: str, pipeline: Pipeline | Sd3Pipeline, weights: str
) -> str:
  """BLAKE2b of the network's files, as their manifest lists them.

  Args:
    path: where `pipeline` was loaded from.
    pipeline: the model.
    weights: "ema" or "params", of a run.
  """
  if PretrainedModel.is_at(path):
    return contents_digest(local_path(path), "network")
  return contents_digest(
    step_folder(checkpoints_in(path), pipeline.step), weights
  )


def checkpoint_facts(
  path: str, pipeline: Pipeline | Sd3Pipeline, weights: str
) -> dict[str, Any]:
  """What was evaluated."""
  facts = {"path": str(local_path(path)), "weights": weights}
  if isinstance(pipeline, Pipeline):
    facts |= {"step": pipeline.step, "seed": pipeline.config.seed}
  return facts | {"blake2b": _weights_hash(path, pipeline, weights)}


def program_facts(config: Config) -> dict[str, Any]:
  """The program, its machine and its settings."""
  return {
    "command": sys.argv,
    "commit": _commit(),
    "python": platform.python_version(),
    "libraries": _versions(),
    "devices": [str(device) for device in jax.devices()],
    "device_kind": jax.devices()[0].device_kind,
    "config": dataclasses.asdict(config),
  }


def _versions() -> dict[str, str]:
  versions = {}
  for name in _LIBRARIES:
    try:
      versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return versions


def _commit() -> str:
  """The commit of the sources, "-dirty" if changed; "" if git cannot say."""
  root = pathlib.Path(ddit_jax.__file__).parents[1]
  if not (root / ".git").exists() or shutil.which("git") is None:
    return ""
  found = subprocess.run(
    ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"],
    capture_output=True,
    text=True,
    check=False,
  )
  return found.stdout.strip()
