"""The MM-DiT's configuration: from `config.json` or shapes, and back."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ddit_jax.conversion.config_fields import (
  JsonConfig,
  count_numbered,
  shape_of,
)
from ddit_jax.conversion.errors import ConversionError
from ddit_jax.conversion.safetensors_files import StoredTensor
from ddit_jax.models.config import MMDiTConfig
from ddit_jax.models.embeddings import sine_cosine_table

# Stability's file does not say how many heads; its code makes each this wide.
SINGLE_FILE_HEAD_DIM = 64
NUM_NULL_IMAGE_TOKENS = 8
# SD3's pooled vector; D-DiT's config.json carries the field but not the branch.
_POOLED_DIM = 2048

Tensors = Mapping[str, StoredTensor]


def network_config(
  naming: str, tensors: Tensors, json_config: JsonConfig | None
) -> MMDiTConfig:
  """The configuration of the network that a checkpoint holds.

  Args:
    naming: "ddit_network", "sd3_network" or "single_network".
    tensors: its tensors; only shapes and the position table are used.
    json_config: its `config.json`; None for the single file.

  Raises:
    ConversionError: fields or tensors are missing or contradict each other.
  """
  if naming == "single_network":
    return _from_shapes(tensors)
  return _from_json(naming, tensors, json_config)


def ddit_config(source: MMDiTConfig, vocab_size: int) -> MMDiTConfig:
  """The D-DiT that starts from SD3's network `source`."""
  return dataclasses.replace(
    source,
    vocab_size=vocab_size,
    pooled_dim=0,
    num_null_image_tokens=NUM_NULL_IMAGE_TOKENS,
    is_last_text_block_full=True,
  )


def network_json(config: MMDiTConfig) -> dict[str, Any]:
  """A `config.json` from which diffusers (or D-DiT) builds the network.

  Raises:
    ConversionError: this network is neither SD3 nor D-DiT.
  """
  wrong = {
    "mlp_ratio": config.mlp_ratio != 4,
    "has_qk_norm": config.has_qk_norm,
    "context_dim": config.context_dim is None,
  }
  if bad := [name for name, is_wrong in wrong.items() if is_wrong]:
    field = bad[0]
    raise ConversionError(
      f"a network with {field} = {getattr(config, field)} has no layout of SD3 "
      "or D-DiT: it cannot be exported"
    )
  is_ddit = config.is_last_text_block_full
  fields = {
    "_class_name": "SD3JointModelFlexible"
    if is_ddit
    else "SD3Transformer2DModel",
    "_diffusers_version": "0.31.0",
    "attention_head_dim": config.head_dim,
    "caption_projection_dim": config.width,
    "dual_attention_layers": [],
    "in_channels": config.latent_channels,
    "joint_attention_dim": config.context_dim,
    "num_attention_heads": config.num_heads,
    "num_layers": config.depth,
    "out_channels": config.latent_channels,
    "patch_size": config.patch_size,
    "pooled_projection_dim": config.pooled_dim or _POOLED_DIM,
    "pos_embed_max_size": config.max_grid,
    "qk_norm": None,
    "sample_size": config.base_grid * config.patch_size,
  }
  return fields | ({"vocab_size": config.vocab_size} if is_ddit else {})


def base_grid_of(table: np.ndarray) -> int:
  """The `base_grid` with which a stored position table was made.

  Args:
    table: [grid, grid, width], possibly rounded to half precision.

  Returns:
    The whole number up to grid whose table is nearest in row 0.
  """
  grid, _, width = table.shape
  # The fastest sine and cosine along a row; a table of width 4 has only them.
  row = table[0][:, [0, width // 4]].astype(np.float32)
  errors = [
    np.square(sine_cosine_table(grid, 4, base)[0, :, :2] - row).mean()
    for base in range(1, grid + 1)
  ]
  return int(np.argmin(errors)) + 1


def _from_json(
  naming: str, tensors: Tensors, config: JsonConfig
) -> MMDiTConfig:
  for name, allowed in (("qk_norm", None), ("dual_attention_layers", ())):
    value = config.fields.get(name) or allowed
    if value != allowed:
      raise ConversionError(
        f"{config.path} has {name} = {value!r}: this is SD3.5, whose network "
        "is another (see its q/k norm); use SD3-medium or D-DiT"
      )
  heads, head_dim = (
    config.need("num_attention_heads"),
    config.need("attention_head_dim"),
  )
  width = heads * head_dim
  config.refuse_unless(
    "caption_projection_dim", width, reason="is not the network's width"
  )
  channels = config.need("in_channels")
  config.refuse_unless(
    "out_channels", channels, None, reason="is not in_channels"
  )
  patch_size = config.need("patch_size")
  hidden, _ = shape_of(tensors, "transformer_blocks.0.ff.net.0.proj.weight", 2)
  shared = dict(
    depth=config.need("num_layers"),
    width=width,
    num_heads=heads,
    mlp_ratio=hidden // width,
    patch_size=patch_size,
    latent_channels=channels,
    max_grid=config.need("pos_embed_max_size"),
    base_grid=config.need("sample_size") // patch_size,
    context_dim=config.need("joint_attention_dim"),
  )
  if naming == "sd3_network":
    return _sd3(shared, config.need("pooled_projection_dim"))
  vocab_size, _ = shape_of(tensors, "text_proj_out.weight", 2)
  config.refuse_unless(
    "vocab_size", vocab_size, reason="is not the rows of text_proj_out"
  )
  return MMDiTConfig(
    **shared,
    vocab_size=vocab_size,
    num_null_image_tokens=shape_of(tensors, "null_image_embd", 3)[1],
  )


def _from_shapes(tensors: Tensors) -> MMDiTConfig:
  width, channels, patch_size, _ = shape_of(
    tensors, "x_embedder.proj.weight", 4
  )
  if width % SINGLE_FILE_HEAD_DIM:
    raise ConversionError(
      f"the network's width {width} is not a multiple of "
      f"{SINGLE_FILE_HEAD_DIM}, the width of a head in Stability's files"
    )
  _, num_positions, _ = shape_of(tensors, "pos_embed", 3)
  grid = math.isqrt(num_positions)
  if grid**2 != num_positions:
    raise ConversionError(
      f"the position table has {num_positions} rows, not a square number"
    )
  hidden, _ = shape_of(tensors, "joint_blocks.0.x_block.mlp.fc1.weight", 2)
  table = tensors["pos_embed"].read().reshape(grid, grid, -1)
  shared = dict(
    depth=count_numbered(tensors, "joint_blocks."),
    width=width,
    num_heads=width // SINGLE_FILE_HEAD_DIM,
    mlp_ratio=hidden // width,
    patch_size=patch_size,
    latent_channels=channels,
    max_grid=grid,
    base_grid=base_grid_of(table),
    context_dim=shape_of(tensors, "context_embedder.weight", 2)[1],
  )
  return _sd3(shared, shape_of(tensors, "y_embedder.mlp.0.weight", 2)[1])


def _sd3(shared: dict[str, Any], pooled_dim: int) -> MMDiTConfig:
  return MMDiTConfig(
    **shared,
    vocab_size=0,
    pooled_dim=pooled_dim,
    num_null_image_tokens=0,
    is_last_text_block_full=False,
  )
