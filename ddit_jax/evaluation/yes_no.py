"""POPE: yes/no answers from free text, and their confusion scores.

Source: evaluate.py of AoiDragon/POPE at 08d957b. The positive class is "yes".
"""

from collections.abc import Sequence
from dataclasses import dataclass

_NO_WORDS = frozenset({"No", "not", "no"})
LABELS = ("yes", "no")


@dataclass(frozen=True, kw_only=True)
class YesNoScores:
  """Confusion counts and derived scores, every score in [0, 1].

  Attributes:
    true_positives: "yes" said where "yes" is right.
    false_positives: "yes" said where "no" is right.
    true_negatives: "no" said where "no" is right.
    false_negatives: "no" said where "yes" is right.
    accuracy: fraction of right answers.
    precision: fraction of right answers among those that say "yes".
    recall: fraction of found answers among those that should be "yes".
    f1: harmonic mean of precision and recall.
    yes_ratio: fraction of answers that say "yes".
    undefined: names of the scores above whose denominator is zero; they are
      reported as 0 (the published script stops with a division by zero).
  """

  true_positives: int
  false_positives: int
  true_negatives: int
  false_negatives: int
  accuracy: float
  precision: float
  recall: float
  f1: float
  yes_ratio: float
  undefined: tuple[str, ...]


def parse_yes_no(text: str) -> str:
  """ "no" if the first sentence has the word No, no or not, else "yes".

  The sentence ends at the first full stop, commas are removed, and words are
  split at single spaces only. So "NO", "no!", "Nope" and the empty text are
  "yes": published behaviour, kept.
  """
  first_sentence = text.split(".")[0].replace(",", "")
  is_negative = not _NO_WORDS.isdisjoint(first_sentence.split(" "))
  return "no" if is_negative else "yes"


def yes_no_scores(labels: Sequence[str], answers: Sequence[str]) -> YesNoScores:
  """Scores free-text `answers` against `labels` ("yes" or "no"), in order.

  Raises:
    ValueError: for no items, unequal lengths, or a label that is not yes/no.
  """
  if not labels or len(labels) != len(answers):
    raise ValueError(
      f"{len(labels)} labels for {len(answers)} answers: give one answer a "
      "label, and at least one"
    )
  if unknown := sorted(set(labels) - set(LABELS)):
    raise ValueError(f"labels must be yes or no, got {unknown}")
  pairs = [
    (label, parse_yes_no(answer))
    for label, answer in zip(labels, answers, strict=True)
  ]
  return scores_from_counts(
    true_positives=pairs.count(("yes", "yes")),
    false_positives=pairs.count(("no", "yes")),
    true_negatives=pairs.count(("no", "no")),
    false_negatives=pairs.count(("yes", "no")),
  )


def scores_from_counts(
  *,
  true_positives: int,
  false_positives: int,
  true_negatives: int,
  false_negatives: int,
) -> YesNoScores:
  """The scores derived from the four confusion counts.

  Raises:
    ValueError: when all counts are zero.
  """
  said_yes = true_positives + false_positives
  is_yes = true_positives + false_negatives
  total = said_yes + true_negatives + false_negatives
  if not total:
    raise ValueError("all four counts are zero: there is nothing to score")
  precision = true_positives / said_yes if said_yes else 0.0
  recall = true_positives / is_yes if is_yes else 0.0
  # The published script multiplies first and adds last: same order, same bits.
  f1 = 2 * precision * recall / (precision + recall) if true_positives else 0.0
  is_undefined = {
    "precision": not said_yes,
    "recall": not is_yes,
    "f1": not true_positives,
  }
  return YesNoScores(
    true_positives=true_positives,
    false_positives=false_positives,
    true_negatives=true_negatives,
    false_negatives=false_negatives,
    accuracy=(true_positives + true_negatives) / total,
    precision=precision,
    recall=recall,
    f1=f1,
    yes_ratio=said_yes / total,
    undefined=tuple(name for name, flag in is_undefined.items() if flag),
  )
