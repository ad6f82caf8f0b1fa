"""Cards hold what they were given, and the tallies count right."""

import re

import numpy as np
import pytest

from ddit_jax.report import sheets
from ddit_jax.report.sheets import HIDDEN_SIGN as HIDDEN

IMAGE = np.zeros((4, 4, 3), np.uint8)


def drawing(is_correct, verdict="because"):
  return {
    "image": IMAGE,
    "prompt": "a <red> two",
    "is_correct": is_correct,
    "verdict": verdict,
  }


def test_drawings_are_tallied_without_the_unjudged():
  html = sheets.drawing_sheet([drawing(x) for x in (True, False, None, True)])
  assert "<b>2 of 3</b> drawings" in html and "width:66.7%" in html
  assert html.count("<img") == 4
  assert html.count('aria-label="right"') == 2
  assert html.count('aria-label="wrong"') == 1
  assert html.count('aria-label="not judged"') == 1
  assert "a &lt;red&gt; two" in html and "<red>" not in html


def test_without_a_verdict_there_is_a_word_and_no_tally():
  html = sheets.drawing_sheet([drawing(None, verdict="")])
  assert "not judged</p>" in html and "tally" not in html


def test_readings_compare_answers_with_what_was_expected():
  reading = {
    "image": IMAGE,
    "caption": "a two",
    "reference": "a red two",
    "answers": [("is it red?", "yes", "yes"), ("what number?", "six", "two")],
  }
  html = sheets.reading_sheet([reading, reading | {"answers": []}])
  assert "<b>1 of 2</b> answers" in html
  assert "<b>six</b> <small>(not two)</small>" in html
  assert "(not yes)" not in html
  assert html.count("<table") == 1
  assert 'alt="Image described as: a red two"' in html


def test_new_tokens_are_marked_once_and_hidden_ones_are_boxes():
  html = sheets.unmasking_strip(
    {
      "image": IMAGE,
      "prompt": "describe",
      "times": [1.0, 0.5, 0.0],
      "texts": [[HIDDEN] * 3, ["a", HIDDEN, "two"], ["a", "<r>", "two"]],
    }
  )
  rows = re.findall(r"<li.*?</li>", html)
  assert [row.count('class="hidden"') for row in rows] == [3, 1, 0]
  assert [re.findall(r'"new">([^<]+)<', row) for row in rows] == [
    [],
    ["a", "two"],
    ["&lt;r&gt;"],
  ]
  assert 'aria-label="time 0.50, 1 of 3 tokens hidden"' in rows[1]


def test_a_first_row_may_already_hold_visible_tokens():
  html = sheets.unmasking_strip(
    {"image": IMAGE, "prompt": "", "times": [0.0], "texts": [["a"]]}
  )
  assert '<span class="new">a</span>' in html


def test_incomplete_records_are_refused_by_number():
  with pytest.raises(ValueError, match=r"drawing 1 lacks \['verdict'\]"):
    bad = {k: v for k, v in drawing(True).items() if k != "verdict"}
    sheets.drawing_sheet([drawing(True), bad])
  with pytest.raises(ValueError, match="reading 0 lacks"):
    sheets.reading_sheet([{"image": IMAGE}])
  with pytest.raises(ValueError, match="2 times and 1 texts"):
    sheets.unmasking_strip(
      {"image": IMAGE, "prompt": "", "times": [1, 0], "texts": [[]]}
    )
