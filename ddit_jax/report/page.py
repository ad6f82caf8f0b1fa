"""write_report: one HTML file with everything inside it."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from ddit_jax.report import charts, sheets, tables
from ddit_jax.report.markup import duration, escape, number
from ddit_jax.report.style import CSS

# Scalar name -> (chart title, vertical axis, colour), in this order.
_CURVES = {
  "loss/image": ("Image loss", "flow matching loss", "image"),
  "loss/text": ("Text loss", "masked diffusion loss", "text"),
  "loss/total": ("Total loss", "weighted sum of both", "total"),
  "speed/steps_per_second": ("Speed", "steps per second", "other"),
}
_NOT_CURVES = ("step", "time")


def write_report(
  path: str | os.PathLike,
  *,
  title: str,
  summary: str,
  config: dict[str, Any],
  scalars: Sequence[dict[str, Any]],
  drawings: Sequence[dict[str, Any]] = (),
  readings: Sequence[dict[str, Any]] = (),
  unmasking: dict[str, Any] | None = None,
  metrics: dict[str, dict[str, Any]] | None = None,
  seconds: dict[str, float] | None = None,
  is_log_x: bool = False,
) -> None:
  """Writes a page that needs no network, no script and no other file.

  A part without data gets no section.

  Args:
    path: the HTML file; its folder is made when absent.
    title: heading and window title.
    summary: what was run and what came out; blank lines part paragraphs.
    config: the settings, nested dicts.
    scalars: the lines of scalars.jsonl: {"step", "time", name: value or None}.
    drawings: see `sheets.drawing_sheet`.
    readings: see `sheets.reading_sheet`.
    unmasking: see `sheets.unmasking_strip`.
    metrics: see `tables.metric_table`.
    seconds: phase -> seconds.
    is_log_x: True draws training steps on a logarithmic axis.

  Raises:
    ValueError: a record lacks a key, or an image is not uint8 [h, w, 1 or 3].
  """
  sections = {
    "results": ("Results", metrics and tables.metric_table(metrics)),
    "drawings": (
      "Text to image",
      drawings and sheets.drawing_sheet(list(drawings)),
    ),
    "readings": (
      "Image to text",
      readings and sheets.reading_sheet(list(readings)),
    ),
    "unmasking": (
      "How a caption appears",
      unmasking and sheets.unmasking_strip(unmasking),
    ),
    "training": ("Training", _curves(scalars, is_log_x=is_log_x)),
    "time": ("Where the time went", seconds and tables.seconds_table(seconds)),
    "settings": ("Settings", config and _settings(config)),
  }
  shown = {key: part for key, part in sections.items() if part[1]}
  page = _page(
    title,
    header=_header(title, summary, _key_figures(scalars, seconds or {})),
    sections=shown,
  )
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(page, encoding="utf-8")


def _page(
  title: str, *, header: str, sections: dict[str, tuple[str, str]]
) -> str:
  links = "".join(
    f'<a href="#{key}">{name}</a>' for key, (name, _) in sections.items()
  )
  bodies = "".join(
    f'<section id="{key}"><h2>{name}</h2>{_LEADS.get(key, "")}{body}</section>'
    for key, (name, body) in sections.items()
  )
  # The policy makes the browser itself refuse whatever is not in the file.
  policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
  return (
    '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    '<meta name="color-scheme" content="light dark">'
    f"<title>{escape(title)}</title><style>{CSS}</style></head><body>"
    f'{header}<nav aria-label="Sections">{links}</nav><main>{bodies}</main>'
    "<footer>Written by ddit_jax. Everything on this page is inside this one "
    "file.</footer></body></html>\n"
  )


# One sentence below a heading that says how to read what follows.
_LEADS = {
  "results": (
    '<p class="lead">Ceiling: the same measurement on real images or '
    "texts. Baseline: what one gets without looking at the input.</p>"
  ),
  "drawings": (
    '<p class="lead">Each image was drawn by the model from the line below '
    "it.</p>"
  ),
  "readings": (
    '<p class="lead">The model sees the image only; the reference is what '
    "the image was made from.</p>"
  ),
  "unmasking": (
    '<p class="lead">All tokens start hidden at t = 1 and are revealed step '
    "by step until t = 0. New tokens are marked.</p>"
  ),
  "training": (
    '<p class="lead">Faint: every logged value. Strong: running mean, whose '
    "first and last value stand above each chart.</p>"
  ),
}


def _header(title: str, summary: str, figures: list[tuple[str, str]]) -> str:
  paragraphs = "".join(
    f"<p>{escape(part.strip())}</p>"
    for part in summary.split("\n\n")
    if part.strip()
  )
  tiles = "".join(
    f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
    for name, value in figures
  )
  tiles = f'<dl class="tiles">{tiles}</dl>' if tiles else ""
  return f"<header><h1>{escape(title)}</h1>{paragraphs}{tiles}</header>"


def _key_figures(
  scalars: Sequence[dict[str, Any]], seconds: dict[str, float]
) -> list[tuple[str, str]]:
  figures = []
  if scalars:
    figures.append(("training steps", number(max(x["step"] for x in scalars))))
  for name, label in (
    ("loss/image", "last image loss"),
    ("loss/text", "last text loss"),
  ):
    values = np.array(_series(scalars, name).values, np.float64)
    values = values[np.isfinite(values)]
    if len(values):
      mean = charts.running_mean(values)[-1]
      figures.append((label, number(mean)))
  if seconds:
    figures.append(("time in all", duration(sum(seconds.values()))))
  return figures


def _curves(scalars: Sequence[dict[str, Any]], *, is_log_x: bool) -> str:
  present = {name for line in scalars for name in line} - set(_NOT_CURVES)
  main = [
    charts.line_chart(
      _series(scalars, name, colour),
      title=title,
      y_label=y_label,
      is_log_x=is_log_x,
    )
    for name, (title, y_label, colour) in _CURVES.items()
    if name in present
  ]
  others = [
    charts.line_chart(
      _series(scalars, name),
      title=name,
      y_label=name.rpartition("/")[2].replace("_", " "),
      is_log_x=is_log_x,
    )
    for name in sorted(present - _CURVES.keys())
  ]
  page = f'<div class="charts">{"".join(main)}</div>' if main else ""
  if others:
    word = "more curve" if len(others) == 1 else "more curves"
    page += (
      f"<details><summary>{len(others)} {word}</summary>"
      f'<div class="charts">{"".join(others)}</div></details>'
    )
  return page


def _series(
  scalars: Sequence[dict[str, Any]], name: str, colour: str = "other"
) -> charts.Series:
  lines = [line for line in scalars if name in line]
  return charts.Series(
    label=name,
    steps=[line["step"] for line in lines],
    values=[line[name] for line in lines],
    colour=colour,
  )


def _settings(config: dict[str, Any]) -> str:
  count = len(tables.flat_settings(config))
  return (
    f"<details><summary>All {count} settings of this run</summary>"
    f"{tables.config_table(config)}</details>"
  )
