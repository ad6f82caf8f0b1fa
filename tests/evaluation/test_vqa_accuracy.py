"""Agreement with annotators on hand-worked cases."""

import pytest

from ddit_jax.evaluation.vqa_accuracy import (
  ddit_release,
  mean,
  textvqa,
  vizwiz,
  vizwiz_first_release,
  vqav2,
)


@pytest.mark.parametrize(
  ("matches", "accuracy"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1)]
)
def test_accuracy_follows_the_number_of_agreeing_annotators(matches, accuracy):
  answers = ["seven"] * matches + ["two"] * (10 - matches)
  assert vqav2("7", answers) == pytest.approx(accuracy, abs=1e-12)


def test_unanimous_annotators_switch_normalisation_off():
  assert vqav2("yes", ["yes"] * 10) == 1
  assert vqav2("Yes", ["yes"] * 10) == 0
  assert vqav2("Yes", ["yes"] * 9 + ["no"]) == 1
  # Blanks at the ends do not break unanimity.
  assert vqav2("Yes", ["yes"] * 9 + [" yes\n"]) == 0


def test_annotations_without_an_id_vanish_together():
  answers = ["red"] * 4 + ["blue"] * 6
  same = ["maybe"] * 10
  # Leaving out one "red" leaves none; each "blue" leaves four "red".
  assert vqav2("red", answers, identities=same) == 0.6
  assert vqav2("red", answers) == 1


def test_empty_and_uneven_answers_raise():
  with pytest.raises(ValueError, match="at least one annotator"):
    vqav2("x", [])
  with pytest.raises(ValueError, match="2 identities for 1 answers"):
    vqav2("x", ["x"], identities=[1, 2])


def test_the_ddit_release_normalises_unanimous_answers_too():
  assert ddit_release("Yes", ["yes"] * 10) == 1
  assert ddit_release("first", ["1st"] * 10) == 1


def test_the_ddit_release_normalises_predictions_twice():
  # Each time at most 32 full stops go.
  assert ddit_release("x" + "." * 40 + "y", ["xy"] * 10) == 1
  assert vqav2("x" + "." * 40 + "y", ["xy"] * 9 + ["z"]) == 0


def test_textvqa_knows_no_unanimity_exception():
  assert textvqa("YES!", ["yes"] * 10) == 1
  # One of ten: nine times one match of three, once none.
  assert textvqa("no", ["yes"] * 9 + ["no"]) == pytest.approx(0.3, abs=1e-15)


def test_vizwiz_never_normalises_the_answers():
  assert vizwiz("Yes", ["Yes"] * 10) == 0
  assert vizwiz("two", ["two"] * 10) == 0
  assert vizwiz("Yes", ["yes"] * 10) == 1


def test_the_first_vizwiz_release_leaves_nobody_out():
  answers = ["red"] * 2 + ["blue"] * 8
  assert vizwiz_first_release("red", answers) == pytest.approx(2 / 3)
  # Leaving one out: (2 x 1/3 + 8 x 2/3) / 10.
  assert vizwiz("red", answers) == pytest.approx(0.6)


def test_means_are_added_in_order_without_compensation():
  # A compensated sum, as of Python 3.12, gives 0.1.
  values = [0.1] * 10
  assert mean(values) == 0.09999999999999999
  with pytest.raises(ValueError, match="at least one"):
    mean([])
