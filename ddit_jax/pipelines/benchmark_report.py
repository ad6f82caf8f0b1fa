"""Figures, manifest and report.html of `ddit evaluate --tasks`."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ddit_jax.data.image import decode_image
from ddit_jax.experiment.config import Config
from ddit_jax.files import read_regular
from ddit_jax.json_files import write_json
from ddit_jax.pipelines.evaluation_task import BASELINE, TaskResult
from ddit_jax.protocols.item import Item
from ddit_jax.report.page import Report, ShownItem, write_report
from ddit_jax.scoring.benchmarks import BENCHMARKS, interval
from ddit_jax.scoring.scored import ItemScores

_THUMBNAIL = 192
_NUM_HEADLINES = 6


def write_results(
  folder: pathlib.Path,
  facts: Mapping[str, Any],
  results: Mapping[str, Sequence[TaskResult]],
  config: Config,
) -> None:
  """Writes metrics.json, manifest.json and report.html, and prints the figures.

  Args:
    folder: of the results.
    facts: of the run, its checkpoint and its baseline.
    results: of "checkpoint", and perhaps of the baseline, in the same order.
    config: of the run.
  """
  rows = {name: _rows(some) for name, some in results.items()}
  write_json(folder / "metrics.json", {"metrics": rows})
  write_json(
    folder / "manifest.json",
    dict(facts)
    | {"tasks": {r.task.name: _task_facts(r) for r in results["checkpoint"]}},
  )
  _write_page(folder / "report.html", facts, results, rows, config)
  print(_table(rows))
  for result in results["checkpoint"]:
    for note in result.notes:
      print(f"{result.task.name}: {note}")
  for name in ("metrics.json", "manifest.json", "report.html"):
    print(f"{name}: {folder / name}")


def _rows(results: Sequence[TaskResult]) -> dict[str, dict[str, Any]]:
  """Every figure with its interval, where it is a mean of items."""
  rows: dict[str, dict[str, Any]] = {}
  for result in results:
    intervals = {
      "/".join(filter(None, (result.task.name, prefix, figure))): _interval(
        items
      )
      for prefix, scored in result.scored.items()
      for figure, items in scored.items.items()
    }
    for name, value in result.figures().items():
      row = {"value": value, "n": None, "interval": None}
      rows[name] = row | intervals.get(name, {})
  return rows


def _interval(items: ItemScores) -> dict[str, Any]:
  estimate = interval(items)
  return {"n": estimate.n, "interval": [estimate.low, estimate.high]}


def _task_facts(result: TaskResult) -> dict[str, Any]:
  """What the figures of a task depend on, beside the checkpoint."""
  task, protocol = result.task, result.task.protocol
  return {
    "items": len(task.items),
    "items_blake2b": task.items_hash,
    "settings": result.settings,
    "images_per_prompt": protocol.images_per_prompt,
    "files": {
      role: {"path": str(path), "blake2b": task.hashes.get(path)}
      for role, path in task.files.items()
    },
    "scorers": {
      prefix or task.name: BENCHMARKS[part.scorer].source
      for prefix, part in protocol.parts.items()
    },
    "made_by_other_programs": protocol.tools,
    "published": protocol.published,
    "published_settings": protocol.source,
    "notes": result.notes,
  }


def _table(rows: Mapping[str, Mapping[str, dict]]) -> str:
  """All figures as text, the baseline's in a column of its own."""
  names = list(dict.fromkeys(name for some in rows.values() for name in some))
  width = max(map(len, names), default=0)
  lines = []
  for name in names:
    cells = [_cell(rows["checkpoint"].get(name))]
    if BASELINE in rows:
      cells.append(f"baseline {_cell(rows[BASELINE].get(name))}")
    lines.append(f"{name:<{width}}  {'  '.join(cells)}")
  return "\n".join(lines)


def _cell(row: Mapping[str, Any] | None) -> str:
  if row is None:
    return "-"
  text = f"{row['value']:.4g}"
  if row["interval"]:
    low, high = row["interval"]
    text += f" [{low:.4g}, {high:.4g}] n {row['n']}"
  return text


def _write_page(
  path: pathlib.Path,
  facts: Mapping[str, Any],
  results: Mapping[str, Sequence[TaskResult]],
  rows: Mapping[str, Mapping[str, dict]],
  config: Config,
) -> None:
  baseline = rows.get(BASELINE, {})
  metrics = {
    name: row
    | {"oracle": None, "prior_baseline": None, "is_share": False}
    | (
      {"controls": {BASELINE: baseline[name]["value"]}}
      if name in baseline
      else {}
    )
    for name, row in rows["checkpoint"].items()
  }
  checkpoint = facts["checkpoint"]
  report = Report(
    title=f"Benchmarks of {checkpoint['path']}",
    summary="\n\n".join(_summary(facts, results["checkpoint"])),
    config=dict(facts)
    | {"tasks": {r.task.name: _task_facts(r) for r in results["checkpoint"]}},
    scalars=[],
    metrics=metrics,
    headline=_headlines(results["checkpoint"], metrics),
    examples=_examples(results, config),
  )
  write_report(path, report)


