"""Large files appear whole or not at all."""

import os
import time

import pytest

from ddit_jax.files import appearing_file


def test_the_file_appears_when_the_block_ends(tmp_path):
  path = tmp_path / "index"
  with appearing_file(path) as file:
    file.write(b"whole")
    assert not path.exists()
  assert path.read_bytes() == b"whole"
  assert os.listdir(tmp_path) == ["index"]
  assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_interrupted_block_leaves_what_was_there(error, tmp_path):
  path = tmp_path / "index"
  path.write_bytes(b"old")
  with pytest.raises(error), appearing_file(path) as file:
    file.write(b"half")
    raise error
  assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["index"]


def test_only_old_leftovers_of_this_file_are_removed(tmp_path):
  names = ["index.x.partial", "index.y.partial", "other.x.partial"]
  for name in names:
    (tmp_path / name).write_bytes(b"half")
  hours_ago = time.time() - 7200
  for name in (names[0], names[2]):
    os.utime(tmp_path / name, (hours_ago, hours_ago))
  with appearing_file(tmp_path / "index"):
    pass
  assert sorted(os.listdir(tmp_path)) == ["index", *names[1:]]


def test_two_writers_do_not_mix(tmp_path):
  path = tmp_path / "index"
  with appearing_file(path) as first, appearing_file(path) as second:
    first.write(b"first")
    second.write(b"second, longer")
  # The inner block ends first, so the outer one's file stays.
  assert path.read_bytes() == b"first"
