"""Line charts as inline SVG: raw values faint, their running mean on top."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from ddit_jax.report.markup import escape, number

_WIDTH, _HEIGHT = 460, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 12, 42
# More points than this cannot be told apart at the chart's width.
_MAX_POINTS = 600
_SMOOTHING_SHARE = 1 / 40


@dataclasses.dataclass(frozen=True, kw_only=True)
class Series:
  """One curve.

  Attributes:
    label: its name in the legend.
    steps: increasing training steps.
    values: one number a step; None or NaN where there is none.
    colour: a CSS class: "total", "image", "text" or "other".
  """

  label: str
  steps: Sequence[float]
  values: Sequence[float | None]
  colour: str = "other"


def line_chart(
  series: Series,
  *,
  title: str,
  y_label: str,
  x_label: str = "training step",
  is_log_x: bool = False,
) -> str:
  """Draws one curve in a `figure` with title, axes and both end values.

  The frame follows the running mean and all but the outermost per cent of the
  raw values; the caption counts the values beyond it, so none is hidden.

  Args:
    series: the curve; values that are not finite are left out and counted.
    title: the heading.
    y_label: what the vertical axis shows, with its unit.
    x_label: what the horizontal axis shows.
    is_log_x: True draws steps on a logarithmic axis (steps below 1 are left
      out and counted).

  Returns:
    HTML; a note instead of a chart when no value is left.

  Raises:
    ValueError: `steps` and `values` differ in length.
  """
  steps, values, left_out = _finite_points(series, is_log_x=is_log_x)
  if not len(steps):
    return _figure(title, '<p class="muted">No finite values.</p>', "", "")
  mean = running_mean(values)
  low, high = _frame(values, mean)
  beyond = int(np.sum((values < low) | (values > high)))
  x_axis = _Axis.over(steps.min(), steps.max(), is_log=is_log_x)
  y_axis = _Axis.over(low, high)
  body = (
    _grid(x_axis, y_axis)
    + _line(x_axis, y_axis, steps, values, f"raw {series.colour}")
    + _line(x_axis, y_axis, steps, mean, f"mean {series.colour}")
    + _axis_labels(x_label, y_label)
  )
  ends = f"{number(mean[0])} → {number(mean[-1])}"
  described = (
    f"{series.label}: {ends} between step {number(steps[0])} and "
    f"{number(steps[-1])}"
  )
  svg = (
    f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
    f'aria-label="{escape(described)}">{body}</svg>'
  )
  return _figure(title, svg, ends, _caveat(beyond, left_out))


def running_mean(values: np.ndarray) -> np.ndarray:
  """Centred mean over about a fortieth of the curve.

  The window narrows towards the start, where losses fall fastest, and loses
  only its right half at the end.

  Args:
    values: [length] finite numbers.

  Returns:
    [length] means.
  """
  length = len(values)
  index = np.arange(length)
  half = np.minimum(index // 4, round(length * _SMOOTHING_SHARE / 2))
  begin, end = index - half, np.minimum(index + half, length - 1) + 1
  sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
  return (sums[end] - sums[begin]) / (end - begin)


def nice_ticks(low: float, high: float, *, count: int = 5) -> list[float]:
  """Round numbers (1, 2 or 5 times a power of ten) within [low, high]."""
  raw = (high - low) / count
  power = 10.0 ** math.floor(math.log10(raw))
  spacing = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
  first = math.ceil(low / spacing - 1e-9)
  last = math.floor(high / spacing + 1e-9)
  return [float(f"{k * spacing:.12g}") for k in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
  """Powers of ten within [low, high], with 2 and 5 when they are few."""
  powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
  tens = [10.0**p for p in powers if low <= 10.0**p <= high]
  if len(tens) >= 3:
    return tens
  finer = (m * 10.0**p for p in powers for m in (1, 2, 5))
  return [tick for tick in finer if low <= tick <= high]


def tick_label(value: float) -> str:
  """A tick as a reader would say it: "5e-4", "0.05", "20k", "1.5M"."""
  if 0 < abs(value) < 0.01:
    mantissa, exponent = f"{value:.3e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"
  for size, letter in ((1e6, "M"), (1e3, "k")):
    if abs(value) >= size:
      return f"{value / size:g}{letter}"
  return f"{value:g}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Axis:
  """Maps values to shares 0..1 of the frame and knows its ticks."""

  low: float
  high: float
  is_log: bool
  ticks: list[float]

  @classmethod
  def over(cls, low: float, high: float, *, is_log: bool = False) -> "_Axis":
    if high <= low:  # one point or a flat curve: give it room
      room = abs(low) * 0.1 or 1.0
      low, high = (low / 2, high * 2) if is_log else (low - room, high + room)
    ticks = log_ticks(low, high) if is_log else nice_ticks(low, high)
    return cls(low=low, high=high, is_log=is_log, ticks=ticks)

  def share(self, value: np.ndarray) -> np.ndarray:
    low, high = self.low, self.high
    if self.is_log:
      value, low, high = np.log(value), math.log(low), math.log(high)
    return (value - low) / (high - low)


def _finite_points(
  series: Series, *, is_log_x: bool
) -> tuple[np.ndarray, np.ndarray, int]:
  if len(series.steps) != len(series.values):
    raise ValueError(
      f"curve {series.label!r} has {len(series.steps)} steps and "
      f"{len(series.values)} values: they must be as many"
    )
  steps = np.asarray(series.steps, np.float64)
  values = np.array(
    [math.nan if v is None else v for v in series.values], np.float64
  )
  is_drawn = np.isfinite(values) & (steps >= (1 if is_log_x else -math.inf))
  return steps[is_drawn], values[is_drawn], int(np.sum(~is_drawn))


def _frame(values: np.ndarray, mean: np.ndarray) -> tuple[float, float]:
  inner_low, inner_high = np.percentile(values, [1, 99])
  low, high = min(inner_low, mean.min()), max(inner_high, mean.max())
  room = 0.04 * (high - low)
  return float(low - room), float(high + room)


def _x(share: np.ndarray | float) -> np.ndarray | float:
  return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)


def _y(share: np.ndarray | float) -> np.ndarray | float:
  return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)


def _line(
  x_axis: _Axis,
  y_axis: _Axis,
  steps: np.ndarray,
  values: np.ndarray,
  css: str,
) -> str:
  shares = x_axis.share(steps)
  chosen = _visible_points(shares, values)
  xs = _x(shares[chosen])
  # A value beyond the frame is drawn on its border.
  ys = _y(np.clip(y_axis.share(values[chosen]), 0, 1))
  points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
  return f'<polyline class="{css}" points="{points}"/>'


def _visible_points(shares: np.ndarray, values: np.ndarray) -> np.ndarray:
  """Indices of the lowest and highest value of each column of the chart."""
  length = len(values)
  if length <= _MAX_POINTS:
    return np.arange(length)
  column = np.floor(shares * (_MAX_POINTS // 2))
  begins = np.flatnonzero(np.diff(column, prepend=-1))
  chosen = {0, length - 1}
  for begin, end in zip(begins, [*begins[1:], length], strict=True):
    part = values[begin:end]
    chosen |= {int(begin + part.argmin()), int(begin + part.argmax())}
  return np.array(sorted(chosen))


def _grid(x_axis: _Axis, y_axis: _Axis) -> str:
  parts = []
  right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
  for tick in y_axis.ticks:
    y = _y(float(y_axis.share(np.float64(tick))))
    parts.append(
      f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" '
      f'y2="{y:.1f}"/><text class="tick" x="{_LEFT - 8}" y="{y + 4:.1f}" '
      f'text-anchor="end">{tick_label(tick)}</text>'
    )
  for tick in x_axis.ticks:
    x = _x(float(x_axis.share(np.float64(tick))))
    parts.append(
      f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" '
      f'y2="{bottom + 4}"/><text class="tick" x="{x:.1f}" '
      f'y="{bottom + 17}" text-anchor="middle">{tick_label(tick)}</text>'
    )
  parts.append(
    f'<line class="axis" x1="{_LEFT}" x2="{right}" y1="{bottom}" '
    f'y2="{bottom}"/>'
  )
  return "".join(parts)


def _axis_labels(x_label: str, y_label: str) -> str:
  middle = (_TOP + _HEIGHT - _BOTTOM) / 2
  return (
    f'<text class="label" x="{(_LEFT + _WIDTH - _RIGHT) / 2}" '
    f'y="{_HEIGHT - 5}" text-anchor="middle">{escape(x_label)}</text>'
    f'<text class="label" transform="translate(12 {middle}) rotate(-90)" '
    f'text-anchor="middle">{escape(y_label)}</text>'
  )


def _caveat(beyond: int, left_out: int) -> str:
  notes = []
  if beyond:
    notes.append(f"{_values(beyond)} beyond the frame")
  if left_out:
    notes.append(f"{_values(left_out)} not finite or not drawable here")
  return "; ".join(notes)


def _values(count: int) -> str:
  return "1 value is" if count == 1 else f"{count} values are"


def _figure(title: str, body: str, ends: str, caveat: str) -> str:
  note = f'<p class="note">{escape(caveat)}</p>' if caveat else ""
  return (
    f'<figure class="card"><figcaption><b>{escape(title)}</b>'
    f'<span class="ends">{escape(ends)}</span></figcaption>'
    f"{body}{note}</figure>"
  )
