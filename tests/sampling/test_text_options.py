"""Settings that are refused, and presets."""

import dataclasses
import typing

import pytest

from ddit_jax.sampling.text_options import PRESETS, TextSampling
from ddit_jax.sampling.text_planners import ORDERS


@pytest.mark.parametrize(
  ("values", "part"),
  [
    ({"num_steps": 0}, "got 0"),
    ({"num_steps": 10**9}, "num_steps must be in 1 to 10000, got 1000000000"),
    ({"temperature": -1.0}, "temperature is negative: -1.0"),
    ({"top_p": 0.0}, r"top_p must be in \(0, 1\], got 0.0"),
    ({"threshold": 1.5}, r"threshold must be in \(0, 1\], got 1.5"),
    ({"max_entropy": float("nan")}, "max_entropy is negative: nan"),
    ({"remask_probability": 2.0}, "remask_probability must be in"),
    ({"block_length": -1}, "block_length must be in 0 to"),
    ({"num_drafts": 65}, "num_drafts must be in 1 to 64, got 65"),
    (
      {"num_drafts": 2, "order": "confidence"},
      "num_drafts is 2, but the order 'confidence' draws anew",
    ),
    ({"image_refresh_interval": 0}, "image_refresh_interval must be in 1 to"),
    ({"image_refresh_interval": 2, "num_drafts": 2}, "set one of them to 1"),
    ({"order": "remasking", "block_length": 4}, "order is 'remasking', which"),
    ({"order": "random"}, "order must be one of"),
    ({"preset": "quick"}, "preset must be one of"),
    (
      {"preset": "fast", "threshold": 0.3},
      "threshold is 0.3, but the preset 'fast' sets 0.9",
    ),
  ],
)
@pytest.mark.usefixtures("unchecked_shapes")
def test_bad_settings_name_the_value(values, part):
  with pytest.raises(ValueError, match=part):
    TextSampling(**values)


def test_choices_are_the_tables():
  kinds = typing.get_type_hints(TextSampling)
  assert typing.get_args(kinds["order"]) == tuple(ORDERS)
  assert set(typing.get_args(kinds["preset"])) == {"", *PRESETS}


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_preset_sets_its_fields_and_leaves_the_others(name):
  sampling = TextSampling(preset=name, top_p=0.8)
  for field, value in PRESETS[name].items():
    assert getattr(sampling, field) == value
  assert sampling.top_p == 0.8
  # As stored in a checkpoint, and with one more change.
  again = TextSampling(**dataclasses.asdict(sampling))
  assert again == sampling
  assert dataclasses.replace(again, top_p=0.9).order == sampling.order


def test_the_papers_numbers_of_steps():
  steps = {name: TextSampling(preset=name).num_steps for name in PRESETS}
  assert steps["short_answer"] == 16
  assert steps["long_answer"] == 256
  assert steps["caption"] == 64
