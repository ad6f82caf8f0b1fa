"""A training run's page, made of what lies in its workdir."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from ddit_jax.experiment.run_report import (
  report_path,
  run_report,
  train_seconds,
  write_run_reports,
)


@pytest.fixture
def workdir(trained, tmp_path):
  """A run's workdir with sample grids of two steps."""
  folder = tmp_path / "run"
  folder.mkdir()
  for name in ("config.json", "scalars.jsonl"):
    shutil.copy(trained / name, folder / name)
  for step, colour in ((4, "red"), (6, "blue")):
    path = folder / "images" / "answers" / f"{step:08}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (5, 3), colour).save(path)
  return folder


def test_it_shows_the_config_the_curves_and_the_newest_grids(workdir):
  report = run_report(workdir)
  assert report.config == json.loads((workdir / "config.json").read_text())
  assert "6 of 6 training steps, seed 0" in report.summary
  steps = [x["step"] for x in report.scalars if "loss/total" in x]
  assert steps == [1, 2, 3, 4, 5, 6]
  assert any("validation/total" in line for line in report.scalars)
  (title,) = report.grids
  assert title == "answers, step 6"
  np.testing.assert_array_equal(report.grids[title][0, 0], (0, 0, 255))


def test_the_page_is_written_once_and_again_after_more_steps(workdir, capsys):
  path = report_path(workdir)
  write_run_reports([workdir, workdir / "not_begun"])
  text = path.read_text()
  for part in ("data:image/png", "loss/total"[:4], "data.<wbr>pool_<wbr>size"):
    assert part in text
  path.write_text("kept")
  write_run_reports([workdir])
  assert path.read_text() == "kept"
  os.utime(path, (0, 0))
  write_run_reports([workdir])
  assert path.read_text() == text


@pytest.mark.parametrize(
  "body", ["{}", "[]", '{"train": 1}', '{"train": {"num_steps": "x"}}', "[" * 9]
)
def test_a_damaged_config_is_said_and_stops_nothing(workdir, caplog, body):
  (workdir / "config.json").write_text(body)
  write_run_reports([workdir])
  assert not report_path(workdir).exists()
  (message,) = caplog.messages
  assert "report.html cannot be written" in message
  assert "config.json" in message


def test_an_evaluations_report_is_kept(workdir):
  (workdir / "metrics.json").write_text("{}")
  (workdir / "report.html").write_text("evaluation")
  write_run_reports([workdir])
  assert (workdir / "report.html").read_text() == "evaluation"
  assert (workdir / "training.html").stat().st_size > 10_000


def test_a_page_that_cannot_be_written_stops_nothing(workdir, caplog):
  (workdir / "config.json").write_text("{")
  write_run_reports([workdir])
  assert "report.html cannot be written" in caplog.text
  assert not report_path(workdir).exists()


def test_seconds_are_steps_over_logged_speeds():
  name = "speed/steps_per_second"
  rows = [{"step": 10, name: 5.0}, {"step": 12}, {"step": 20, name: 2.5}]
  assert train_seconds(rows) == 10 / 5 + 10 / 2.5
