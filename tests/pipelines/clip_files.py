"""A tiny converted CLIP image encoder, random, made without PyTorch."""

import pathlib

import jax
import numpy as np
import orbax.checkpoint as ocp

from ddit_jax.checkpoint.manifest import write_manifest
from ddit_jax.conversion.record import CheckpointRecord, write_record
from ddit_jax.encoders.clip_vision import (
  CLIP_VISION_SIZES,
  clip_vision_encoder,
)

CONFIG = CLIP_VISION_SIZES["toy"]
NAME = "image_encoder"


def variables() -> dict:
  """Random weights."""
  random = np.random.default_rng(0)

  def draw(leaf):
    return (random.normal(size=leaf.shape) * 0.3).astype(np.float32)

  return jax.tree.map(draw, clip_vision_encoder(CONFIG).abstract_variables())


def write(folder: pathlib.Path) -> pathlib.Path:
  """What the converter writes of it."""
  for kind, tree in variables().items():
    with ocp.PyTreeCheckpointer() as checkpointer:
      checkpointer.save((folder / NAME / kind).absolute(), tree)
  write_record(folder, CheckpointRecord(target=NAME, configs={NAME: CONFIG}))
  write_manifest(folder)
  return folder
