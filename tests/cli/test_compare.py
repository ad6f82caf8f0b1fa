"""`ddit compare`, from two results of `ddit score`."""

import json

import pytest

from ddit_jax.cli.main import main


@pytest.fixture
def results(tmp_path, monkeypatch):
  """first.json and second.json: 2 and 3 of 4 questions right."""
  monkeypatch.chdir(tmp_path)
  annotations = [
    {
      "question_id": key,
      "image_id": key // 2,
      "answers": [{"answer": "red", "answer_id": n} for n in range(10)],
    }
    for key in range(4)
  ]
  (tmp_path / "a.json").write_text(json.dumps({"annotations": annotations}))
  for name, right in (("first", 2), ("second", 3)):
    answers = ["red"] * right + ["tan"] * (4 - right)
    (tmp_path / "r.json").write_text(
      json.dumps(
        [
          {"question_id": key, "answer": answer}
          for key, answer in enumerate(answers)
        ]
      )
    )
    assert not main(
      [
        "score",
        "--benchmark=vqav2",
        "--predictions=r.json",
        "--references=a.json",
        f"--out={name}.json",
      ]
    )
  return tmp_path


def test_two_results(results, capsys):
  capsys.readouterr()
  assert main(["compare", "first.json", "second.json", "--out=c.json"]) == 0
  out = capsys.readouterr().out
  assert "accuracy: 50.0 to 75.0" in out
  assert "difference +25 [+0, +50], p = 1.0000" in out
  assert "of 4 items 1 better, 0 worse" in out
  body = json.loads((results / "c.json").read_text())
  assert body["differences"]["accuracy"]["difference"]["value"] == 25


def test_operands_have_names_too(results, capsys):
  assert main(["compare", "--second=second.json", "first.json"]) == 0
  assert "50.0 to 75.0" in capsys.readouterr().out


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["first.json"], "--second is missing"),
    (["first.json", "second.json", "third.json"], "'third.json' is for"),
    (["first.json", "a.json"], "from ddit score --out?"),
    (["first.json", "none.json"], "No such file"),
    (["first.json", "r.json"], "JSON object"),
    (["first.json", "gs://b/second.json"], "bucket"),
  ],
)
def test_bad_input_is_one_line(results, capsys, arguments, message):
  capsys.readouterr()
  assert main(["compare", *arguments]) == 2
  err = capsys.readouterr().err
  assert message in err and err.count("\n") == 1
