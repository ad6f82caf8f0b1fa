"""Answers in the form of the servers."""

from ddit_jax.scoring import submissions


def test_vqav2_names_every_question_in_evalais_form():
  assert submissions.vqav2_upload([1, 2], {2: "The Cat's"}) == [
    {"question_id": 1, "answer": ""},
    {"question_id": 2, "answer": "cat 's"},
  ]


def test_vizwiz_is_named_by_image():
  assert submissions.vizwiz_upload([("a.jpg", "Two")]) == [
    {"image": "a.jpg", "answer": "2"}
  ]


def test_gqa_loses_dots_at_the_end_but_no_blank():
  answers = [("1", "Street ."), ("2", "U.S..")]
  assert [a["prediction"] for a in submissions.gqa_predictions(answers)] == [
    "street ",
    "u.s",
  ]
