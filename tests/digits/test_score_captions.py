"""Caption metrics on hand-written captions of hand-made scenes."""

import numpy as np
import pytest

from ddit_jax.digits import grammar
from ddit_jax.digits.datasets import CaptionItem
from ddit_jax.digits.scenes import Scene, Thing
from ddit_jax.digits.scores import caption_metrics
from ddit_jax.digits.world import COLORS


def item(digit, color, *, is_held_out=False):
  thing = Thing(digit=digit, color=COLORS.index(color), x=8.0, y=8.0, glyph=0)
  return CaptionItem(
    image=np.zeros((16, 16, 3), np.uint8),
    scene=Scene((thing,)),
    is_held_out=is_held_out,
  )


ITEMS = [
  item(7, "red"),
  item(2, "blue", is_held_out=True),
  item(3, "green"),
  item(4, "pink", is_held_out=True),
]


def values(metrics):
  return {name: record["value"] for name, record in metrics.items()}


def test_digit_and_colour_are_right_alone_or_together():
  captions = [
    "a red seven",
    "there is a two in cyan",  # digit right
    "a picture of a green five",  # colour right
    "pink pink four",  # states nothing: no article
  ]
  found = values(caption_metrics(ITEMS, captions, seed=0))
  assert found["caption/digit"] == 2 / 4
  assert found["caption/color"] == 2 / 4
  assert found["caption/digit_and_color"] == 1 / 4
  assert found["caption/digit_and_color_seen_pairs"] == 1 / 2
  assert found["caption/digit_and_color_heldout_pairs"] == 0
  # Stated: 2 + 2 + 2 + 0 facts, of which 2 + 1 + 0 are true; true are 8.
  assert found["caption/fact_precision"] == pytest.approx(3 / 6)
  assert found["caption/fact_recall"] == pytest.approx(3 / 8)
  assert found["caption/fact_f1"] == pytest.approx(2 * 3 / (6 + 8))


def test_naming_more_than_there_is_is_not_right():
  captions = ["a red seven and a two"] + ["a blue two"] * 3
  found = values(caption_metrics(ITEMS, captions, seed=0))
  assert found["caption/digit_and_color_seen_pairs"] == 0
  assert found["caption/digit_and_color_heldout_pairs"] == 1 / 2
  assert found["caption/color"] == 2 / 4


def test_complete_captions_reach_the_ceiling():
  rng = np.random.default_rng(0)
  captions = [grammar.caption(i.scene, rng, is_complete=True) for i in ITEMS]
  for record in caption_metrics(ITEMS, captions, seed=0).values():
    assert record["value"] == record["ceiling"] == 1
    assert record["interval"] == [1, 1]
    assert record["baseline"] == 0  # all four scenes differ in everything


def test_one_caption_for_all_scores_its_own_baseline():
  metrics = caption_metrics(ITEMS, ["a red seven"] * 4, seed=0)
  for name, record in metrics.items():
    assert record["baseline"] == pytest.approx(record["value"]), name
  assert metrics["caption/digit"]["value"] == 1 / 4


def test_saying_nothing_scores_zero():
  for record in caption_metrics(ITEMS, [""] * 4, seed=0).values():
    assert record["value"] == record["baseline"] == 0


def test_bad_input_is_named():
  with pytest.raises(ValueError, match="4 items for 1 captions"):
    caption_metrics(ITEMS, ["a red seven"], seed=0)
  with pytest.raises(ValueError, match="all 2 items ask for the same"):
    caption_metrics([ITEMS[0]] * 2, ["a red seven"] * 2, seed=0)
