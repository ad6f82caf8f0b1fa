"""`ddit evaluate` in two real processes against the same in one."""

import json

import numpy as np
import pytest
from PIL import Image

from tests import tiny_run
from tests.pipelines.test_benchmarks import CONFIG, flags, journal
from tests.protocols import official_files

TASKS = ("gqa", "mjhq")
COUNT = 6
FIGURE = "evaluation/gqa/accuracy"


def metrics(folder) -> dict:
  return json.loads((folder / "metrics.json").read_text())["metrics"]


@pytest.mark.slow
def test_two_processes_share_batches_and_resume_as_one_does(trained, tmp_path):
  official_files.gqa(tmp_path / "gqa", COUNT)
  official_files.mjhq(tmp_path / "mjhq", COUNT)
  alone, together = tmp_path / "alone", tmp_path / "together"
  changes = {"sample__text__canvas_length": 4, "sample__batch_size": 8}
  for folder, count in ((alone, 1), (together, 2)):
    argv = flags(trained, tmp_path, folder, TASKS, **changes)
    tiny_run.ddit_together(*argv, count=count)
  assert metrics(together) == metrics(alone)
  assert journal(together / "gqa") == journal(alone / "gqa")
  for want in sorted((alone / "mjhq").rglob("*.png")):
    got = together / want.relative_to(alone)
    with Image.open(want) as first, Image.open(got) as second:
      # Eight-bit pixels, of sums in another order.
      np.testing.assert_allclose(
        np.asarray(first, int), np.asarray(second, int), atol=1
      )
  # As if killed after three answers and a half.
  path = together / "gqa" / "outputs.jsonl"
  lines = path.read_text().splitlines(keepends=True)
  path.write_text("".join(lines[:4]) + lines[4][:9])
  tiny_run.ddit_together(*argv, count=2)
  assert path.read_text().splitlines(keepends=True) == lines


@pytest.mark.slow
def test_two_processes_sit_the_digits_exam_as_one_does(trained, tmp_path):
  small = tiny_run.flags(
    evaluate__questions_per_kind="2", evaluate__num_pope_images="2"
  )
  alone, together = tmp_path / "alone", tmp_path / "together"
  for out, count in ((alone, 1), (together, 2)):
    argv = (f"--checkpoint={trained}", f"--out={out}", *small)
    tiny_run.ddit_together("evaluate", *argv, count=count)
  assert metrics(together) == metrics(alone)


@pytest.mark.slow
def test_two_processes_evaluate_at_validations(tmp_path):
  official_files.gqa(tmp_path / "gqa", COUNT)
  workdir = tmp_path / "run"
  argv = tiny_run.flags(
    train__num_steps="2",
    train__validate_every="2",
    benchmarks__folder=str(tmp_path),
    benchmarks__at_validation="gqa",
    benchmarks__prompt="trained",
    benchmarks__sampling="config",
  )
  tiny_run.ddit_together("train", f"--workdir={workdir}", *argv, count=2)
  lines = (workdir / "scalars.jsonl").read_text().splitlines()
  rows = [row for row in map(json.loads, lines) if FIGURE in row]
  assert [row["step"] for row in rows] == [2]
  assert len(journal(workdir / "validation" / "gqa")) == COUNT


@pytest.mark.slow
def test_what_stops_the_first_process_stops_both(trained, tmp_path):
  argv = ["evaluate", f"--checkpoint={trained}", f"--config={CONFIG}:own"]
  argv += ["--tasks=gqa", f"--config.benchmarks.folder={tmp_path}"]
  official_files.gqa(tmp_path / "gqa", 2)
  (tmp_path / "file").touch()
  with pytest.raises(AssertionError, match=r"--out=.*file cannot be written"):
    tiny_run.ddit_together(*argv, f"--out={tmp_path / 'file'}", count=2)
