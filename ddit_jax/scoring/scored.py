"""What every benchmark's scorer returns."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

_Number = float | int


@dataclass(frozen=True, kw_only=True)
class ItemScores:
  """The scores of single items behind a figure.

  The figure is their mean; with strata, the plain mean of the strata's means.
  (A figure that the official scorer rounds is the rounded mean.)

  Attributes:
    ids: names the items; the same in every run on the same references.
    groups: what items depend on together, the image or the prompt; intervals
      and tests resample whole groups.
    scores: in the figure's unit.
    strata: the part of each item, a task or split; empty for one part only.
  """

  ids: tuple[str, ...]
  groups: tuple[str, ...]
  scores: tuple[float, ...]
  strata: tuple[str, ...] = ()

  @classmethod
  def of(cls, rows: Iterable[tuple[str, str, float, str]]) -> "ItemScores":
    """From (id, group, score, stratum) of each item; at least one."""
    ids, groups, scores, strata = zip(*rows, strict=True)
    return cls(ids=ids, groups=groups, scores=scores, strata=strata)


@dataclass(frozen=True, kw_only=True)
class Scored:
  """Every figure of one benchmark on one set of predictions.

  Attributes:
    figures: name to number, or to the numbers of its parts, in the unit and
      with the rounding of the official scorer.
    items: name of a figure to the items whose mean it is; figures that are
      no means of items (BLEU, F1, the Fréchet distance) have none.
    notes: a sentence for each thing a reader of the figures must know, e.g.
      repeated predictions that were replaced.
  """

  figures: Mapping[str, _Number | Mapping[str, _Number]]
  items: Mapping[str, ItemScores] = field(default_factory=dict)
  notes: tuple[str, ...] = ()
