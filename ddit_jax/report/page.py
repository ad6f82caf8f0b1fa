"""write_report: one HTML file with everything inside it."""

import dataclasses
import json
import math
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import numpy as np
from jaxtyping import UInt8
from markupsafe import Markup, escape

from ddit_jax.files import replace_file
from ddit_jax.monitor.image_grid import png_base64
from ddit_jax.report import charts

# The text of a still masked token in `unmasking["texts"]`.
MASKED_SIGN = "□"

# Scalar name -> (chart title, vertical axis, colour), in this order.
_CURVES = {
  "loss/image": ("Image loss", "flow matching loss", "#3b82f6"),
  "loss/text": ("Text loss", "masked diffusion loss", "#e8590c"),
  "loss/total": ("Total loss", "weighted sum of both", "#868e96"),
  "validation/total": ("Validation loss", "weighted sum, EMA", "#868e96"),
  "speed/steps_per_second": ("Speed", "steps per second", "#12a594"),
}
# Generated images in sight; the others are folded.
_NUM_UNFOLDED = 10
_OTHER_COLOR = "#12a594"
# Scalar name -> label of its smoothed end.
_LAST = {
  "loss/image": "last image loss",
  "loss/text": "last text loss",
  "validation/total": "last validation loss",
  "speed/steps_per_second": "steps per second",
}
_Metrics = Mapping[str, dict[str, Any]]
_NOT_CURVES = ("step", "time")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShownItem:
  """One item of a benchmark with what a model made of it.

  Attributes:
    name: of the item.
    images: label -> uint8 [height, width, 1 or 3], shown side by side.
    texts: label -> text.
  """

  name: str
  images: Mapping[str, UInt8[np.ndarray, "height width channels"]]
  texts: Mapping[str, str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
  """What a page shows; a part without data gets no section.

  Images are uint8 [height, width, 1 or 3].

  Attributes:
    title: heading and window title.
    summary: description of the run; blank lines separate paragraphs.
    config: the config, nested dicts.
    scalars: the lines of scalars.jsonl: {"step", "time", name: value or None}.
    grids: description -> an image of labelled samples, shown at full width.
    generated: {"image", "prompt": str, "is_correct": bool or None, "verdict":
      str} for each generated image.
    answered: {"image", "caption": str, "reference": str, "answers":
      [(question, answer, reference), ...]} for each image.
    unmasking: how one text appears: {"image", "prompt": str, "times": one
      number in [0, 1] per row, "texts": tokens per row, masked ones written
      as `MASKED_SIGN`}.
    metrics: name -> {"value", "n", "interval": [low, high], "oracle",
      "prior_baseline", and optionally "controls": {name: value}}. Shown as per
      cent if all are in [0, 1], unless "is_share" is False; None is allowed for
      all but "value".
      The part of a name before its first "/" is its group.
    examples: title -> items of a benchmark.
    headline: names of the metrics shown as large numbers, at most six; without
      metrics these are the last losses, the speed and the time.
    seconds: phase -> seconds, in the order they ran.
  """

  title: str
  summary: str
  config: Mapping[str, Any]
  scalars: Sequence[dict[str, Any]]
  grids: Mapping[str, UInt8[np.ndarray, "height width channels"]] = (
    dataclasses.field(default_factory=dict)
  )
  generated: Sequence[dict[str, Any]] = ()
  answered: Sequence[dict[str, Any]] = ()
  unmasking: dict[str, Any] | None = None
  metrics: _Metrics = dataclasses.field(default_factory=dict)
  examples: Mapping[str, Sequence[ShownItem]] = dataclasses.field(
    default_factory=dict
  )
  headline: Sequence[str] = ()
  seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    for phase, value in self.seconds.items():
      if not (math.isfinite(value) and value >= 0):
        raise ValueError(
          f"phase {phase!r} took {value} seconds: not a duration"
        )
    if self.unmasking:
      times, texts = self.unmasking["times"], self.unmasking["texts"]
      if len(times) != len(texts):
        raise ValueError("unmasking needs one text for each time")
    if unknown := set(self.headline) - set(self.metrics):
      raise ValueError(f"headline names no metric: {sorted(unknown)}")


def write_report(path: str | os.PathLike, report: Report) -> None:
  """Writes a page that needs no network, no script and no other file.

  Args:
    path: the HTML file; its folder is created if absent.
    report: what the page shows.

  Raises:
    ValueError: a record lacks a key, or an image is of another type or shape.
  """
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader("ddit_jax.report", "."),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.filters |= {
    "number": _number,
    "duration": _duration,
    "image": image_source,
    "name": _breakable,
  }
  rows = {name: _metric_row(name, m) for name, m in report.metrics.items()}
  charted = curves(report.scalars)
  try:
    page = environment.get_template("template.html").render(
      vars(report)
      | {
        "paragraphs": [p for p in report.summary.split("\n\n") if p.strip()],
        "headline": [rows[name] for name in report.headline],
        "groups": _groups(rows),
        "has_oracle": any(
          m["oracle"] is not None for m in report.metrics.values()
        ),
        "run_figures": run_figures(report.scalars, report.seconds),
        "masked_sign": MASKED_SIGN,
        "num_unfolded": _NUM_UNFOLDED,
        "main_curves": [c for c in charted if c["name"] in _CURVES],
        "other_curves": [c for c in charted if c["name"] not in _CURVES],
        "config": _flat_config(report.config),
      }
    )
  except jinja2.UndefinedError as error:
    raise ValueError(
      f"a record of the report is incomplete: {error}"
    ) from error
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  replace_file(path, page.encode())


def _breakable(name: str) -> Markup:
  """A name that a narrow column breaks after its signs, never in a word."""
  return Markup(re.sub(r"(?<=[/_.])(?=\w)", "<wbr>", str(escape(name))))


def _groups(rows: Mapping[str, dict]) -> dict[str, list[dict]]:
  """The metrics' rows by the first part of their names."""
  groups: dict[str, list[dict]] = {}
  for name, row in rows.items():
    group, slash, _ = name.partition("/")
    groups.setdefault(group if slash else "metrics", []).append(row)
  return groups


def _number(value: float | None) -> str:
  """A short number: "0.123", "60 000", "5.6e-05"; a dash for None and NaN."""
  if value is None or not math.isfinite(value):
    return "–"
  if abs(value) < 1e3 or abs(value) >= 1e9:
    return f"{value:.3g}"
  return f"{value:,.0f}".replace(",", "\u202f")


def _duration(seconds: float) -> str:
  """Seconds in a suitable unit: "42 s", "3.5 min", "2.1 h"."""
  if seconds < 120:
    return f"{seconds:.{1 if seconds < 10 else 0}f}\u202fs"
  if seconds < 7200:
    return f"{seconds / 60:.1f}\u202fmin"
  return f"{seconds / 3600:.1f}\u202fh"


def _flat_config(config: dict[str, Any], path: str = "") -> dict[str, str]:
  """Nested values by dotted name: {"model.width": "64"}; {} stays "{}"."""
  flat = {}
  for key, value in config.items():
    name = f"{path}.{key}" if path else str(key)
    if isinstance(value, dict) and value:
      flat |= _flat_config(value, name)
    else:
      is_text = isinstance(value, str)
      flat[name] = value if is_text else json.dumps(value, default=str)
  return flat


def image_source(image: UInt8[np.ndarray, "height width channels"]) -> str:
  """The pixels as a data URI with a PNG inside."""
  return f"data:image/png;base64,{png_base64(image, 'of a report')}"


def _metric_row(name: str, metric: dict[str, Any]) -> dict[str, Any]:
  """A metric's texts, and the places of its marks on a bar in per cent."""
  try:
    value, oracle, prior = (
      metric[key] for key in ("value", "oracle", "prior_baseline")
    )
    (low, high), n = metric["interval"] or (None, None), metric["n"]
  except KeyError as error:
    raise ValueError(f"metric {name!r} lacks {error}") from error
  controls = metric.get("controls") or {}
  numbers = _finite(value, low, high, oracle, prior, *controls.values())
  is_share = metric.get("is_share", True)
  is_fraction = is_share and all(0 <= x <= 1 for x in numbers)
  left = 0.0 if is_fraction else min(0.0, *numbers)
  right = 1.0 if is_fraction else max(1e-12, *numbers)

  def text(x: float | None) -> str:
    if is_fraction and _finite(x):
      return f"{100 * x:.1f}\u202f%"
    return _number(x)

  def mark(kind: str, *ends: float | None) -> list[tuple[str, float, float]]:
    if len(_finite(*ends)) < len(ends):
      return []
    places = [100 * (x - left) / (right - left) for x in ends]
    return [(kind, min(places), max(places) - min(places))]

  return {
    "name": name,
    "value": text(value),
    "interval": "" if low is None else f"{text(low)} to {text(high)}",
    "oracle": text(oracle),
    "prior": text(prior),
    "n": _number(n),
    "controls": ", ".join(f"{k} {text(v)}" for k, v in controls.items()),
    "marks": [
      *mark("value", 0.0, value),
      *mark("interval", low, high),
      *mark("prior", prior),
      *mark("oracle", oracle),
    ],
  }


def _finite(*values: float | None) -> list[float]:
  return [x for x in values if x is not None and math.isfinite(x)]


def run_figures(
  scalars: Sequence[dict[str, Any]], seconds: Mapping[str, float]
) -> dict[str, str]:
  """The ends of the curves, and the time."""
  figures = {}
  if scalars:
    figures["training steps"] = _number(max(line["step"] for line in scalars))
  for name, label in _LAST.items():
    values = _finite(*(line.get(name) for line in scalars))
    if values:
      figures[label] = _number(charts.running_mean(np.array(values))[-1])
  if seconds:
    figures["total time"] = _duration(sum(seconds.values()))
  return figures


def curves(scalars: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
  """One chart per scalar: the main ones first, the others by name."""
  present = {name for line in scalars for name in line} - set(_NOT_CURVES)
  names = [name for name in _CURVES if name in present]
  found = []
  for name in names + sorted(present - _CURVES.keys()):
    lines = [line for line in scalars if name in line]
    label = name.rpartition("/")[2].replace("_", " ")
    title, y_label, color = _CURVES.get(name, (name, label, _OTHER_COLOR))
    svg, note = charts.line_chart(
      [line["step"] for line in lines],
      [line[name] for line in lines],
      y_label=y_label,
      color=color,
    )
    found.append(
      {"name": name, "title": title, "svg": Markup(svg), "note": note}
    )
  return found
