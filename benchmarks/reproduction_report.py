"""Cells of several seeds to tables.json and Markdown, see reproduce_tables."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

Metrics = Mapping[str, Mapping[str, Any]]
# Title, {row's label: one evaluation of each seed}, metrics that are columns.
Table = tuple[str, Mapping[str, Sequence[pathlib.Path]], Sequence[str]]


def write_tables(tables: Mapping[str, Table], folder: pathlib.Path) -> str:
  """Writes tables.json and tables.md; the Markdown text.

  Args:
    tables: by name; missing evaluations are omitted, and each cell has its
      number of seeds.
    folder: output folder.
  """
  found, sections = {}, []
  for name, (title, rows, columns) in tables.items():
    cells = {
      label: _row(
        [metrics for metrics in map(_read, folders) if metrics], columns
      )
      for label, folders in rows.items()
    }
    found[name] = {"title": title, "rows": cells}
    sections.append(_markdown(title, cells, columns))
  text = "\n\n".join(sections) + "\n"
  _write(folder / "tables.json", json.dumps(found, indent=2) + "\n")
  _write(folder / "tables.md", text)
  return text


def over_seeds(measured: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """One metric of several seeds as one cell.

  All seeds use the same evaluation set, so the errors from its choice of items
  do not average out: the interval's ends are the means of the seeds' ends, as
  if these errors were equal, which is never too narrow. The seeds' own values
  show how much training varies.

  Args:
    measured: "value", "interval" (low, high), "n" and "prior_baseline" of each
      seed.
  """
  values = [one["value"] for one in measured]
  ends = zip(*(one["interval"] for one in measured), strict=True)
  return {
    "value": _mean(values),
    "interval": [_mean(end) for end in ends],
    "n": measured[0]["n"],
    "prior_baselines": [one["prior_baseline"] for one in measured],
    "seeds": values,
  }


def _row(seeds: Sequence[Metrics], columns: Sequence[str]) -> dict[str, Any]:
  if not seeds:
    return {}
  return {
    column: over_seeds([metrics[column] for metrics in seeds])
    for column in columns
  }


def _markdown(title: str, rows: Mapping[str, Any], columns) -> str:
  lines = [
    f"### {title}",
    "",
    f"| | {' | '.join(f'`{column}`' for column in columns)} | seeds |",
    f"| --- |{' --- |' * (len(columns) + 1)}",
  ]
  for label, cells in rows.items():
    texts = [_cell(cells[column]) for column in columns] if cells else []
    num_seeds = len(cells[columns[0]]["seeds"]) if cells else 0
    texts += ["not run"] * (len(columns) - len(texts))
    lines.append(f"| {label} | {' | '.join(texts)} | {num_seeds} |")
  ran = [cells for cells in rows.values() if cells]
  notes = [
    _note(column, [cells[column] for cells in ran]) for column in columns if ran
  ]
  return "\n".join([*lines, "", f"{', '.join(notes) or 'Not run'}."])


def _note(column: str, cells: Sequence[Mapping[str, Any]]) -> str:
  baselines = [100 * one for cell in cells for one in cell["prior_baselines"]]
  texts = sorted({f"{min(baselines):.1f}", f"{max(baselines):.1f}"}, key=float)
  return f"`{column}`: n = {cells[0]['n']}, prior {' to '.join(texts)}"


def _cell(cell: Mapping[str, Any]) -> str:
  low, high = (100 * end for end in cell["interval"])
  seeds = ", ".join(f"{100 * value:.1f}" for value in cell["seeds"])
  return f"{100 * cell['value']:.1f} [{low:.1f}, {high:.1f}] ({seeds})"


def _mean(values: Sequence[float]) -> float:
  return sum(values) / len(values)


def _read(folder: pathlib.Path) -> Metrics | None:
  path = folder / "metrics.json"
  if not path.is_file():
    return None
  return json.loads(path.read_text(encoding="utf-8"))["metrics"]


def _write(path: pathlib.Path, text: str) -> None:
  path.write_text(text, encoding="utf-8")
