"""GQA's files to figures."""

import json

import pytest

from ddit_jax.errors import InputError
from ddit_jax.scoring.gqa import gqa_files
from tests.evaluation.test_gqa import PREDICTIONS, QUESTIONS

CHOICES = {key: {"valid": ["cat"], "plausible": []} for key in QUESTIONS}


@pytest.fixture
def score(tmp_path):
  def run(predictions=PREDICTIONS, questions=QUESTIONS, choices=None):
    rows = predictions
    if isinstance(rows, dict):
      rows = [{"questionId": k, "prediction": v} for k, v in rows.items()]
    bodies = {"p.json": rows, "q.json": questions}
    if choices is not None:
      bodies["c.json"] = choices
    for name, body in bodies.items():
      (tmp_path / name).write_text(json.dumps(body))
    files = [tmp_path / name for name in bodies]
    return gqa_files(files[0], files[1:])

  return run


def test_choices_add_validity(score):
  assert "validity" not in score().figures
  assert "no validity" in score().notes[0]
  scored = score(choices=CHOICES)
  assert scored.figures["validity"] == pytest.approx(200 / 3)
  assert scored.notes == ()
  assert scored.items["accuracy"].scores == (100, 0, 100)


def test_without_predictions_of_entailed_ones_there_is_no_consistency(score):
  assert score().figures["consistency"] == 50
  scored = score({k: v for k, v in PREDICTIONS.items() if k != "d"})
  assert "consistency" not in scored.figures
  assert "1 entailed questions have no prediction" in scored.notes[0]


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"predictions": {"a": "cat"}}, "2 of 3 balanced questions have no"),
    ({"predictions": [{"questionId": 3}]}, '"questionId" must be a text'),
    ({"questions": []}, "must hold an object"),
    ({"questions": {"a": {}}}, "question 'a' has no \"question\""),
    (
      {"questions": {"a": QUESTIONS["a"] | {"entailed": [[]]}}},
      "a list of ids",
    ),
    ({"questions": {"a": QUESTIONS["a"] | {"groups": {}}}}, "needs .global"),
    ({"choices": {"a": CHOICES["a"]}}, "the choices lack 2 of 3"),
    ({"choices": {"a": {}}}, 'has no "valid"'),
  ],
)
def test_bad_files_are_refused(score, arguments, message):
  with pytest.raises(InputError, match=message):
    score(**arguments)
