"""Lines stay in order, survive a kill, and are cut back after a resume."""

import pytest

from ddit_jax.monitor.metric_writer import ScalarFile, read_scalars


@pytest.fixture
def path(tmp_path):
  path = tmp_path / "run" / "scalars.jsonl"
  file = ScalarFile(path)
  for step in (10, 20, 30):
    file.append(step, 1000.0 + step, {"loss": step / 8, "bad": None})
  file.close()
  return path


def test_one_line_a_step(path):
  assert path.read_text().splitlines()[1] == (
    '{"step": 20, "time": 1020.0, "loss": 2.5, "bad": null}'
  )
  assert read_scalars(path)[2] == {
    "step": 30,
    "time": 1030.0,
    "loss": 3.75,
    "bad": None,
  }


def test_a_half_line_is_reported_and_removed_at_the_next_start(path, caplog):
  with open(path, "a") as file:
    file.write('{"step": 40, "ti')
  assert [line["step"] for line in read_scalars(path)] == [10, 20, 30]
  assert "half-written" in caplog.text
  file = ScalarFile(path)
  file.append(40, 0.0, {})
  file.close()
  assert [line["step"] for line in read_scalars(path)] == [10, 20, 30, 40]


def test_going_back_needs_a_truncation(path):
  file = ScalarFile(path)
  with pytest.raises(ValueError, match="step 21 comes after step 30"):
    file.append(21, 0.0, {})
  assert file.truncate_after(20) == 1
  assert file.truncate_after(20) == 0
  file.append(21, 0.0, {})
  file.append(21, 0.0, {"eval": 1.0})  # a second line of one step is fine
  file.close()
  assert [line["step"] for line in read_scalars(path)] == [10, 20, 21, 21]


@pytest.mark.parametrize("line", ["not json", '{"loss": 1}', "[1]", ""])
def test_a_broken_line_inside_the_file_is_named(path, line):
  lines = path.read_text().splitlines()
  path.write_text("\n".join([lines[0], line, lines[2], ""]))
  with pytest.raises(ValueError, match="line 2"):
    read_scalars(path)
