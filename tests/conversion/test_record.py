"""Records survive a round trip; the report accounts for every tensor."""

import json
import math

import pytest

from ddit_jax.conversion.convert import ConvertOptions, plan_import
from ddit_jax.conversion.dtypes import CastCounter
from ddit_jax.conversion.record import (
  CheckpointRecord,
  conversion_report,
  read_record,
  read_source,
  report_lines,
  save_report,
  write_record,
  write_source,
)
from ddit_jax.encoders.clip import CLIP_SIZES
from ddit_jax.encoders.t5 import T5_SIZES
from ddit_jax.encoders.vae import AutoencoderConfig
from ddit_jax.errors import InputError
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


def test_source_round_trip(tmp_path, ddit_folder):
  write_source(tmp_path, plan_import(ddit_folder, ConvertOptions()))
  source = read_source(tmp_path)
  assert source["format"] == "ddit_folder"
  file = "diffusion_pytorch_model.safetensors"
  assert source["files"]["network"]["text_proj_out.bias"] == file
  assert source["configs"]["vae"]["act_fn"] == "silu"


@pytest.mark.parametrize("content", [None, "{", "[]", "{}"])
def test_not_a_converted_checkpoint(tmp_path, content):
  if content is not None:
    (tmp_path / "config.json").write_text(content)
  with pytest.raises(InputError, match="not a checkpoint that this tool"):
    read_record(tmp_path)


def test_other_versions_and_unknown_fields(tmp_path):
  write_record(tmp_path, RECORD)
  path = tmp_path / "config.json"
  body = json.loads(path.read_text())
  path.write_text(json.dumps(body | {"schema_version": 2}))
  with pytest.raises(InputError, match="schema_version 2"):
    read_record(tmp_path)
  body["network"]["colour"] = "red"
  path.write_text(json.dumps(body))
  with pytest.raises(ValueError, match="network has no field 'colour'"):
    read_record(tmp_path)


@pytest.fixture
def plan(single_file):
  return plan_import(single_file, ConvertOptions(dtype="float32"))


@pytest.fixture
def casts():
  counter = CastCounter()
  counter.add(("float16", "float32"), numbers=5, flushed=1, largest=2.5)
  return counter


def test_every_tensor_and_every_number_is_in_the_report(plan):
  report = conversion_report(plan, seed=7)
  stored = {
    tensor.name: math.prod(tensor.shape)
    for network in plan.source.networks.values()
    for tensor in network.tensors.values()
  }
  told = report["mapped"] + report["unused"]
  assert {name.split(":")[1]: count for name, count, _ in told} == stored
  assert len(told) == len(stored)
  filled = report["mapped"] + report["newly initialised"]
  assert 4 * sum(count for _, count, _ in filled) == plan.nbytes()


def test_lines_say_where_how_and_why(plan, casts):
  lines = report_lines(conversion_report(plan, 7), casts, ("a remark",))
  text = "\n".join(lines)
  name = "model.diffusion_model.joint_blocks.2.context_block.adaLN_modulation"
  assert (
    f"{name}.1.bias  -> network/params/blocks/text/modulation/project/bias"
    "[2][:2, :] (F16 to float32)"
  ) in text
  assert "text_head/project/kernel  normal(0,0.02), seed 7" in text
  assert "text/modulation/project/kernel[2][:, 2:, :]  zeros" in text
  assert "y_embedder.mlp.0.weight  pooled-text branch" in text
  assert "embed_tokens.weight  duplicate of shared.weight" in text
  assert (
    "cast  float16 to float32: 1 tensors, 5 values, largest 2.5, 1 became zero"
  ) in lines
  assert "note  a remark" in lines
  assert lines[-3].startswith("mapped: ") and lines[-1].startswith("unused: ")
  assert not any(len(line.splitlines()) > 1 for line in lines)


def test_report_json_holds_the_same(tmp_path, plan, casts):
  report = conversion_report(plan, 7)
  save_report(tmp_path, report, casts, plan.notes)
  body = json.loads((tmp_path / "report.json").read_text())
  assert {k: len(v) for k, v in body["tensors"].items()} == {
    k: len(v) for k, v in report.items()
  }
  count = {"tensors": 1, "numbers": 5, "flushed": 1, "largest": 2.5}
  assert body["casts"] == [{"from": "float16", "to": "float32", **count}]
  assert body["notes"] == list(plan.notes)
