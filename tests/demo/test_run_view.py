"""A run's files as HTML, whatever they hold."""

import json
import shutil

import pytest
from PIL import Image

from ddit_jax.demo import run_view
from ddit_jax.demo.run_view import drawn_once, is_run, run_html, stamp
from ddit_jax.experiment.run_report import read_incidents


@pytest.fixture
def workdir(trained, tmp_path):
  for name in ("config.json", "scalars.jsonl"):
    shutil.copy(trained / name, tmp_path / name)
  return tmp_path


def test_it_shows_curves_samples_and_incidents(workdir):
  assert is_run(workdir) and not is_run(workdir / "images")
  html = run_html(workdir)
  assert "6 of 6 training steps" in html and html.count("<svg") >= 4
  assert "no batch was skipped" in html
  before = stamp(workdir)
  assert stamp(workdir) == before
  folder = workdir / "images" / "answers"
  folder.mkdir(parents=True)
  Image.new("RGB", (5, 3), "red").save(folder / "00000004.png")
  lines = [
    {"event": "rollback", "step": 5, "to_step": 4, "cause": "<b>high</b>"},
    {"event": "skipped_batch", "step": 6, "losses": {"loss/total": "nan"}},
  ]
  text = "\n".join(map(json.dumps, lines)) + '\nnot json\n{"event": "half'
  (workdir / "incidents.jsonl").write_text(text)
  assert stamp(workdir) != before
  assert read_incidents(workdir) == lines
  html = run_html(workdir)
  assert "answers, step 4" in html and "data:image/png" in html
  assert "2 in all" in html and "skipped batch" in html
  assert "&lt;b&gt;high" in html and "<b>high" not in html
  # The newest one first.
  assert html.index("skipped batch") < html.index("rollback")


def test_all_open_pages_share_what_was_drawn(tmp_path, monkeypatch):
  drawn = []
  monkeypatch.setattr(run_view, "run_html", lambda folder: drawn.append(folder))
  for now in ((1,), (1,), (2,), (2,)):
    drawn_once(tmp_path, now)
  assert drawn == [tmp_path] * 2
