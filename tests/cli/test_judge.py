"""`ddit judge`: prompts from captions, and answers to official files."""

import json
import pathlib

import pytest

from ddit_jax.cli.main import main
from tests.protocols import official_files

CONFIG = pathlib.Path("configs/benchmarks.py").absolute()
# Two images with two questions each.
IMAGES = [f"COCO_val2014_{n:012d}.jpg" for n in range(2)]
CAPTIONS = ["a red two", "a green three"]


@pytest.fixture
def judge(tmp_path, monkeypatch, capsys):
  """Runs `ddit judge` in a folder with four questions and captions."""
  monkeypatch.chdir(tmp_path)
  official_files.vqa(tmp_path / "data/benchmarks/vqav2", 4)
  rows = [
    {"image": f"/somewhere/{name}", "caption": text}
    for name, text in zip(IMAGES, CAPTIONS, strict=True)
  ]
  (tmp_path / "captions.jsonl").write_text(official_files.lines(rows))

  def run(*flags):
    capsys.readouterr()
    code = main(
      ["judge", f"--config={CONFIG}", "--task=vqav2", "--out=out", *flags]
    )
    return code, capsys.readouterr().err

  return run


def read(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def test_prompts_answers_and_score(judge, tmp_path):
  assert judge("--captions=captions.jsonl") == (0, "")
  rows = read(tmp_path / "out/prompts_0_shot.jsonl")
  assert len(rows) == 4
  assert rows[2]["prompt"].endswith(
    "\n\nDescription: a green three\n"
    "Question: what color is the number?\nAnswer:"
  )
  colors = dict(
    zip((row["key"] for row in rows), official_files.COLORS, strict=True)
  )
  answers = [
    {"key": key, "answer": f" {color}\n"}
    for key, color in reversed(colors.items())
  ]
  (tmp_path / "answers.jsonl").write_text(official_files.lines(answers))
  assert judge("--answers=answers.jsonl") == (0, "")
  scored = [
    "score",
    "--benchmark=vqav2",
    "--predictions=out/results.json",
    "--references=data/benchmarks/vqav2/v2_mscoco_val2014_annotations.json",
    "--out=scored.json",
  ]
  assert main(scored) == 0
  figures = json.loads((tmp_path / "scored.json").read_text())["figures"]
  # Nine of ten annotators gave these answers.
  assert figures["accuracy"] == 100.0


def test_a_subset_has_references_of_its_own(judge, tmp_path):
  few = "--config.benchmarks.num_units=2"
  assert judge("--captions=captions.jsonl", few) == (0, "")
  keys = [row["key"] for row in read(tmp_path / "out/prompts_0_shot.jsonl")]
  colors = dict(
    zip(("100", "101", "102", "103"), official_files.COLORS, strict=True)
  )
  answers = [{"key": key, "answer": colors[key]} for key in keys]
  (tmp_path / "answers.jsonl").write_text(official_files.lines(answers))
  assert judge("--answers=answers.jsonl", few) == (0, "")
  scored = [
    "score",
    "--benchmark=vqav2",
    "--predictions=out/results.json",
    "--references=out/annotations_of_subset.json",
    "--out=scored.json",
  ]
  assert main(scored) == 0
  body = json.loads((tmp_path / "scored.json").read_text())
  assert body["figures"]["accuracy"] == 100.0 and len(keys) == 2


def test_a_folder_that_cannot_be_written_is_one_line(judge, tmp_path):
  (tmp_path / "out").touch()
  code, error = judge("--captions=captions.jsonl")
  assert code == 2 and "--out=out cannot be written" in error


def test_answered_questions_stand_before_the_asked_one(judge, tmp_path):
  examples = [
    {"caption": f"c{n}", "question": f"q{n}?", "answer": f"a{n}"}
    for n in range(40)
  ]
  (tmp_path / "e.jsonl").write_text(official_files.lines(examples))
  flags = ("--captions=captions.jsonl", "--shots=32", "--examples=e.jsonl")
  assert judge(*flags) == (0, "")
  prompt = read(tmp_path / "out/prompts_32_shot.jsonl")[0]["prompt"]
  assert prompt.count("Question:") == 33
  assert "Description: c31\nQuestion: q31?\nAnswer: a31\n\n" in prompt
  assert "c32" not in prompt


@pytest.mark.parametrize(
  "flags, message",
  [
    ((), "give --captions to write prompts, or --answers"),
    (("--captions=captions.jsonl", "--shots=3"), "do not fit"),
    (("--captions=few.jsonl",), "1 images of the questions have no caption"),
    (("--captions=twice.jsonl",), "are repeated"),
    (
      ("--captions=captions.jsonl", "--shots=9", "--examples=e.jsonl"),
      "has 1 answered questions, but --shots is 9",
    ),
    (("--answers=one.jsonl",), "lacks the answers to 3 questions"),
    (("--answers=other.jsonl",), "answers 1 questions"),
  ],
)
def test_wrong_files_end_in_one_line(judge, tmp_path, flags, message):
  few = {"image": IMAGES[0], "caption": "x"}
  example = {"caption": "c", "question": "q", "answer": "a"}
  keys = ["100", "101", "102", "103", "999"]
  answers = [{"key": key, "answer": "red"} for key in keys]
  for name, rows in (
    ("few", [few]),
    ("twice", [few, few]),
    ("e", [example]),
    ("one", answers[:1]),
    ("other", answers),
  ):
    (tmp_path / f"{name}.jsonl").write_text(official_files.lines(rows))
  code, error = judge(*flags)
  assert code == 2
  assert message in error
