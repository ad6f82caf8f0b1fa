"""What is written can be read back by other readers."""

import contextlib
import json
import math
import os
import resource
import struct

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto import event_pb2

from ddit_jax.monitor.metric_writer import MetricWriter, read_scalars


def events(folder):
  """All TensorBoard events; a record is length, checksum, bytes, checksum."""
  found = []
  for path in sorted((folder / "tensorboard").iterdir()):
    data = path.read_bytes()
    while data:
      (length,) = struct.unpack("<Q", data[:8])
      event = event_pb2.Event()
      event.ParseFromString(data[12 : 12 + length])
      found.append(event)
      data = data[16 + length :]
  return found


def lines_of(folder):
  def refuse(name):
    raise AssertionError(f"{name} is not JSON")

  text = (folder / "scalars.jsonl").read_text()
  return [json.loads(x, parse_constant=refuse) for x in text.splitlines()]


def test_scalars_reach_the_lines_and_tensorboard(tmp_path):
  with MetricWriter(tmp_path) as writer:
    writer.write_scalars(5, {"loss/total": jnp.float32(0.5), "lr": 1})
    [line] = lines_of(tmp_path)  # there at once, not only after close
  assert line.pop("time") > 1.7e9
  assert line == {"step": 5, "loss/total": 0.5, "lr": 1.0}
  scalars = {
    (event.step, value.tag): value.simple_value
    for event in events(tmp_path)
    for value in event.summary.value
  }
  assert scalars == {(5, "loss/total"): 0.5, (5, "lr"): 1.0}


def test_values_that_are_not_finite_are_null_and_counted(tmp_path, caplog):
  with MetricWriter(tmp_path) as writer:
    writer.write_scalars(1, {"a": math.nan, "b": math.inf, "c": 1.0})
    writer.write_scalars(2, {"a": math.nan, "b": 0.0})
  assert writer.non_finite_counts == {"a": 2, "b": 1}
  assert [line["a"] for line in lines_of(tmp_path)] == [None, None]
  assert "a is nan at step 1" in caplog.text
  assert "{'a': 2, 'b': 1}" in caplog.text


def test_images_are_kept_to_the_last_bit(tmp_path):
  draw = np.random.default_rng(0)
  colour = draw.integers(0, 256, (6, 4, 3), np.uint8)
  grey = draw.integers(0, 256, (5, 7, 1), np.uint8)
  with MetricWriter(tmp_path) as writer:
    writer.write_images(40, {"samples/test": colour[:, ::-1], "grey": grey})
  read = np.asarray(Image.open(tmp_path / "images/samples/test/00000040.png"))
  np.testing.assert_array_equal(read, colour[:, ::-1])
  read = np.asarray(Image.open(tmp_path / "images/grey/00000040.png"))
  np.testing.assert_array_equal(read, grey[:, :, 0])
  tags = {v.tag for e in events(tmp_path) for v in e.summary.value}
  assert tags == {"samples/test", "grey"}


def test_after_a_resume_the_lost_steps_are_gone_and_reported(tmp_path, caplog):
  with MetricWriter(tmp_path) as writer:
    for step in (10, 20, 30):
      writer.write_scalars(step, {"loss": float(step)})
  with MetricWriter(tmp_path) as writer:
    writer.truncate_after(10)
    writer.write_scalars(20, {"loss": 0.0})
  assert [(x["step"], x["loss"]) for x in lines_of(tmp_path)] == [
    (10, 10.0),
    (20, 0.0),
  ]
  assert "dropped 2 lines after the restored step 10" in caplog.text
  starts = [
    e.step
    for e in events(tmp_path)
    if e.session_log.status == event_pb2.SessionLog.START
  ]
  values = [v for e in events(tmp_path) for v in e.summary.value]
  assert len(values) == 4  # no file overwrote another
  assert starts == [11]  # TensorBoard hides older events from step 11 on


@pytest.mark.parametrize("name", ["step", "time", "", "/a", "a/../b", "a b"])
def test_bad_names_are_refused(tmp_path, name):
  with MetricWriter(tmp_path) as writer:
    with pytest.raises(ValueError, match="reserved or not path-like"):
      writer.write_scalars(1, {name: 1.0})
    with pytest.raises(ValueError, match="reserved or not path-like"):
      writer.write_images(1, {name: np.zeros((2, 2, 3), np.uint8)})
  assert lines_of(tmp_path) == []


