"""Open files are shared, limited in number, and closed when let go."""

import os

import pytest

from ddit_jax.data.sources import paths as open_files
from ddit_jax.data.sources.paths import (
  ChangedFile,
  OpenFile,
  OpenFiles,
  file_facts,
)


@pytest.fixture
def paths(tmp_path):
  for number in range(5):
    (tmp_path / f"{number}").write_bytes(b"%d" % number * 10)
  return [tmp_path / f"{number}" for number in range(5)]


def num_open(paths) -> int:
  known = {str(path) for path in paths}
  descriptors = os.listdir("/proc/self/fd")
  links = (os.path.realpath(f"/proc/self/fd/{fd}") for fd in descriptors)
  return sum(link in known for link in links)


def test_bytes_are_those_of_the_file(paths):
  assert OpenFile(paths[3], 10).read(2, 4) == b"3333"


def test_a_file_closes_when_nobody_holds_it(paths):
  file = OpenFile(paths[0], 10)
  assert num_open(paths) == 1
  del file
  assert num_open(paths) == 0


def test_another_size_is_refused_and_leaves_nothing_open(paths):
  with pytest.raises(ChangedFile, match="has 10 bytes, its index says 11"):
    OpenFile(paths[0], 11)
  with pytest.raises(FileNotFoundError):
    OpenFile(paths[0].with_name("none"), 11)
  assert num_open(paths) == 0


def test_reading_behind_the_end_is_refused(paths):
  with pytest.raises(ChangedFile, match="2 of 3 bytes at 8"):
    OpenFile(paths[0], 10).read(8, 3)


def test_few_files_are_open_at_a_time(paths, monkeypatch):
  monkeypatch.setattr(open_files, "_MAX_OPEN", 2)
  files = OpenFiles(paths, list(map(file_facts, paths)))
  held = files[0]
  for number in range(5):
    assert files[number].read(0, 1) == b"%d" % number
  # Two that were used last, and the one that is held.
  assert num_open(paths) == 3 and held.read(0, 1) == b"0"
  assert files[4] is files[4]
