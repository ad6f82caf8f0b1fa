"""Bars have the lengths of their numbers; settings lose nothing."""

import re

import pytest

from ddit_jax.report import tables

METRIC = {
  "value": 0.75,
  "n": 480,
  "interval": [0.7, 0.8],
  "ceiling": 0.95,
  "baseline": 0.1,
}


def pieces(html):
  found = re.findall(
    r'<i class="(\w+)" style="left:([\d.]+)%;width:([\d.]+)%">', html
  )
  return {css: (float(left), float(width)) for css, left, width in found}


def test_a_bar_shows_value_interval_baseline_and_ceiling():
  html = tables.metric_table({"accuracy": METRIC})
  assert pieces(html) == {
    "fill": (0, 75),
    "span": (70, 10),
    "base": (10, 0),
    "ceil": (95, 0),
  }
  for text in ("75.0\u202f%", "70.0\u202f% to 80.0\u202f%", "480", "accuracy"):
    assert text in html
  assert 'aria-label="accuracy: 75.0\u202f%, interval 70.0' in html


def test_controls_are_named():
  metric = METRIC | {"controls": {"blank image": 0.4}}
  html = tables.metric_table({"accuracy": metric})
  assert "controls: blank image 40.0\u202f%" in html


def test_what_is_unknown_is_a_dash_and_no_mark():
  metric = METRIC | {"interval": None, "ceiling": None, "baseline": None}
  html = tables.metric_table({"accuracy": metric})
  assert pieces(html) == {"fill": (0, 75)}
  assert html.count(">–<") == 2


def test_numbers_beyond_one_get_a_scale_of_their_own():
  metric = {
    "value": 10.0,
    "n": 5,
    "interval": [5.0, 15.0],
    "ceiling": 2.0,
    "baseline": 40.0,
  }
  html = tables.metric_table({"distance": metric})
  assert pieces(html) == {
    "fill": (0, 25),
    "span": (12.5, 25),
    "base": (100, 0),
    "ceil": (5, 0),
  }
  assert "<b>10</b>" in html


def test_a_negative_value_grows_to_the_left_of_zero():
  metric = METRIC | {"value": -0.5, "interval": None, "ceiling": 0.5}
  # The scale runs from -0.5 to 0.5, so zero lies in the middle.
  assert pieces(tables.metric_table({"gain": metric}))["fill"] == (0, 50)


def test_a_metric_without_a_key_is_named():
  with pytest.raises(ValueError, match=r"metric 'x' lacks \['interval'\]"):
    tables.metric_table({"x": {k: METRIC[k] for k in METRIC if k[0] != "i"}})


def test_seconds_are_shared_out():
  html = tables.seconds_table({"train": 90.0, "evaluate": 10.0})
  assert "90.0\u202f%" in html and "10.0\u202f%" in html
  assert "100\u202fs" in html  # in all
  assert 'style="flex-grow:0.900000"' in html
  assert "0.0\u202f%" in tables.seconds_table({"nothing": 0.0})


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_a_wrong_duration_is_refused(value):
  with pytest.raises(ValueError, match="phase 'train'"):
    tables.seconds_table({"train": value})


def test_settings_are_flat_complete_and_grouped():
  config = {
    "seed": 7,
    "model": {"width": 64, "text": {"words": ["a", "<b>"], "extra": {}}},
  }
  assert tables.flat_settings(config) == [
    ("seed", "7"),
    ("model.width", "64"),
    ("model.text.words", '["a", "<b>"]'),
    ("model.text.extra", "{}"),
  ]
  html = tables.config_table(config)
  assert "<h3>model</h3>" in html and "&lt;b&gt;" in html
  assert "text.words" in html and "model.text" not in html