def test_bad_values_are_refused(tmp_path):
  with MetricWriter(tmp_path) as writer:
    with pytest.raises(ValueError, match=r"loss has shape \(2,\)"):
      writer.write_scalars(1, {"loss": np.ones(2)})
    for image in (np.zeros((2, 2, 3)), np.zeros((2, 2), np.uint8), [1]):
      with pytest.raises(ValueError, match="image x is"):
        writer.write_images(1, {"x": image})


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with MetricWriter(None) as writer:
    writer.write_scalars(1, {"a": 1.0})
    writer.write_images(1, {"x": np.zeros((2, 2, 3), np.uint8)})
    writer.truncate_after(0)
  assert list(tmp_path.iterdir()) == []


@pytest.fixture
def path(tmp_path):
  """A file with lines of steps 10, 20 and 30."""
  with MetricWriter(tmp_path / "run") as writer:
    for step in (10, 20, 30):
      writer.write_scalars(step, {"loss": step / 8})
  return tmp_path / "run" / "scalars.jsonl"


def test_a_half_line_is_reported_and_removed_at_the_next_start(path, caplog):
  with open(path, "a") as file:
    file.write('{"step": 40, "ti')
  assert [line["step"] for line in read_scalars(path)] == [10, 20, 30]
  assert "half-written" in caplog.text
  with MetricWriter(path.parent) as writer:
    writer.write_scalars(40, {})
  assert [line["step"] for line in read_scalars(path)] == [10, 20, 30, 40]


def test_going_back_needs_a_truncation(path):
  with MetricWriter(path.parent) as writer:
    with pytest.raises(ValueError, match="step 21 comes after step 30"):
      writer.write_scalars(21, {})
    writer.truncate_after(20)
    writer.write_scalars(21, {})
    writer.write_scalars(21, {"eval": 1.0})  # a second line of a step is fine
  assert [line["step"] for line in read_scalars(path)] == [10, 20, 21, 21]


@pytest.mark.parametrize(
  "line",
  [
    *(b"not json", b'{"loss": 1}', b"[1]", b"", b"\0\0", b"\xff\xfe"),
    *(b'{"step": 20, "a": NaN}', b'{"step": 20, "a": "b"}', b'{"step": true}'),
    *(b'{"step": ' + b"9" * 5000 + b"}", b"[" * 100_000),
  ],
)
def test_a_broken_line_is_reported_and_the_sound_ones_are_kept(
  path, caplog, line
):
  lines = path.read_bytes().splitlines()
  path.write_bytes(b"\n".join([lines[0], line, lines[2], b""]))
  assert [line["step"] for line in read_scalars(path)] == [10, 30]
  assert "1 of 3 lines are not scalars of a step" in caplog.text
  assert "the first is line 2" in caplog.text
  with MetricWriter(path.parent) as writer:
    writer.write_scalars(40, {"loss": 0.5})
  caplog.clear()
  assert [line["step"] for line in read_scalars(path)] == [10, 30, 40]
  assert caplog.text == ""


def test_a_pipe_in_place_of_the_file_is_reported_and_never_waited_for(
  tmp_path, caplog
):
  os.mkfifo(tmp_path / "scalars.jsonl")
  with MetricWriter(tmp_path) as writer:
    writer.write_scalars(1, {"loss": 0.5})
  assert "scalars.jsonl cannot be written (not a file)" in caplog.text
  assert writer.failed_counts == {"scalars.jsonl": 2}  # opening and a line
  assert len(events(tmp_path)) == 2


@contextlib.contextmanager
def files_of_at_most(num_bytes):
  """As on a full disk, writing beyond it fails after a part was written."""
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_costs_lines_and_never_the_run(tmp_path, caplog):
  image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
  with MetricWriter(tmp_path) as writer:
    with files_of_at_most(1000):
      for step in range(1, 101):
        writer.write_scalars(step, {"loss": step / 8})
      writer.write_images(100, {"samples": image})
    writer.write_scalars(101, {"loss": 0.5})
  steps = [line["step"] for line in lines_of(tmp_path)]
  assert steps == [*range(1, len(steps)), 101]
  num_lost = writer.failed_counts["scalars.jsonl"]
  assert 0 < num_lost == 101 - len(steps)
  assert writer.failed_counts["images"] == 1
  assert list((tmp_path / "images" / "samples").iterdir()) == []
  assert caplog.text.count("scalars.jsonl cannot be written (No space") == 1
  assert f"'scalars.jsonl': {num_lost}" in caplog.messages[-1]


def test_a_folder_that_disappears_does_not_stop_the_run(tmp_path, caplog):
  image = np.zeros((2, 2, 3), np.uint8)
  with MetricWriter(tmp_path / "run") as writer:
    (tmp_path / "run").rename(tmp_path / "moved")
    writer.write_scalars(1, {"loss": 0.5})
    writer.write_images(1, {"samples": image})
  assert "images cannot be written (No such file" in caplog.text
  assert [path.name for path in tmp_path.iterdir()] == ["moved"]
