"""T2I-CompBench's answers to figures."""

import json

import pytest

from ddit_jax.errors import InputError
from ddit_jax.scoring.t2i_compbench import t2i_compbench


def image(name, *answers, questions=None):
  absent = 8 - len(answers)
  asked = ["a bowl?"] * len(answers) if questions is None else questions
  return {
    "file": name,
    "questions": asked + [""] * absent,
    "p_yes": [*answers, *[None] * absent],
  }


@pytest.fixture
def score(tmp_path):
  def run(body):
    (tmp_path / "p.json").write_text(json.dumps(body))
    return t2i_compbench(tmp_path / "p.json", [])

  return run


def test_the_mean_of_rounded_products(score):
  scored = score(
    {
      "images": [
        image("a bowl_000000.png", "0.5000", "0.3333"),
        image("a bowl_000001.png", "1.0000"),
      ]
    }
  )
  # 0.16665 in float32 is just below, and prints as 0.1666 or 0.1667.
  assert scored.figures["blip_vqa"] == pytest.approx(0.58335, abs=6e-5)
  assert scored.items["blip_vqa"].groups == ("a bowl", "a bowl")
  assert "2 to 2 images a prompt" in scored.notes[0]


def test_the_results_of_the_published_script(score):
  scored = score(
    [
      {"question_id": 0, "answer": "0.1223"},
      {"question_id": 1, "answer": "0.9000"},
    ]
  )
  assert scored.figures["blip_vqa"] == pytest.approx(0.51115)


@pytest.mark.parametrize(
  ("body", "message"),
  [
    ({"images": [image("a_0.png", "1.5")]}, "P.yes. must be a text"),
    ({"images": [image("a_0.png", "nan")]}, "P.yes. must be a text"),
    ({"images": [image("a_0.png", 0.5)]}, "P.yes. must be a text"),
    ({"images": [image("a_0.png", None)]}, "P.yes. must be a text"),
    (
      {"images": [image("a_0.png", "0.5", questions=[""])]},
      'p_yes .0.5. for the question ""',
    ),
    ({"images": [image("a_0.png")] * 2}, "files are repeated"),
    ({"images": [{"file": "a", "questions": [], "p_yes": ["1"]}]}, "1 p_yes"),
    ({"images": []}, "the list is empty"),
    ([{"question_id": 0, "answer": 0.1}], '"answer" must be a text'),
    ("x", 'must hold a JSON object with a list "images"'),
  ],
)
def test_bad_answers_are_refused(score, body, message):
  with pytest.raises(InputError, match=message):
    score(body)
