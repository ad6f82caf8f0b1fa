"""Every tensor is accounted for, in numbers that add up."""

import math

import pytest

from ddit_jax.conversion.convert import ConvertOptions, plan_import
from ddit_jax.conversion.dtypes import CastCounter
from ddit_jax.conversion.report import report_lines, report_record, report_rows


@pytest.fixture
def plan(single_file):
  return plan_import(single_file, ConvertOptions(dtype="float32"))


def of_fate(rows, fate):
  return [row for row in rows if row.fate == fate]


def test_every_tensor_has_a_row(plan):
  rows = report_rows(plan, seed=7)
  stored = {
    tensor.name: math.prod(tensor.shape)
    for part in plan.source.components.values()
    for tensor in part.tensors.values()
  }
  told = of_fate(rows, "mapped") + of_fate(rows, "left over")
  assert {r.name.split(":")[1]: r.numbers for r in told} == stored
  assert len(told) == len(stored)


def test_fresh_and_mapped_numbers_fill_our_arrays(plan):
  rows = report_rows(plan, seed=7)
  ours = sum(
    math.prod(shape)
    for part in plan.components
    for shape, _ in part.arrays.values()
  )
  filled = of_fate(rows, "mapped") + of_fate(rows, "fresh")
  assert sum(row.numbers for row in filled) == ours


def test_lines_say_where_how_and_why(plan):
  counter = CastCounter()
  counter.add(("float16", "float32"), numbers=5, flushed=1, largest=2.5)
  lines = report_lines(report_rows(plan, seed=7), counter, ("a remark",))
  text = "\n".join(lines)
  name = "model.diffusion_model.joint_blocks.2.context_block.adaLN_modulation"
  assert (
    f"{name}.1.bias  -> network/params/blocks/text/modulation/project/bias"
    "[2][0:2, :] (F16 to float32)"
  ) in text
  assert "text_head/project/kernel  normal(0, 0.02), seed 7" in text
  assert "text/modulation/project/kernel[2][:, 2:6, :]  zeros" in text
  assert "y_embedder.mlp.0.weight  pooled-text branch" in text
  assert "embed_tokens.weight  another copy of shared.weight, equal" in text
  assert (
    "cast  float16 to float32: 1 tensors, 5 numbers, largest 2.5, 1 became zero"
  ) in lines
  assert "note  a remark" in lines
  assert lines[-3].startswith("mapped: ") and lines[-1].startswith("left over")
  assert not any(len(line.splitlines()) > 1 for line in lines)


def test_record_holds_the_same(plan):
  rows = report_rows(plan, seed=7)
  counter = CastCounter()
  counter.add(("float16", "float32"), numbers=5, flushed=1, largest=2.5)
  record = report_record(rows, counter, plan.notes)
  assert sum(len(found) for found in record["tensors"].values()) == len(rows)
  assert record["casts"] == [
    {
      "from": "float16",
      "to": "float32",
      "tensors": 1,
      "numbers": 5,
      "flushed": 1,
      "largest": 2.5,
    }
  ]
  assert record["notes"] == list(plan.notes)
