"""Event files, read back record by record."""

import struct

import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from ddit_jax.monitor.tensorboard import EventFile


def events(folder):
  """All events: each is (length, its checksum, bytes, their checksum)."""
  found = []
  for path in sorted(folder.iterdir()):
    data = path.read_bytes()
    while data:
      (length,) = struct.unpack("<Q", data[:8])
      found.append(event_pb2.Event.FromString(data[12 : 12 + length]))
      data = data[16 + length :]
  return found


def test_every_call_is_on_disk_when_it_returns(tmp_path):
  board = EventFile(tmp_path / "board")
  board.add_scalars(3, {"loss/total": 0.5, "speed": 2.0}, wall_time=7.0)
  scalars = events(tmp_path / "board")[-2:]
  assert [(x.step, x.wall_time) for x in scalars] == [(3, 7.0), (3, 7.0)]
  values = [x.summary.value[0] for x in scalars]
  assert [(v.tag, v.simple_value) for v in values] == [
    ("loss/total", 0.5),
    ("speed", 2.0),
  ]
  board.add_image(4, "grid", np.zeros((5, 6, 3), np.uint8))
  image = events(tmp_path / "board")[-1]
  assert image.step == 4 and image.summary.value[0].tag == "grid"
  assert image.summary.value[0].image.height == 5
  board.close()


def test_files_of_one_second_do_not_overwrite_each_other(tmp_path):
  for step in (1, 2):
    board = EventFile(tmp_path, purge_step=step)
    board.add_scalars(step, {"x": 1.0}, wall_time=0.0)
    board.close()
  assert len(list(tmp_path.iterdir())) == 2
  found = events(tmp_path)
  assert [x.step for x in found if x.HasField("session_log")] == [1, 2]


def test_a_full_disk_is_an_error_at_once(tmp_path):
  (tmp_path / "taken").touch()
  with pytest.raises(OSError):
    EventFile(tmp_path / "taken")
