"""Curves lie where their numbers say; nothing is left out silently."""

import math
import re
import xml.etree.ElementTree

import numpy as np
import pytest

from ddit_jax.report import charts


def chart(steps, values, **options):
  options = {"y_label": "nats", "color": "#123456"} | options
  return charts.line_chart(steps, values, **options)


def curves(svg):
  """Points of the raw curve and of its mean, y upwards."""
  paths = re.findall(r'<path d="([^"]*)" [^>]*stroke: #123456', svg)
  return [
    np.array([[float(x), -float(y)] for x, y in re.findall(r"(\S+) (\S+)", p)])
    for p in (re.sub(r"[MLz]", "", path) for path in paths)
  ]


def test_points_map_linearly_onto_the_axes():
  svg, note = chart([0, 100, 400], [3.0, 1.0, 2.0])
  raw, _ = curves(svg)
  (x0, y0), (x1, y1), (x2, y2) = raw
  assert (x1 - x0) / (x2 - x0) == pytest.approx(1 / 4, abs=1e-3)
  assert (y2 - y1) / (y0 - y1) == pytest.approx(1 / 2, abs=1e-3)
  assert note == ""


def test_the_running_mean_equals_a_slow_one():
  values = np.random.default_rng(0).normal(size=400)
  fast = charts.running_mean(values)
  for index in range(400):
    half = min(index // 4, 5)
    window = values[index - half : min(index + half, 399) + 1]
    assert fast[index] == pytest.approx(window.mean(), abs=1e-12)


def test_values_that_are_not_finite_are_counted():
  svg, note = chart(range(6), [1.0, None, math.nan, 2.0, math.inf, 3.0])
  assert len(curves(svg)[0]) == 3
  assert note == "3 values are not finite"
  assert chart([1, 2], [None, math.nan]) == ("", "no finite values")


def test_an_outlier_is_counted_and_does_not_set_the_scale():
  values = [1.0 + 0.01 * (i % 7) for i in range(500)]
  assert chart(range(500), values)[1] == ""
  values[400] = 1e6
  svg, note = chart(range(500), values)
  assert note == "1 value is beyond the frame"
  # The axis ends at the running mean, a twelfth of the outlier.
  ticks = re.findall(r">([\d.]+)</text>", svg)
  assert 1e4 < max(map(float, ticks)) < 2e5


def test_thinning_keeps_every_extreme():
  values = np.zeros(50_000)
  values[[12_345, 30_001]] = [1.0, -1.0]
  shown = charts._extremes(np.arange(50_000.0), values)
  assert len(shown) < 1000
  assert {0, 12_345, 30_001, 49_999} <= set(shown)
  svg, note = chart(range(50_000), values)
  assert note == "2 values are beyond the frame"
  assert len(svg) < 100_000


@pytest.mark.parametrize(
  ("steps", "values"), [([5], [1.0]), ([5, 6], [0.0, 0.0]), ([1, 1], [2, 3])]
)
def test_one_point_and_flat_curves_have_axes_too(steps, values):
  svg, _ = chart(steps, values)
  assert "nan" not in svg and "inf" not in svg
  assert svg.count("<text") >= 4


def test_unequal_lengths_are_refused():
  with pytest.raises(ValueError, match="2 steps and 1 values"):
    chart([1, 2], [1.0])


def test_the_element_stands_alone_and_its_labels_are_escaped():
  svg, _ = chart([1, 2], [1.0, 2.0], y_label='<"y">$x$')
  assert xml.etree.ElementTree.fromstring(svg).tag.endswith("svg")
  assert '&lt;"y"&gt;$x$' in svg or "&lt;&quot;y&quot;&gt;$x$" in svg
  assert not re.search(r'(href|src)="(?!#)|<script|@import', svg)
  assert chart([1, 2], [1.0, 2.0], y_label='<"y">$x$')[0] == svg