def _summary(
  facts: Mapping[str, Any], results: Sequence[TaskResult]
) -> list[str]:
  """What was evaluated; then a paragraph for each task."""
  checkpoint, baseline = facts["checkpoint"], facts.get(BASELINE)
  paragraphs = [
    f"Weights {checkpoint['weights']} {checkpoint['blake2b']}, commit "
    f"{facts['commit'] or 'unknown'}. Intervals: 95 %, bootstrap over images "
    "or prompts."
  ]
  if baseline is not None:
    paragraphs.append(f"Baseline: {baseline['path']} {baseline['blake2b']}.")
  for result in results:
    published = result.task.protocol.published
    said = [f"published for D-DiT: {published}"] if published else []
    if said + result.notes:
      text = "; ".join(said + result.notes)
      paragraphs.append(f"{result.task.name}: {text}.")
  return paragraphs


def _headlines(
  results: Sequence[TaskResult], metrics: Mapping[str, Any]
) -> list[str]:
  """The figure of each task that papers report."""
  names = []
  for result in results:
    for prefix, part in result.task.protocol.parts.items():
      figure = BENCHMARKS[part.scorer].headline
      names.append("/".join(filter(None, (result.task.name, prefix, figure))))
  return [name for name in names if name in metrics][:_NUM_HEADLINES]


def _examples(
  results: Mapping[str, Sequence[TaskResult]], config: Config
) -> dict[str, list[ShownItem]]:
  """The worst items of each task, and random ones."""
  plan = config.benchmarks
  shown: dict[str, list[ShownItem]] = {}
  for number, result in enumerate(results["checkpoint"]):
    others = results.get(BASELINE)
    baseline = others[number] if others else None
    scores = _scores(result)
    items = {item.key: item for item in result.task.items}
    worst = sorted(scores, key=scores.__getitem__)[: plan.num_shown]
    rng = np.random.default_rng(plan.seed)
    some = rng.permutation(sorted(items))[: plan.num_shown].tolist()
    for title, keys in (
      (f"{result.task.name}: lowest scores", worst),
      (f"{result.task.name}: random, seed {plan.seed}", some),
    ):
      shown[title] = [
        _example(items[key], result, baseline, scores.get(key)) for key in keys
      ]
  return {title: some for title, some in shown.items() if some}


def _scores(result: TaskResult) -> dict[str, float]:
  """The scores behind the first figure that is a mean of items or of units.

  Scorers name items by their ids, units or image files. The score of a unit
  stands at its first item.
  """
  key_of: dict[str, str] = {}
  for item in result.task.items:
    key_of.setdefault(item.unit or item.key, item.key)
    path = pathlib.PurePath(item.path)
    key_of |= dict.fromkeys((item.key, item.path, path.name), item.key)
  # Last, because a subset may have keys that are numbers of other items.
  key_of |= _numbered(result.task.items)
  for scored in result.scored.values():
    for items in scored.items.values():
      if set(items.ids) <= key_of.keys():
        keys = [key_of[one] for one in items.ids]
        return dict(zip(keys, items.scores, strict=True))
  return {}


def _numbered(items: Sequence[Item]) -> dict[str, str]:
  """Id -> key, where scorers count the units of each split or subtask."""
  units: dict[str, dict[str, str]] = {}
  for item in items:
    part = item.facts.get("split") or item.facts.get("subtask")
    if part is not None:
      units.setdefault(part, {}).setdefault(item.unit or item.key, item.key)
  return {
    f"{part}/{number}": key
    for part, keys in units.items()
    for number, key in enumerate(keys.values(), 1)
  }


def _example(
  item: Item,
  result: TaskResult,
  baseline: TaskResult | None,
  score: float | None,
) -> ShownItem:
  prompt, output = result.prompts[item.key], result.outputs[item.key]
  texts = {"prompt": prompt} if prompt else {}
  images = {}
  if result.task.protocol.kind == "image":
    images["generated"] = _thumbnail(result.folder / output)
    if baseline is not None:
      path = baseline.folder / baseline.outputs[item.key]
      images[BASELINE] = _thumbnail(path)
    texts["drawn with"] = f"seed {result.settings['seed']}, index {item.draw}"
  else:
    if item.image is not None:
      images["shown"] = _thumbnail(item.image)
    elif result.task.read is not None:
      images["shown"] = result.task.read(item, _THUMBNAIL, "pad")
    if not isinstance(output, list):
      texts[result.task.protocol.kind] = str(output)
  if "record" in item.facts:
    texts["record"] = item.facts["record"]
  if "expected" in item.facts:
    texts["expected"] = str(item.facts["expected"])
  if score is not None:
    texts["score"] = f"{score:.4g}"
  return ShownItem(name=item.key, images=images, texts=texts)


def _thumbnail(path: pathlib.Path) -> np.ndarray:
  image = decode_image(read_regular(path), str(path))
  image.thumbnail((_THUMBNAIL, _THUMBNAIL))
  return np.asarray(image)
