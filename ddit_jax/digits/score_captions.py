"""Generated captions into metrics, by the facts they state."""

from collections.abc import Sequence

import numpy as np

from ddit_jax.digits import grammar
from ddit_jax.digits.exam_sets import CaptionItem
from ddit_jax.digits.grammar import Facts
from ddit_jax.digits.metric_record import (
  Metrics,
  check_lengths,
  held_out_cells,
  metric_record,
  other_items,
)
from ddit_jax.evaluation.fact_scores import fact_scores


def caption_metrics(
  items: Sequence[CaptionItem], captions: Sequence[str], *, seed: int
) -> Metrics:
  """Scores generated captions.

  "caption/digit" is right if just the digits of the scene are named,
  "caption/color" if just its colours are, "caption/digit_and_color" if every
  digit is named with its colour and nothing else is. "_heldout_pairs" and
  "_seen_pairs" are the scenes with and without a composition that training
  never showed. "caption/fact_precision", "_recall" and "_f1" count the facts
  of grammar.scene_facts over all captions.

  The ceiling is 1: the grammar has a caption that states every fact of its
  scene, and training captions do. The baseline are the same captions, each
  scored on another scene. Intervals come from a bootstrap over scenes.

  Args:
    items: the scenes.
    captions: one generated caption a scene.
    seed: of the shuffle and the bootstrap.

  Raises:
    ValueError: for unequal lengths or fewer than two different scenes.
  """
  check_lengths(items, captions, "captions")
  true = [grammar.scene_facts(item.scene) for item in items]
  stated = [grammar.caption_facts(caption) for caption in captions]
  others = other_items(
    [item.scene for item in items], np.random.default_rng(seed)
  )
  shuffled = [stated[other] for other in others]
  right, blind_right = (
    {
      "digit": _equal(given, true, _digits),
      "color": _equal(given, true, _colors),
      "digit_and_color": _equal(given, true, _digits)
      & _equal(given, true, _pairs),
    }
    for given in (stated, shuffled)
  )
  all_items = {"": np.arange(len(items))}
  cells = held_out_cells([item.is_held_out for item in items])
  metrics = {
    f"caption/{name}{suffix}": metric_record(
      hits[rows],
      ceiling=1.0,
      baseline=blind_right[name][rows].mean(),
      seed=seed,
    )
    for name, hits in right.items()
    for suffix, rows in (
      cells if name == "digit_and_color" else all_items
    ).items()
  }
  return metrics | _fact_metrics(stated, shuffled, true, seed=seed)


def _fact_metrics(
  stated: Sequence[Facts],
  shuffled: Sequence[Facts],
  true: Sequence[Facts],
  *,
  seed: int,
) -> Metrics:
  """Precision, recall and F1 as weighted means, so that they have intervals.

  Each is a ratio of sums over captions: a mean of the captions' own ratios,
  weighted by their denominators.
  """
  matched = np.array([len(s & t) for s, t in zip(stated, true, strict=True)])
  num_stated = np.array([len(facts) for facts in stated])
  num_true = np.array([len(facts) for facts in true])
  baseline = fact_scores(shuffled, true)["total"]
  ratios = {
    "precision": (matched, num_stated, baseline.precision),
    "recall": (matched, num_true, baseline.recall),
    "f1": (2 * matched, num_stated + num_true, baseline.f1),
  }
  return {
    f"caption/fact_{name}": metric_record(
      np.divide(top, bottom, out=np.zeros(len(top)), where=bottom > 0),
      weights=bottom,
      ceiling=1.0,
      baseline=blind,
      seed=seed,
    )
    for name, (top, bottom, blind) in ratios.items()
  }


def _equal(stated: Sequence[Facts], true: Sequence[Facts], part) -> np.ndarray:
  """Where the stated part of the facts is the true one, bool [n]."""
  pairs = zip(stated, true, strict=True)
  return np.array([part(s) == part(t) for s, t in pairs])


def _digits(facts: Facts) -> set[int]:
  return {fact[1] for fact in facts if fact[0] == "digit"}


def _colors(facts: Facts) -> set[int]:
  return {fact[2] for fact in facts if fact[0] == "pair"}


def _pairs(facts: Facts) -> set[tuple[int, int]]:
  return {fact[1:] for fact in facts if fact[0] == "pair"}
