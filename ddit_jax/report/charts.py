"""Training curves, and points over an axis, as inline SVG."""

import io
import math
import re
from collections.abc import Sequence

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

_SIZE_INCHES = (4.8, 2.6)
# Readable on a white and on a black page; the background is transparent.
_INK = "#80868f"
# More columns than this cannot be told apart at the chart's width.
_NUM_COLUMNS = 300
_MEAN_FRACTION = 1 / 40
# Text stays text, and "$" in a curve's name is not a formula.
_RC = {
  "svg.fonttype": "none",
  "svg.hashsalt": "ddit_jax",
  "text.parse_math": False,
  "font.size": 9,
  "text.color": _INK,
  "axes.labelcolor": _INK,
  "axes.edgecolor": _INK,
  "xtick.color": _INK,
  "ytick.color": _INK,
}


def line_chart(
  steps: Sequence[float],
  values: Sequence[float | None],
  *,
  y_label: str,
  color: str,
) -> tuple[str, str]:
  """Plots one curve over training steps.

  The axis spans the running mean and all but the outermost per cent of the raw
  values. Omitted values are counted in the note.

  Raw values are faint under their running mean.

  Args:
    steps: increasing training steps.
    values: one per step; None or NaN where there is none.
    y_label: label of the vertical axis.
    color: of the curve, as matplotlib takes it.

  Returns:
    An `svg` element without scripts or external references, and a note on the
    values it does not show; the element is "" if no value is finite.

  Raises:
    ValueError: `steps` and `values` differ in length.
  """
  if len(steps) != len(values):
    raise ValueError(
      f"curve {y_label!r} has {len(steps)} steps and {len(values)} values"
    )
  x = np.asarray(steps, np.float64)
  y = np.array([math.nan if v is None else v for v in values], np.float64)
  is_finite = np.isfinite(y)
  x, y = x[is_finite], y[is_finite]
  notes = _count(int(np.sum(~is_finite)), "not finite")
  if not len(y):
    return "", "no finite values"
  mean = running_mean(y)
  low, high = _limits(y, mean)
  notes += _count(int(np.sum((y < low) | (y > high))), "beyond the frame")
  with matplotlib.rc_context(_RC):
    figure = Figure(figsize=_SIZE_INCHES)
    # A layout engine would take half of a chart's 0.2 s.
    axes = figure.add_axes((0.15, 0.18, 0.83, 0.79))
    shown = _extremes(x, y)
    axes.plot(x[shown], y[shown], color=color, alpha=0.3, linewidth=0.8)
    axes.plot(x[shown], mean[shown], color=color, linewidth=1.8)
    axes.set(xlabel="training step", ylabel=y_label, ylim=(low, high))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(axis="y", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return _inline_svg(figure), "; ".join(notes)


def point_chart(
  x: Sequence[float],
  y: Sequence[float],
  *,
  x_label: str,
  y_label: str,
  color: str,
) -> str:
  """Points joined by a line, each with its place on the horizontal axis.

  Args:
    x: increasing.
    y: one for each, finite.
    x_label: label of the horizontal axis.
    y_label: label of the vertical axis.
    color: of points and line, as matplotlib takes it.

  Returns:
    An `svg` element without scripts or external references.
  """
  with matplotlib.rc_context(_RC):
    figure = Figure(figsize=_SIZE_INCHES)
    axes = figure.add_axes((0.15, 0.18, 0.83, 0.79))
    axes.plot(x, y, color=color, marker="o", linewidth=1.2)
    axes.set(xlabel=x_label, ylabel=y_label, xticks=x)
    axes.grid(axis="y", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return _inline_svg(figure)


def running_mean(values: Float[np.ndarray, " length"]) -> np.ndarray:
  """Centred mean over about a fortieth of the curve.

  The window narrows towards the start, where losses fall fastest, and loses
  only its right half at the end.

  Args:
    values: finite values.

  Returns:
    The running means, one per value.
  """
  length = len(values)
  index = np.arange(length)
  half = np.minimum(index // 4, round(length * _MEAN_FRACTION / 2))
  begin, end = index - half, np.minimum(index + half, length - 1) + 1
  sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
  return (sums[end] - sums[begin]) / (end - begin)


def _limits(values: np.ndarray, mean: np.ndarray) -> tuple[float, float]:
  inner_low, inner_high = np.percentile(values, [1, 99])
  low, high = min(inner_low, mean.min()), max(inner_high, mean.max())
  room = 0.04 * (high - low) or 0.1 * abs(low) or 1.0
  return float(low - room), float(high + room)


def _extremes(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """Rows of the lowest and the highest value in each column of the chart."""
  width = (x[-1] - x[0]) or 1.0
  column = np.floor((x - x[0]) / width * _NUM_COLUMNS)
  order = np.lexsort((y, column))
  is_first = np.diff(column[order], prepend=-1) > 0
  is_last = np.append(is_first[1:], True)
  ends = order[is_first | is_last]
  return np.unique(np.concatenate([ends, [0, len(x) - 1]]))


def _inline_svg(figure: Figure) -> str:
  buffer = io.StringIO()
  nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
  figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
  svg = buffer.getvalue()
  # A document has only one XML head, and ids are unique.
  return re.sub(r' id="[a-z_]+\d+"', "", svg[svg.index("<svg") :])


def _count(number: int, what: str) -> list[str]:
  if not number:
    return []
  return [f"{number} {'value is' if number == 1 else 'values are'} {what}"]
