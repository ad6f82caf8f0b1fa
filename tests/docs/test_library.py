"""The program of docs/library.md runs as it stands, and learns."""

import pathlib
import re

import numpy as np

ROOT = pathlib.Path(__file__).parent.parent.parent


def program():
  text = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
  # The second block needs a trained run: tests/pipelines/test_pipeline.py.
  return re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]


def test_it_takes_at_most_thirty_lines():
  lines = [line for line in program().splitlines() if line.strip()]
  assert len(lines) <= 30
  assert all(len(line) <= 80 for line in lines)


def test_it_runs_and_its_loss_falls():
  names = {}
  exec(compile(program(), "docs/library.md", "exec"), names)
  history = names["history"]
  assert np.isfinite(history).all()
  # Measured 2.17 to 1.45.
  assert np.mean(history[-10:]) < 0.9 * np.mean(history[:10])
