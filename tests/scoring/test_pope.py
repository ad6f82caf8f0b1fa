"""POPE's files to figures."""

import json

import pytest

from ddit_jax.errors import InputError
from ddit_jax.scoring.pope import POPE_SPLITS, pope

LABELS = ("yes", "no", "yes", "no")
ANSWERS = {
  "random": ("yes", "no", "no", "no"),
  "popular": ("yes", "yes", "no", "yes"),
  "adversarial": ("no", "no", "no", "no"),
}


def question(number):
  return f"Is there a dog {number} in the image?"


def write_lines(path, records):
  path.write_text("\n".join(json.dumps(record) for record in records) + "\n")


@pytest.fixture
def pope_files(tmp_path):
  """The folders of labels and answers in the official layout."""
  labels, answers = tmp_path / "labels", tmp_path / "answers"
  labels.mkdir()
  answers.mkdir()
  for split in POPE_SPLITS:
    write_lines(
      labels / f"coco_pope_{split}.json",
      [
        {"image": f"{n // 2}.jpg", "text": question(n), "label": label}
        for n, label in enumerate(LABELS)
      ],
    )
    write_lines(
      answers / f"answers_{split}.jsonl",
      [
        {"question": question(n), "answer": answer}
        for n, answer in enumerate(ANSWERS[split])
      ],
    )
  return answers, labels


def test_three_splits_and_their_mean(pope_files):
  answers, labels = pope_files
  scored = pope(answers, [labels])
  assert scored.figures["random"] == {
    "true_positives": 1,
    "false_positives": 0,
    "true_negatives": 2,
    "false_negatives": 1,
    "accuracy": 0.75,
    "precision": 1.0,
    "recall": 0.5,
    "f1": pytest.approx(2 / 3),
    "yes_ratio": 0.25,
    "questions": 4,
  }
  assert scored.figures["accuracy"] == pytest.approx((0.75 + 0.25 + 0.5) / 3)
  assert scored.items["accuracy"].strata == sum(
    ((split,) * 4 for split in POPE_SPLITS), ()
  )


def test_a_division_by_zero_is_zero_and_is_said(pope_files):
  answers, labels = pope_files
  scored = pope(answers, [labels])
  assert scored.figures["adversarial"]["precision"] == 0
  assert scored.notes == (
    "adversarial: precision, f1 divided by zero and count as 0; the official "
    "script stops here",
  )


def test_answers_are_matched_by_order_and_strangers_are_reported(pope_files):
  answers, labels = pope_files
  write_lines(
    answers / "answers_random.jsonl",
    [{"question": "Is it?", "answer": "yes"}] * 4,
  )
  assert "random: 4 answers repeat another question" in str(
    pope(answers, [labels]).notes
  )


def test_one_split_alone(pope_files):
  answers, labels = pope_files
  figures = pope(
    answers / "answers_random.jsonl", [labels / "coco_pope_random.json"]
  ).figures
  assert figures["accuracy"] == figures["random"]["accuracy"] == 0.75


def test_llavas_single_file_gives_the_same(pope_files, tmp_path):
  answers, labels = pope_files
  asked, said = [], []
  for split in POPE_SPLITS:
    for n, answer in enumerate(ANSWERS[split]):
      text = (
        f"{question(n)}\nAnswer the question using a single word or phrase."
      )
      key = len(asked)
      asked.append({"question_id": key, "text": text, "category": split})
      said.append({"question_id": key, "text": answer})
  write_lines(tmp_path / "llava_pope_test.jsonl", asked)
  write_lines(tmp_path / "said.jsonl", said)
  references = [labels, tmp_path / "llava_pope_test.jsonl"]
  whole = pope(tmp_path / "said.jsonl", references)
  assert whole.figures == pope(answers, [labels]).figures
  write_lines(tmp_path / "said.jsonl", [{"question_id": 99, "text": "no"}])
  with pytest.raises(InputError, match="question_id 99 is not in"):
    pope(tmp_path / "said.jsonl", references)


def test_bad_pope_files_are_refused(pope_files):
  answers, labels = pope_files
  with pytest.raises(InputError, match="1 predictions are for other splits"):
    pope(
      answers,
      [labels / "coco_pope_random.json"] * 1
      + [labels / "coco_pope_popular.json"],
    )
  write_lines(answers / "answers_random.jsonl", [{"answer": "yes"}])
  with pytest.raises(InputError, match="1 answers for the 4 questions"):
    pope(answers, [labels])
  write_lines(labels / "coco_pope_random.json", [{"image": "", "text": ""}])
  with pytest.raises(InputError, match='has no "label"'):
    pope(answers, [labels])
  (answers / "more_random.jsonl").write_text("{}")
  with pytest.raises(InputError, match="are both of split random"):
    pope(answers, [labels])
