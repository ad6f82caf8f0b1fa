"""Curves lie where their numbers say; nothing is left out unseen."""

import math
import re

import numpy as np
import pytest

from ddit_jax.report import charts


def points(html, css):
  text = re.search(rf'<polyline class="{css}" points="([^"]*)"', html).group(1)
  return np.array([[float(x) for x in p.split(",")] for p in text.split()])


def chart(steps, values, **options):
  series = charts.Series(label="loss", steps=steps, values=values)
  return charts.line_chart(series, title="Loss", y_label="nats", **options)


def test_points_map_linearly_onto_the_axes():
  html = chart([0, 100, 400], [3.0, 1.0, 2.0])
  xy = points(html, "raw other")
  # Steps 0, 100 and 400 lie at shares 0, 1/4 and 1 of the width.
  width = xy[2, 0] - xy[0, 0]
  assert xy[1, 0] - xy[0, 0] == pytest.approx(width / 4, abs=0.1)  # rounding
  # Downwards on the screen means smaller; 2 lies half way from 3 to 1.
  assert xy[0, 1] < xy[2, 1] < xy[1, 1]
  ticks = dict(re.findall(r'y="([\d.]+)" text-anchor="end">([\d.]+)<', html))
  of = {float(label): float(y) - 4 for y, label in ticks.items()}
  assert xy[2, 1] == pytest.approx(of[2.0], abs=0.11)  # two roundings


def test_a_logarithmic_axis_gives_each_power_of_ten_the_same_room():
  html = chart([1, 10, 100, 1000], [1.0, 2.0, 3.0, 4.0], is_log_x=True)
  gaps = np.diff(points(html, "raw other")[:, 0])
  np.testing.assert_allclose(gaps, gaps[0], atol=0.2)  # rounded to 0.1


def test_the_running_mean_equals_a_slow_one():
  values = np.random.default_rng(0).normal(size=400)
  fast = charts.running_mean(values)
  for index in range(400):
    half = min(index // 4, 5)
    window = values[index - half : min(index + half, 399) + 1]
    assert fast[index] == pytest.approx(window.mean(), abs=1e-12)


def test_values_that_cannot_be_drawn_are_counted():
  values = [1.0, None, math.nan, 2.0, math.inf, 3.0]
  html = chart(range(6), values)
  assert len(points(html, "raw other")) == 3
  assert "3 values are not finite" in html
  assert "1 value is not finite or not drawable" in chart(
    [0, 1, 2], [1.0, 2.0, 3.0], is_log_x=True
  )


def test_an_outlier_stays_on_the_border_and_is_counted():
  values = [1.0 + 0.01 * (i % 7) for i in range(500)]
  values[400] = 1e6
  html = chart(range(500), values)
  assert "1 value is beyond the frame" in html
  raw = points(html, "raw other")
  assert raw[400, 1] == raw[:, 1].min() == 12.0  # the frame's upper border


def test_thinning_keeps_every_extreme():
  values = np.zeros(50_000)
  values[[12_345, 30_001]] = [1.0, -1.0]
  xy = points(chart(range(50_000), values), "raw other")
  assert len(xy) < 1300
  middle = xy[0, 1]
  assert (xy[:, 1] < middle).sum() == 1 and (xy[:, 1] > middle).sum() == 1


@pytest.mark.parametrize(
  ("steps", "values"), [([5], [1.0]), ([5, 6], [0.0, 0.0]), ([1, 1], [2, 3])]
)
@pytest.mark.parametrize("is_log_x", [True, False])
def test_one_point_and_flat_curves_have_axes_too(steps, values, is_log_x):
  html = chart(steps, values, is_log_x=is_log_x)
  assert "nan" not in html and "inf" not in html
  assert html.count('class="tick"') >= 2


def test_without_a_finite_value_there_is_a_note():
  assert "No finite values" in chart([1, 2], [None, math.nan])


def test_unequal_lengths_are_refused():
  with pytest.raises(ValueError, match="2 steps and 1 values"):
    chart([1, 2], [1.0])


@pytest.mark.parametrize(
  ("low", "high", "ticks"),
  [
    (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
    (0.13, 0.42, [0.2, 0.3, 0.4]),
    (-3, 17, [0, 5, 10, 15]),
    (0, 60_000, [0, 20_000, 40_000, 60_000]),
  ],
)
def test_ticks_are_round(low, high, ticks):
  assert charts.nice_ticks(low, high) == ticks


def test_logarithmic_ticks_fill_few_powers_with_two_and_five():
  assert charts.log_ticks(1, 20_000) == [1, 10, 100, 1000, 10_000]
  assert charts.log_ticks(15, 300) == [20, 50, 100, 200]


@pytest.mark.parametrize(
  ("value", "text"),
  [(0, "0"), (5e-4, "5e-4"), (0.05, "0.05"), (20_000, "20k"), (1.5e6, "1.5M")],
)
def test_tick_labels(value, text):
  assert charts.tick_label(value) == text


def test_labels_and_descriptions_are_escaped():
  series = charts.Series(label='<"l">', steps=[1, 2], values=[1.0, 2.0])
  html = charts.line_chart(series, title="<t>", y_label="<y>", x_label="<x>")
  assert "&lt;&quot;l&quot;&gt;: 1 → 2 between step 1 and 2" in html
  assert not re.search(r"<[\"txy]>", html)
