"""VizWiz files to figures."""

import json

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score

from ddit_jax.errors import InputError
from ddit_jax.scoring.vizwiz import average_precision, vizwiz


def entry(number, answers, kind="other", answerable=1):
  return {
    "image": f"{number}.jpg",
    "answers": [{"answer": answer} for answer in answers],
    "answer_type": kind,
    "answerable": answerable,
  }


REFERENCES = [
  entry(1, ["red"] * 2 + ["blue"] * 8),
  entry(2, ["unanswerable"] * 10, "unanswerable", 0),
]


@pytest.fixture
def score(tmp_path):
  def run(results, references=REFERENCES):
    for name, body in (("r.json", results), ("v.json", references)):
      (tmp_path / name).write_text(json.dumps(body))
    return vizwiz(tmp_path / "r.json", [tmp_path / "v.json"])

  return run


def test_both_releases_are_reported(score):
  figures = score(
    [
      {"image": "2.jpg", "answer": "Unanswerable"},
      {"image": "1.jpg", "answer": "red"},
    ]
  ).figures
  assert figures == {
    "accuracy": 80.0,  # (60 + 100) / 2
    "accuracy_by_answer_type": {"other": 60.0, "unanswerable": 100.0},
    "accuracy_first_release": 83.33,  # (66.67 + 100) / 2
    "accuracy_by_answer_type_first_release": {
      "other": 66.67,
      "unanswerable": 100.0,
    },
  }


def test_answerability_agrees_with_scikit_learn(score):
  rng = np.random.default_rng(0)
  # Rounded, so that scores repeat.
  predicted, true = rng.random(60).round(1), rng.integers(0, 2, 60)
  figures = score(
    [
      {"image": f"{i}.jpg", "answer": "x", "answerable": float(p)}
      for i, p in enumerate(predicted)
    ],
    [entry(i, ["x"] * 10, answerable=int(t)) for i, t in enumerate(true)],
  ).figures
  average = average_precision_score(1 - true, 1 - predicted)
  assert figures["unanswerable_average_precision"] == round(100 * average, 2)
  f1 = f1_score(1 - true, (1 - predicted) > 0.5)
  assert figures["unanswerable_f1"] == round(100 * f1, 2)


def test_average_precision_of_nothing_is_zero():
  assert average_precision(np.zeros(3, bool), np.zeros(3)) == 0


@pytest.mark.parametrize(
  ("results", "message"),
  [
    ([{"image": "1.jpg", "answer": "x"}], "1 of 2 images have no prediction"),
    (
      [
        {"image": "1.jpg", "answer": "x", "answerable": 1},
        {"image": "2.jpg", "answer": "x"},
      ],
      "for 1 of 2 images",
    ),
    (
      [
        {"image": "1.jpg", "answer": "x", "answerable": "no"},
        {"image": "2.jpg", "answer": "x", "answerable": 1},
      ],
      r"a number in \[0, 1\]",
    ),
  ],
)
def test_bad_results_are_refused(score, results, message):
  with pytest.raises(InputError, match=message):
    score(results)
