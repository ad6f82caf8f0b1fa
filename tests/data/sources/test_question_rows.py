"""Questions are collected, or counted by why they cannot be."""

import pytest

from ddit_jax.data.sources.image_table import QuestionRows
from ddit_jax.data.sources.paths import SafeFolder


def test_answers_keep_order_and_repetition(tmp_path):
  rows = QuestionRows("set", instruction="Be short.")
  rows.add("q:1", question=" Is it? ", answers=["yes", "no", "yes"], image=None)
  rows.add("q:2", question="What?", answers=" a dog ", image=None)
  source = rows.source(SafeFolder(tmp_path))
  assert source[0].prompt == "Q: Is it? Be short. A: "
  assert source[0].texts == ("yes", "no", "yes")
  assert source[1].texts == ("a dog",)
  assert source.removed == {}


def test_an_id_that_is_no_unicode_is_left_out(tmp_path):
  rows = QuestionRows("set")
  rows.add("q:1", **SOUND)
  rows.add("q:\ud800", **SOUND)
  source = rows.source(SafeFolder(tmp_path))
  assert len(source) == 1 and source.removed == {"bad_text": 1}


SOUND = {"question": "Is it?", "answers": ["yes"], "image": "a.jpg"}


@pytest.mark.parametrize(
  ("change", "reason"),
  [
    ({"question": ""}, "empty_text"),
    ({"question": "  "}, "empty_text"),
    ({"question": None}, "bad_text"),
    ({"question": ["Is it?"]}, "bad_text"),
    ({"question": "\ud800"}, "bad_text"),
    ({"answers": []}, "empty_text"),
    ({"answers": ["", " "]}, "empty_text"),
    ({"answers": None}, "bad_text"),
    ({"answers": 7}, "bad_text"),
    ({"answers": ["yes", 7]}, "bad_text"),
    ({"answers": {"answer": "yes"}}, "bad_text"),
    ({"image": 7}, "bad_text"),
    ({"image": ["a.jpg"]}, "bad_text"),
    ({"image": ""}, "unsafe_path"),
    ({"image": "../a.jpg"}, "unsafe_path"),
    ({"image": "/a.jpg"}, "unsafe_path"),
  ],
)
def test_what_cannot_be_used_is_counted(change, reason, tmp_path):
  rows = QuestionRows("set")
  rows.add("q:0", **SOUND)
  rows.add("q:1", **SOUND | change)
  source = rows.source(SafeFolder(tmp_path))
  assert len(source) == 1 and source.removed == {reason: 1}


def test_the_same_id_counts_once(tmp_path):
  rows = QuestionRows("set")
  rows.add("q:0", **SOUND)
  rows.add("q:0", **SOUND | {"answers": "no"})
  source = rows.source(SafeFolder(tmp_path))
  assert source.removed == {"duplicate_id": 1} and len(source) == 1


def test_blank_answers_among_others_are_told(tmp_path, caplog):
  rows = QuestionRows("set")
  rows.add("q:0", **SOUND | {"answers": ["", "yes", " ", "no"], "image": None})
  assert rows.source(SafeFolder(tmp_path))[0].texts == ("yes", "no")
  assert "set: 2 blank answers skipped" in caplog.text


def test_an_instruction_is_a_text():
  with pytest.raises(ValueError, match="instruction must be a text, not 7"):
    QuestionRows("set", instruction=7)
