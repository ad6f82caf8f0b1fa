"""Precision, recall and F1 of the facts that captions state."""

from collections import Counter
from collections.abc import Hashable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

_Fact = tuple[Hashable, ...]  # kind first: ("digit", 7), ("pair", 7, "red")


@dataclass(frozen=True, kw_only=True)
class FactScore:
  """Agreement of stated facts with true ones, summed over all items.

  Attributes:
    matched: facts that are both stated and true.
    stated: facts that were stated.
    true: facts that could have been stated.
  """

  matched: int
  stated: int
  true: int

  @property
  def precision(self) -> float:
    """Fraction of stated facts that are true; 0 if nothing was stated."""
    return self.matched / self.stated if self.stated else 0.0

  @property
  def recall(self) -> float:
    """Fraction of true facts that were stated; 0 if nothing is true."""
    return self.matched / self.true if self.true else 0.0

  @property
  def f1(self) -> float:
    """Harmonic mean of precision and recall; 0 if nothing matched."""
    total = self.stated + self.true
    return 2 * self.matched / total if total else 0.0


def fact_scores(
  stated: Sequence[AbstractSet[_Fact]], true: Sequence[AbstractSet[_Fact]]
) -> dict[str, FactScore]:
  """Scores of each kind of fact, and "total" over all kinds.

  Facts are counted over all items before dividing (micro-average), so an item
  with many facts weighs more than one with few.

  Args:
    stated: the facts of each caption.
    true: the facts of each image, in the same order.

  Raises:
    ValueError: for no items, unequal lengths, or a kind named "total".
  """
  if not stated or len(stated) != len(true):
    raise ValueError(
      f"{len(stated)} sets of stated facts for {len(true)} sets of true ones: "
      "give one of each an item, and at least one item"
    )
  matched = [s & t for s, t in zip(stated, true, strict=True)]
  counts = [_count_by_kind(sets) for sets in (matched, stated, true)]
  kinds = sorted(set().union(*counts))
  if "total" in kinds:
    raise ValueError("a kind of fact is named total: call it something else")
  scores = {
    kind: FactScore(
      matched=counts[0][kind], stated=counts[1][kind], true=counts[2][kind]
    )
    for kind in kinds
  }
  total = FactScore(
    matched=counts[0].total(), stated=counts[1].total(), true=counts[2].total()
  )
  return scores | {"total": total}


def _count_by_kind(sets: Sequence[AbstractSet[_Fact]]) -> Counter[str]:
  return Counter(str(fact[0]) for facts in sets for fact in facts)
