"""Two results of `ddit score` on the same items."""

import pathlib
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ddit_jax.errors import InputError, first_few
from ddit_jax.evaluation.paired import PairedDifference, paired_difference
from ddit_jax.json_files import read_json_object
from ddit_jax.scoring import records
from ddit_jax.scoring.scored import ItemScores

_FIELDS = {
  "benchmark": records.TEXT,
  "figures": (dict,),
  "references": (dict,),
  "items": (dict,),
}
_COLUMNS = ("ids", "groups", "scores", "strata")


@dataclass(frozen=True, kw_only=True)
class ScoreFile:
  """What `ddit score --out` wrote.

  Attributes:
    path: of the file.
    benchmark: its name.
    figures: name to number, or to the numbers of its parts.
    references: hash of each reference file.
    items: the items behind each figure that is their mean.
  """

  path: pathlib.Path
  benchmark: str
  figures: Mapping[str, Any]
  references: Mapping[str, str]
  items: Mapping[str, ItemScores]


def read_score_file(path: pathlib.Path) -> ScoreFile:
  """Reads a file of `ddit score --out`.

  Raises:
    InputError: another file.
  """
  body = read_json_object(path, max_bytes=records.MAX_BYTES)
  where = f"{path} (from ddit score --out?)"
  records.check_fields(body, _FIELDS, where=where)
  hashes = body["references"]
  records.check_fields(
    hashes, dict.fromkeys(hashes, records.TEXT), where=f"{where}, references"
  )
  return ScoreFile(
    path=path,
    benchmark=body["benchmark"],
    figures=body["figures"],
    references=body["references"],
    items={
      name: _items(value, f"{path}, items of {name!r}")
      for name, value in body["items"].items()
    },
  )


def compare(first: ScoreFile, second: ScoreFile) -> dict[str, PairedDifference]:
  """The paired difference of every figure that is a mean of items.

  Raises:
    InputError: other benchmarks, references or items.
  """
  if first.benchmark != second.benchmark:
    raise InputError(
      f"{first.path} is of {first.benchmark}, {second.path} of "
      f"{second.benchmark}: only results of one benchmark compare"
    )
  if sorted(first.references.values()) != sorted(second.references.values()):
    raise InputError(
      f"{first.path} and {second.path} were scored against different "
      "references: score both against the same files"
    )
  if not first.items:
    raise InputError(
      f"{first.benchmark} has no scores of single items, so nothing can be "
      "tested: compare the intervals of several runs"
    )
  return {
    name: _difference(name, items, second)
    for name, items in first.items.items()
  }


def comparison_report(
  first: ScoreFile,
  second: ScoreFile,
  differences: Mapping[str, PairedDifference],
) -> dict[str, Any]:
  """A comparison as JSON: both runs' figures and the tests."""
  return {
    "benchmark": first.benchmark,
    "references": first.references,
    "first": {"file": str(first.path), "figures": first.figures},
    "second": {"file": str(second.path), "figures": second.figures},
    "differences": {name: asdict(one) for name, one in differences.items()},
  }


def _difference(
  name: str, items: ItemScores, second: ScoreFile
) -> PairedDifference:
  if name not in second.items:
    raise InputError(f"{second.path} has no items of {name!r}")
  others = second.items[name]
  place = {key: number for number, key in enumerate(others.ids)}
  missing = [key for key in items.ids if key not in place]
  if missing or len(place) != len(items.ids):
    raise InputError(
      f"{name}: {len(items.ids)} items of the first run, {len(place)} of the "
      f"second, {len(missing)} of them missing there ({first_few(missing)}): "
      "score both runs on the same items"
    )
  return paired_difference(
    items.scores,
    [others.scores[place[key]] for key in items.ids],
    groups=items.groups,
    strata=items.strata or None,
  )


def _items(value: Any, where: str) -> ItemScores:
  records.check_fields(value, dict.fromkeys(_COLUMNS, (list,)), where=where)
  ids, groups, scores, strata = (value[name] for name in _COLUMNS)
  if not all(isinstance(one, str) for one in (*ids, *groups, *strata)):
    raise InputError(f"{where}: ids, groups and strata must be texts")
  # Also refuses NaN, and whole numbers that are too large for a float.
  if not all(
    type(one) in records.NUMBER and abs(one) <= sys.float_info.max
    for one in scores
  ):
    raise InputError(f"{where}: scores must be finite numbers")
  if not ids or len(set(ids)) != len(ids):
    raise InputError(f"{where}: ids must be different from each other")
  lengths = {len(groups), len(scores), len(strata or ids)}
  if lengths != {len(ids)}:
    raise InputError(f"{where}: give one group and score for each id")
  return ItemScores(
    ids=tuple(ids),
    groups=tuple(groups),
    scores=tuple(scores),
    strata=tuple(strata),
  )
