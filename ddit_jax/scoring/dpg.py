"""DPG-Bench from its CSV and the answers about each tile."""

import csv
import io
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ddit_jax.errors import InputError, first_few
from ddit_jax.evaluation import dpg
from ddit_jax.evaluation.vqa_accuracy import mean
from ddit_jax.scoring import records
from ddit_jax.scoring.scored import ItemScores, Scored

_COLUMNS = ("item_id", "proposition_id", "dependency", "tuple")
_TILES = 4


@dataclass(frozen=True, kw_only=True)
class _Row:
  """One line of the CSV: a proposition of an image's prompt."""

  item: str
  proposition: dpg.Proposition


_PropositionAnswers = Mapping[str, Sequence[Mapping[int, str]]]


def dpg_files(
  predictions: pathlib.Path, references: Sequence[pathlib.Path]
) -> Scored:
  """The score, in per cent; every row of the CSV counts.

  Args:
    predictions: {"answers": {item_id: [{proposition_id: answer} of each
      tile]}}.
    references: one file, dpg_bench.csv.
  """
  return _score_dpg(read_rows(references[0]), read_answers(predictions))


def dpg_official_bugs(
  predictions: pathlib.Path, references: Sequence[pathlib.Path]
) -> Scored:
  """As published: the CSV's first row is skipped (ELLA's issues 60 and 61).

  The first image then lacks a parent, and it is dropped from the score.
  """
  rows = read_rows(references[0])
  return _score_dpg(rows, read_answers(predictions), official_bugs=True)


def _score_dpg(
  rows: Sequence[_Row],
  answers: _PropositionAnswers,
  *,
  official_bugs: bool = False,
) -> Scored:
  """Scores the images of the rows; see `dpg_files` and `dpg_official_bugs`."""
  prompts: dict[str, list[dpg.Proposition]] = {}
  for row in rows[1 if official_bugs else 0 :]:
    prompts.setdefault(row.item, []).append(row.proposition)
  _check_answers(prompts, answers)
  scores, dropped = _image_scores(prompts, answers)
  if dropped and not official_bugs:
    raise InputError(
      f"{len(dropped)} items depend on propositions that they lack "
      f"({first_few(dropped)}): the official script drops them; mend the CSV"
    )
  if not scores:
    raise InputError("no item is left to score")
  first, second = dpg.category_scores(
    [(prompts[key], answers[key]) for key in scores]
  )
  return Scored(
    figures={
      "score": 100 * mean(scores.values()),
      "level_1": first,
      "level_2": second,
      "items": len(scores),
      "dropped_items": len(dropped),
    },
    items={
      "score": ItemScores(
        ids=tuple(scores),
        groups=tuple(scores),
        scores=tuple(100 * score for score in scores.values()),
      )
    },
    notes=_notes(prompts, answers, dropped),
  )


def read_rows(path: pathlib.Path) -> list[_Row]:
  """The rows of dpg_bench.csv."""
  reader = csv.DictReader(io.StringIO(records.read_text(path), newline=""))
  try:
    lines = list(reader)
  except csv.Error as error:
    raise InputError(f"{path} is not a CSV file: {error}") from error
  if lacking := set(_COLUMNS) - set(reader.fieldnames or ()):
    raise InputError(f"{path} has no column {sorted(lacking)[0]}")
  if not lines:
    raise InputError(f"{path} has no rows")
  rows = [
    _row(line, f"{path}, row {number}") for number, line in enumerate(lines, 1)
  ]
  records.no_repeats(
    [(row.item, row.proposition.number) for row in rows],
    what="propositions",
    official="the official script keeps the last; remove the others",
  )
  return rows


def read_answers(path: pathlib.Path) -> _PropositionAnswers:
  """The answers of each item's tiles by proposition."""
  body = records.read_any(path)
  if not isinstance(body, dict) or not isinstance(body.get("answers"), dict):
    raise InputError(
      f'{path} must hold an object with "answers": item_id to the list of its '
      "tiles, each an object of proposition_id to answer"
    )
  found = {}
  for item, tiles in body["answers"].items():
    where = f"{path}, item {item!r}, tile"
    found[item] = [
      _tile(tile, f"{where} {number}")
      for number, tile in enumerate(records.checked(tiles, {}, where=where), 1)
    ]
  return found


def _row(line: Mapping[str, str | None], where: str) -> _Row:
  values = {name: line[name] for name in _COLUMNS}
  if None in values.values():
    raise InputError(f"{where} has too few columns")
  parents = values["dependency"].split(",")
  try:
    return _Row(
      item=values["item_id"],
      proposition=dpg.Proposition(
        number=int(values["proposition_id"]),
        # "0" says that there is none.
        parents=tuple(p for p in map(int, parents) if p),
        category=values["tuple"].split("(")[0].strip(),
      ),
    )
  except ValueError as error:
    raise InputError(
      f"{where}: proposition_id and dependency must be whole numbers, got "
      f"{values['proposition_id']!r:.40} and {values['dependency']!r:.40}"
    ) from error


def _tile(tile: Mapping[str, object], where: str) -> dict[int, str]:
  try:
    found = {int(key): answer for key, answer in tile.items()}
  except ValueError as error:
    raise InputError(
      f"{where}: its keys must be proposition ids: {error}"
    ) from error
  if not all(isinstance(answer, str) for answer in found.values()):
    raise InputError(f"{where}: answers must be texts")
  return found


def _image_scores(
  prompts: Mapping[str, Sequence[dpg.Proposition]], answers: _PropositionAnswers
) -> tuple[dict[str, float], list[str]]:
  """(scores, items that lack a parent where it is looked for)."""
  scores, dropped = {}, []
  for key, propositions in prompts.items():
    try:
      scores[key] = dpg.image_score(propositions, answers[key])
    except KeyError:
      dropped.append(key)
  return scores, dropped


def _notes(
  prompts: Mapping[str, Sequence[dpg.Proposition]],
  answers: _PropositionAnswers,
  dropped: Sequence[str],
) -> tuple[str, ...]:
  notes = []
  if dropped:
    notes.append(
      "dropped as in the official script, which skips the CSV's first row: "
      f"{first_few(dropped)}"
    )
  if unused := set(answers) - set(prompts):
    notes.append(f"{len(unused)} answered items are not in the CSV")
  if other := [key for key in prompts if len(answers[key]) != _TILES]:
    notes.append(
      f"{len(other)} items have another number of tiles than {_TILES} "
      f"({first_few(other)})"
    )
  return tuple(notes)


def _check_answers(
  prompts: Mapping[str, Sequence[dpg.Proposition]], answers: _PropositionAnswers
) -> None:
  if missing := [key for key in prompts if key not in answers]:
    raise InputError(
      f"{len(missing)} of {len(prompts)} items have no answers "
      f"({first_few(missing)}): the official script leaves them out of the "
      "mean; answer them, or remove their rows"
    )
  for key, some in prompts.items():
    asked = {one.number for one in some}
    for number, tile in enumerate(answers[key], 1):
      if lacking := sorted(asked - set(tile)):
        raise InputError(
          f"item {key!r}, tile {number} has no answer to {first_few(lacking)}: "
          "the official script stops here"
        )
