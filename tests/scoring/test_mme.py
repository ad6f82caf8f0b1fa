"""MME's files to figures."""

import pytest

from ddit_jax.errors import InputError
from ddit_jax.evaluation.mme import SUBTASKS, TOTALS
from ddit_jax.scoring.mme import mme_folder


@pytest.fixture
def mme_answers(tmp_path):
  for name in SUBTASKS:
    (tmp_path / f"{name}.txt").write_text(
      "a.jpg\tIs it? Please answer yes or no.\tYes\tyes\n"
      "a.jpg\tIs it? Please answer yes or no.\tNo\tno\n"
    )
  return tmp_path


def test_totals_are_sums_of_subtasks(mme_answers):
  (mme_answers / "OCR.txt").write_text("a\tq\tYes\tyes\na\tq\tNo\tknown yes")
  figures = mme_folder(mme_answers, []).figures
  assert figures["perception"] == 2000 and figures["cognition"] == 800
  (mme_answers / "OCR.txt").write_text("a\tq\tYes\tyes\na\tq\tNo\teyes\n")
  scored = mme_folder(mme_answers, [])
  assert scored.figures["perception"] == 1850
  items = scored.items["perception"]
  assert sum(items.scores) / len(TOTALS["perception"]) == 1850


def test_a_missing_subtask_leaves_no_total(mme_answers):
  (mme_answers / "OCR.txt").unlink()
  scored = mme_folder(mme_answers, [])
  assert "perception" not in scored.figures
  assert scored.figures["cognition"] == 800
  assert "9 of the 10 subtasks of perception" in scored.notes[0]


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("a\tq\tYes\n", "line 1 has 3 fields"),
    ("a\tq\tMaybe\tyes\n", "must be Yes or No, got 'Maybe'"),
    ("a\tq\tYes\tyes\n", "1 lines: each image has two"),
    ("a\tq\tYes\tyes\nb\tq\tYes\tyes\n", "must be of one image"),
    ("", "0 lines"),
  ],
)
def test_bad_mme_lines_are_refused(mme_answers, text, message):
  (mme_answers / "OCR.txt").write_text(text)
  with pytest.raises(InputError, match=message):
    mme_folder(mme_answers, [])


def test_other_folders_are_refused(mme_answers, tmp_path):
  with pytest.raises(InputError, match="is not a folder"):
    mme_folder(mme_answers / "OCR.txt", [])
  (mme_answers / "ocr_2.txt").write_text("")
  with pytest.raises(InputError, match="none of MME's subtasks"):
    mme_folder(mme_answers, [])
