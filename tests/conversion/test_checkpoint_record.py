"""The plain facts of a converted checkpoint survive a round trip."""

import json

import pytest

from ddit_jax.conversion.checkpoint_record import (
  CheckpointRecord,
  SourceRecord,
  read_record,
  read_source_record,
  write_record,
  write_source_record,
)
from ddit_jax.conversion.errors import ConversionError
from ddit_jax.encoders.clip import CLIP_SIZES
from ddit_jax.encoders.t5 import T5_SIZES
from ddit_jax.encoders.vae import AutoencoderConfig
from ddit_jax.models.config import SIZES

RECORD = CheckpointRecord(
  target="sd3",
  configs={
    "network": SIZES["sd3_medium_base"],
    "text_encoder": T5_SIZES["xxl"],
    "vae": AutoencoderConfig(block_widths=(32, 64)),
    "clip_l": CLIP_SIZES["L"],
    "clip_g": CLIP_SIZES["G"],
  },
)


def test_round_trip(tmp_path):
  write_record(tmp_path, RECORD)
  assert read_record(tmp_path) == RECORD
  body = json.loads((tmp_path / "config.json").read_text())
  assert body["schema_version"] == 1
  assert body["network"]["depth"] == 24


def test_source_round_trip(tmp_path):
  record = SourceRecord(
    layout="sd3_folder",
    files={"vae": {"a": "x.safetensors"}},
    configs={"vae": {"act_fn": "silu"}},
  )
  write_source_record(tmp_path, record)
  assert read_source_record(tmp_path) == record


@pytest.mark.parametrize("content", [None, "{", "[]", "{}"])
def test_not_a_converted_checkpoint(tmp_path, content):
  if content is not None:
    (tmp_path / "config.json").write_text(content)
  with pytest.raises(ConversionError, match="not a checkpoint that this tool"):
    read_record(tmp_path)


def test_other_versions_and_unknown_fields(tmp_path):
  write_record(tmp_path, RECORD)
  path = tmp_path / "config.json"
  body = json.loads(path.read_text())
  path.write_text(json.dumps(body | {"schema_version": 2}))
  with pytest.raises(ConversionError, match="schema_version 2"):
    read_record(tmp_path)
  body["network"]["colour"] = "red"
  path.write_text(json.dumps(body))
  with pytest.raises(ValueError, match=r"MMDiTConfig has no \['colour'\]"):
    read_record(tmp_path)
