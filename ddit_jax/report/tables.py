"""Tables of the report: metrics with bars, seconds of a phase, settings."""

import json
import math
from typing import Any

from ddit_jax.report.markup import duration, escape, number, percent, require

_METRIC_KEYS = ("value", "n", "interval", "ceiling", "baseline")
_PHASE_COLOURS = 6


def metric_table(metrics: dict[str, dict[str, Any]]) -> str:
  """One row a metric: value, interval as a bar, baseline, ceiling, count.

  Args:
    metrics: name -> {"value", "n", "interval": [low, high], "ceiling",
      "baseline", and optionally "controls": {name: value}}. Numbers of which
      all lie in [0, 1] are shown as per cent; None is allowed for all but
      "value" and "n".

  Raises:
    ValueError: a metric lacks one of the keys.
  """
  rows = "".join(_metric_row(name, m) for name, m in metrics.items())
  return (
    '<table class="metrics"><thead><tr><th scope="col">metric</th>'
    '<th scope="col">value</th><th scope="col" class="wide">'
    '<span class="legend"><i class="key fill"></i>value '
    '<i class="key span"></i>95 % interval <i class="key base"></i>baseline '
    '<i class="key ceil"></i>ceiling</span></th>'
    '<th scope="col" class="end">baseline</th>'
    '<th scope="col" class="end">ceiling</th>'
    '<th scope="col" class="end">n</th></tr></thead>'
    f"<tbody>{rows}</tbody></table>"
  )


def seconds_table(seconds: dict[str, float]) -> str:
  """A bar divided among the phases, and their seconds as a list.

  Args:
    seconds: phase -> seconds, in the order they ran.

  Raises:
    ValueError: a negative or not finite number of seconds.
  """
  for phase, value in seconds.items():
    if not (math.isfinite(value) and value >= 0):
      raise ValueError(f"phase {phase!r} took {value} seconds: not a duration")
  total = sum(seconds.values()) or 1.0
  parts, rows = [], []
  for index, (phase, value) in enumerate(seconds.items()):
    colour = f"phase{index % _PHASE_COLOURS}"
    share = 100 * value / total
    parts.append(f'<i class="{colour}" style="flex-grow:{value / total:.6f}">')
    rows.append(
      f'<tr><th scope="row"><i class="key {colour}"></i>{escape(phase)}</th>'
      f"<td>{duration(value)}</td><td>{share:.1f}\u202f%</td></tr>"
    )
  divided = "".join(f"{part}</i>" for part in parts)
  return (
    f'<div class="phases" aria-hidden="true">{divided}</div>'
    f'<table class="plain"><tbody>{"".join(rows)}</tbody>'
    f'<tfoot><tr><th scope="row">all</th><td>{duration(total)}</td>'
    "<td></td></tr></tfoot></table>"
  )


def config_table(config: dict[str, Any]) -> str:
  """The settings, one line each, grouped by their first name."""
  groups: dict[str, list[tuple[str, str]]] = {}
  for path, value in flat_settings(config):
    head, _, rest = path.partition(".")
    groups.setdefault(head if rest else "", []).append((rest or head, value))
  blocks = []
  for head, settings in sorted(groups.items()):
    rows = "".join(
      f"<tr><th scope='row'>{escape(name)}</th><td>{escape(value)}</td></tr>"
      for name, value in settings
    )
    title = f"<h3>{escape(head)}</h3>" if head else ""
    blocks.append(
      f'<div class="group">{title}<table class="settings"><tbody>{rows}'
      "</tbody></table></div>"
    )
  return f'<div class="groups">{"".join(blocks)}</div>'


def flat_settings(
  config: dict[str, Any], path: str = ""
) -> list[tuple[str, str]]:
  """Nested settings as ("model.width", "64") pairs; an empty dict is "{}"."""
  flat = []
  for key, value in config.items():
    name = f"{path}.{key}" if path else str(key)
    if isinstance(value, dict) and value:
      flat += flat_settings(value, name)
    else:
      text = value if isinstance(value, str) else json.dumps(value, default=str)
      flat.append((name, text))
  return flat


def _metric_row(name: str, metric: dict[str, Any]) -> str:
  require(metric, _METRIC_KEYS, f"metric {name!r}")
  value, ceiling, baseline = (
    metric[key] for key in ("value", "ceiling", "baseline")
  )
  low, high = metric["interval"] or (None, None)
  controls = metric.get("controls") or {}
  numbers = _finite([value, low, high, ceiling, baseline, *controls.values()])
  is_share = all(0 <= x <= 1 for x in numbers)
  shown = percent if is_share else number
  ends = "" if low is None else f"{shown(low)} to {shown(high)}"
  bar = _bar(
    metric,
    scale=(0.0, 1.0)
    if is_share
    else (min(0.0, *numbers), max(1e-12, *numbers)),
    described=(
      f"{name}: {shown(value)}, interval {ends or 'unknown'}, baseline "
      f"{shown(baseline)}, ceiling {shown(ceiling)}"
    ),
  )
  notes = ", ".join(f"{k} {shown(v)}" for k, v in controls.items())
  note = f"<small>controls: {escape(notes)}</small>" if notes else ""
  return (
    f'<tr><th scope="row">{escape(name)}{note}</th>'
    f'<td class="value"><b>{shown(value)}</b><small>{ends}</small></td>'
    f'<td class="wide">{bar}</td>'
    f'<td data-label="baseline">{shown(baseline)}</td>'
    f'<td data-label="ceiling">{shown(ceiling)}</td>'
    f'<td data-label="n">{number(metric["n"])}</td></tr>'
  )


def _bar(
  metric: dict[str, Any], *, scale: tuple[float, float], described: str
) -> str:
  def at(value: float) -> float:
    low, high = scale
    return 100 * (value - low) / (high - low)

  parts = []
  if _finite([metric["value"]]):
    start, end = sorted((at(0.0), at(metric["value"])))
    parts.append(_piece("fill", start, end))
  if metric["interval"] and len(_finite(metric["interval"])) == 2:
    low, high = metric["interval"]
    parts.append(_piece("span", at(low), at(high)))
  for css, key in (("base", "baseline"), ("ceil", "ceiling")):
    if _finite([metric[key]]):
      parts.append(_piece(css, at(metric[key]), at(metric[key])))
  return (
    f'<div class="bar" role="img" aria-label="{escape(described)}">'
    f"{''.join(parts)}</div>"
  )


def _piece(css: str, start: float, end: float) -> str:
  return (
    f'<i class="{css}" style="left:{start:.2f}%;width:{end - start:.2f}%"></i>'
  )


def _finite(values: list[float | None]) -> list[float]:
  return [x for x in values if x is not None and math.isfinite(x)]
