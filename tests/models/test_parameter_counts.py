"""Counts by part against published checkpoints, and the table in the docs."""

import pathlib
import re

import jax
import pytest

from ddit_jax.encoders.clip import CLIP_SIZES, clip_text_encoder
from ddit_jax.encoders.t5 import T5_SIZES, t5_encoder
from ddit_jax.encoders.vae import AutoencoderConfig, autoencoder
from ddit_jax.models.config import SIZES
from ddit_jax.models.module import (
  Network,
  ParameterCounts,
  counts_table,
  parameter_counts,
)

DOCS = pathlib.Path(__file__).parents[2] / "docs" / "parameter_counts.md"

MODULES = {
  f"`{name}`": lambda name=name: Network(SIZES[name])
  for name in SIZES
  if not name.startswith("toy_")
}
MODULES |= {
  "T5-XXL encoder": lambda: t5_encoder(T5_SIZES["xxl"]),
  "autoencoder": lambda: autoencoder(AutoencoderConfig()),
  "CLIP-L": lambda: clip_text_encoder(CLIP_SIZES["L"]),
  "CLIP-G": lambda: clip_text_encoder(CLIP_SIZES["G"]),
}


@pytest.fixture(scope="module")
def found():
  """Our counts of every network; nothing is allocated."""
  return {
    name: parameter_counts(module().abstract_variables())
    for name, module in MODULES.items()
  }


# Elements of the published checkpoints' tensors, added up by their own names
# (D-DiT's transformer_blocks.*, SD3-medium's single file, T5 v1.1 XXL, SD3's
# AutoencoderKL) or, of CLIP, by transformers' CLIPTextModelWithProjection.
PUBLISHED = {
  "`sd3_medium`": {
    "image stream": 1_019_768_832,
    "text stream": 1_019_768_832,
    "text head": 49_337_700,
    "context embedding": 6_292_992,
    "image head": 4_820_032,
    "time embedding": 2_755_584,
    "patch embedding": 99_840,
    "null image": 12_288,
  },
  "`sd3_medium_base`": {
    "image stream": 1_019_768_832,
    "text stream": 989_082_624,
    "context embedding": 6_292_992,
    "pooled embedding": 5_508_096,
    "image head": 4_820_032,
    "time embedding": 2_755_584,
    "patch embedding": 99_840,
  },
  "T5-XXL encoder": {
    "blocks": 4_630_708_224,
    "token embedding": 131_596_288,
    "final norm": 4_096,
    "position bias": 2_048,
  },
  "autoencoder": {"decoder": 49_545_475, "encoder": 34_274_208},
  "CLIP-L": {
    "blocks": 85_054_464,
    "token embedding": 37_945_344,
    "projection": 589_824,
    "position embedding": 59_136,
    "final norm": 1_536,
  },
  "CLIP-G": {
    "blocks": 629_678_080,
    "token embedding": 63_242_240,
    "projection": 1_638_400,
    "position embedding": 98_560,
    "final norm": 2_560,
  },
}
TOTALS = {
  "`sd3_medium`": 2_102_856_100,
  "`sd3_medium_base`": 2_028_328_000,
  "T5-XXL encoder": 4_762_310_656,
  "autoencoder": 83_819_683,
  "CLIP-L": 123_650_304,
  "CLIP-G": 694_659_840,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_checkpoints(found, name):
  assert found[name].parts == PUBLISHED[name]
  assert found[name].total == TOTALS[name]
  is_mmdit = name.startswith("`")
  assert found[name].stored == (192 * 192 * 1536 if is_mmdit else 0)


@pytest.mark.parametrize("name", [n for n in SIZES if f"`{n}`" in MODULES])
def test_total_is_what_the_network_says(found, name):
  assert found[f"`{name}`"].total == Network(SIZES[name]).num_parameters()


def test_parts_by_hand():
  def array(*shape):
    return jax.ShapeDtypeStruct(shape, "float32")

  variables = {
    "params": {
      "blocks": {"image": {"a": array(3, 5)}, "text": {"a": array(3, 2)}},
      "last_block": {"image": {"a": array(7)}, "text": {"b": {"c": array(1)}}},
      "time_embedding": {"kernel": array(10, 10), "bias": array()},
      "null_image": array(4),
    },
    "constants": {"position_table": array(2, 2, 6)},
  }
  counts = parameter_counts(variables)
  assert list(counts.parts.items()) == [
    ("time embedding", 101),
    ("image stream", 22),
    ("text stream", 7),
    ("null image", 4),
  ]
  assert counts.stored == 24
  assert counts.total == 134
  del variables["constants"]
  assert parameter_counts(variables).stored == 0


def test_table():
  counts = {
    "network": ParameterCounts(parts={"a": 1200, "bb": 34}, stored=5),
    "text_encoder": ParameterCounts(parts={"a": 7}, stored=0),
  }
  assert counts_table(counts).splitlines() == [
    "network                1,234",
    "  a                    1,200",
    "  bb                      34",
    "  stored, not trained      5",
    "text_encoder               7",
    "  a                        7",
  ]


def documented():
  """Network -> part -> number, as the docs' table says."""
  table: dict[str, dict[str, int]] = {}
  for line in DOCS.read_text().splitlines():
    row = re.fullmatch(r"\| (.*?) \| (.*?) \| ([\d,]+) \|", line)
    if row:
      name, part, number = row.groups()
      table.setdefault(name, {})[part] = int(number.replace(",", ""))
  return table


def test_the_docs_have_these_numbers(found):
  expected = {}
  for name, counts in found.items():
    expected[name] = {"**all**": counts.total, **counts.parts}
    if counts.stored:
      expected[name]["stored, not trained"] = counts.stored
  assert documented() == expected
