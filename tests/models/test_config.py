"""Named sizes: published parameter counts, and bad shapes are refused."""

import math

import pytest

from ddit_jax.models.config import SIZES, MMDiTConfig, size
from ddit_jax.models.module import Network


def stream_numbers(cfg: MMDiTConfig, is_full: bool) -> int:
  """Numbers in one stream of one block, counted from the paper's figure."""
  w = cfg.width
  rows = 6 if is_full else 2
  total = rows * (w * w + w) + 3 * (w * w + w)
  if cfg.has_qk_norm:
    total += 2 * w // cfg.num_heads
  if is_full:
    hidden = cfg.mlp_ratio * w
    total += w * w + w + (w * hidden + hidden) + (hidden * w + w)
  return total


def numbers_by_hand(cfg: MMDiTConfig) -> int:
  w = cfg.width
  contents = cfg.patch_size**2 * cfg.latent_channels
  total = contents * w + w + cfg.num_null_image_tokens * w
  total += (256 * w + w) + (w * w + w)
  if cfg.pooled_dim:
    total += (cfg.pooled_dim * w + w) + (w * w + w)
  if cfg.context_dim is None:
    total += (cfg.vocab_size + cfg.max_text_length) * w
  else:
    total += cfg.context_dim * w + w
  total += cfg.depth * 2 * stream_numbers(cfg, True)
  if not cfg.is_last_text_block_full:
    total += stream_numbers(cfg, False) - stream_numbers(cfg, True)
  total += 2 * (w * w + w) + w * contents + contents
  return total + cfg.vocab_size * (w + 1)


def test_ddit_on_sd3_medium_has_the_published_parameter_count():
  network = Network(size("sd3_medium"))
  assert network.num_parameters() == 2_102_856_100
  head = network.abstract_variables()["params"]["text_head"]["project"]
  assert sum(math.prod(x.shape) for x in head.values()) == 49_337_700


def test_sd3_medium_has_the_published_parameter_count():
  network = Network(size("sd3_medium_base"))
  assert network.num_parameters() == 2_028_328_000
  table = network.abstract_variables()["constants"]["position_table"]
  assert math.prod(table.shape) == 56_623_104


def test_the_end_to_end_variant_has_the_papers_1_1_billion():
  """Table 9 gives "1.1B" and GPT-2's tokenizer of 50257 ids, and no more."""
  config = size("end_to_end")
  assert config.vocab_size == 50257 + 1
  num_parameters = Network(config).num_parameters()
  assert num_parameters == 1_076_789_522
  assert round(num_parameters / 1e9, 1) == 1.1


@pytest.mark.parametrize("name", sorted(SIZES))
def test_parameters_are_those_counted_by_hand(name):
  assert Network(SIZES[name]).num_parameters() == numbers_by_hand(SIZES[name])


def test_a_size_can_be_changed():
  config = size("tiny", depth=1, vocab_size=7)
  assert (config.depth, config.vocab_size, config.width) == (1, 7, 96)
  assert SIZES["tiny"].depth == 4


def test_an_unknown_size_names_those_there_are():
  with pytest.raises(ValueError, match=r"'huge'.*sd3_medium.*tiny"):
    size("huge")


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"depth": 10**9}, "depth must be in 1 to 1024, got 1000000000"),
    ({"depth": 0}, "depth must be in 1 to 1024, got 0"),
    ({"num_heads": 0}, "num_heads must be in 1 to 262144"),
    ({"width": -4}, "width must be in 1 to 262144"),
    ({"max_grid": 10**9}, "max_grid must be in 1 to 1024"),
    ({"num_heads": 5}, "96 is not divisible by num_heads 5"),
    ({"width": 90, "num_heads": 5}, "90 must be a multiple of 4"),
    ({"max_text_length": 0}, "max_text_length >= 1, got 0"),
    ({"is_last_text_block_full": False}, "is_last_text_block_full=True"),
  ],
)
def test_impossible_shapes_are_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    size("tiny", **changes)
