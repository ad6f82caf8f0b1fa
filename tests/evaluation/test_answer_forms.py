"""Normal forms of answers, on strings worked by hand."""

import pytest

from ddit_jax.evaluation import answer_forms


@pytest.mark.parametrize(
  ("raw", "normal"),
  [
    ("Yes.", "yes"),
    ("  a Red\tBus \n", "red bus"),
    ("two", "2"),
    ("None", "0"),
    ("eleven", "eleven"),
    ("top-left", "top left"),  # no blank beside the mark: replaced by one
    ("top - left", "top left"),  # a blank beside it: deleted
    ("red/white", "red white"),
    ("1,000", "1000"),
    ("1,000/day", "1000day"),  # a grouped number makes every mark vanish
    ("red,white", "red white"),
    ("1.5", "1.5"),
    ("5.", "5"),
    (".5", ".5"),
    ("U.S.", "us"),
    ("3:30", "3:30"),
    ("dont", "don't"),
    ("its", "its"),
    ("shes", "shes"),
    ("she'dve", "she'd've"),
    ("somebody'd", "somebodyd"),
    ("Im", "im"),
    ("the", ""),
    ("", ""),
    ("." * 40 + "x", "." * 8 + "x"),  # at most 32 full stops go
    ("\u0663,\u0665/x", "\u0663\u0665x"),  # Arabic-Indic digits are digits
  ],
)
def test_normal_form_is_the_published_one(raw, normal):
  assert answer_forms.vqa(raw) == normal


@pytest.mark.parametrize(
  ("raw", "normal"),
  [
    ("dont", "don\u2019t"),  # so it misses an annotator's "don't"
    ("don't", "don't"),
    ("cant", "can't"),  # one of the few that stayed straight
    ("couldnt", "couldn't"),
    ("couldn'tve", "couldn\u2019t\u2019ve"),
    ("Two", "2"),
  ],
)
def test_vizwiz_curls_its_apostrophes(raw, normal):
  assert answer_forms.vizwiz(raw) == normal


@pytest.mark.parametrize(
  ("raw", "normal"),
  [
    ("1,000/day", "1000 day"),  # VQA: 1000day
    ("red,white", "redwhite"),  # VQA: red white
    ("it's", "it 's"),
    ("Is it?", "is it"),
    ("the two", "2"),
    ("dont", "don't"),
  ],
)
def test_evalai_deletes_commas_and_question_marks_first(raw, normal):
  assert answer_forms.evalai(raw) == normal


@pytest.mark.parametrize(
  ("raw", "normal"),
  [
    ("First", "1st"),
    ("twelth", "12th"),  # as it is spelt there
    ("twelfth", "twelfth"),
    ("two", "2"),
  ],
)
def test_the_ddit_release_knows_ordinals(raw, normal):
  assert answer_forms.ddit_release(raw) == normal
  assert answer_forms.vqa("first") == "first"
