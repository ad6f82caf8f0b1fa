"""Paths of users; files and folders that appear whole; untrusted JSON."""

import os
import pathlib
import socket
import subprocess
import sys
import time

import pytest

from ddit_jax.errors import InputError
from ddit_jax.files import (
  appearing_file,
  appearing_folder,
  check_free_space,
  folder_if_used,
  local_path,
  new_file,
  open_regular,
  read_regular,
  replace_file,
  take_lock,
)
from ddit_jax.json_files import read_json_object


@pytest.mark.parametrize(
  "path", ["gs://b/run", "S3://b", "hdfs://h:1/x", pathlib.Path("gs://b/run")]
)
def test_a_bucket_address_is_no_path(path):
  with pytest.raises(InputError, match=r"--out=.* is a bucket address: mount"):
    local_path(path, what="--out")


@pytest.mark.parametrize(
  ("path", "cause"),
  [("a\0b", "null"), ("x" * 300, "File name too long"), ("loop", "levels of")],
)
def test_a_name_that_the_system_refuses_is_no_path(
  tmp_path, monkeypatch, path, cause
):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "loop").symlink_to("loop")
  with pytest.raises(InputError, match=f"init_from=.*: .*{cause}"):
    local_path(path, what="init_from")


def test_an_empty_text_is_not_the_current_folder():
  with pytest.raises(InputError, match="path is empty: give a file or folder"):
    local_path("", what="path")
  assert local_path(".") == pathlib.Path.cwd()


def test_paths_as_people_write_them(tmp_path, monkeypatch):
  (tmp_path / "disk" / "deep").mkdir(parents=True)
  (tmp_path / "link").symlink_to(tmp_path / "disk" / "deep")
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("HOME", str(tmp_path))
  expected = {
    "x": "x",
    "./x/": "x",
    "disk/../x": "x",
    "disk/deep/../../x": "x",
    "link": "link",
    # As the system reads it: the folder that the link's target lies in.
    "link/../x": "disk/x",
    "missing/../x": "x",
    "~/x": "x",
    "KIND:x": "KIND:x",
    "a:b/c": "a:b/c",
  }
  for path, name in expected.items():
    assert local_path(path) == tmp_path / name, path
  monkeypatch.chdir(tmp_path / "disk")
  assert local_path("..") == tmp_path
  assert local_path("../x") == local_path(f"{tmp_path}/disk/../x")


def not_files(folder):
  """A pipe, a device, a folder, a socket and a link to a device."""
  os.mkfifo(folder / "pipe")
  (folder / "link").symlink_to("/dev/zero")
  with socket.socket(socket.AF_UNIX) as one:
    one.bind(str(folder / "socket"))
  (folder / "folder").mkdir()
  names = ("pipe", "folder", "socket", "link")
  return [*(folder / name for name in names), pathlib.Path("/dev/null")]


def test_only_regular_files_are_opened(tmp_path):
  for path in not_files(tmp_path):
    for read in (
      open_regular,
      read_regular,
      lambda path: read_json_object(path, max_bytes=9),
    ):
      with pytest.raises(ValueError, match=f"{path} is not a regular file"):
        read(path)
    with pytest.raises((InputError, IsADirectoryError)):
      open_regular(path, "a")
    with pytest.raises((InputError, IsADirectoryError)):
      take_lock(path)
  (tmp_path / "file").write_text("é")
  (tmp_path / "good").symlink_to("file")
  assert read_regular(tmp_path / "good") == "é".encode()
  with open_regular(tmp_path / "file", "a") as file:
    file.write("ü")
  assert read_regular(tmp_path / "file") == "éü".encode()
  with pytest.raises(FileNotFoundError):
    open_regular(tmp_path / "missing")


def test_a_lock_leaves_the_file_as_it_is(tmp_path):
  path = tmp_path / "lock"
  take_lock(path).close()
  path.write_text("something")
  with take_lock(path), pytest.raises(BlockingIOError):
    take_lock(path)
  assert path.read_text() == "something"
  (tmp_path / "link").symlink_to(path)
  with pytest.raises(InputError, match="is not a regular file"):
    take_lock(tmp_path / "link")


def test_a_link_in_place_of_a_partial_file_is_not_followed(tmp_path):
  (tmp_path / "mine").write_text("precious")
  (tmp_path / "a.json.partial").symlink_to("mine")
  replace_file(tmp_path / "a.json", b"new")
  assert (tmp_path / "mine").read_text() == "precious"
  assert (tmp_path / "a.json").read_bytes() == b"new"


@pytest.mark.parametrize("error", [InputError, KeyboardInterrupt])
def test_only_unused_new_folders_are_removed(tmp_path, error):
  (tmp_path / "old").mkdir()
  for name in ("old/a/b", "old"):
    with pytest.raises(error), folder_if_used(tmp_path / name) as folder:
      assert folder.is_dir()
      raise error
    assert os.listdir(tmp_path) == ["old"] and not os.listdir(tmp_path / "old")
  with pytest.raises(error), folder_if_used(tmp_path / "old/a/b") as folder:
    (tmp_path / "old/a/file").touch()
    raise error
  assert os.listdir(tmp_path / "old/a") == ["file"]
  with folder_if_used(tmp_path / "new") as folder:
    pass
  assert folder.is_dir()


def test_a_file_is_replaced_and_nothing_else_stays(tmp_path):
  path = tmp_path / "a.json"
  for data in (b"old", b"new"):
    replace_file(path, data)
    assert path.read_bytes() == data
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_killed_write_leaves_the_old_file(tmp_path, monkeypatch):
  path = tmp_path / "a.json"
  replace_file(path, b"old")

  def die(*_):
    raise KeyboardInterrupt

  monkeypatch.setattr(os, "replace", die)
  with pytest.raises(KeyboardInterrupt):
    replace_file(path, b"new")
  assert path.read_bytes() == b"old"


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


def test_a_folder_appears_when_the_block_ends(tmp_path):
  target = tmp_path / "deep" / "out"
  with appearing_folder(target) as folder:
    (folder / "a").write_text("x")
    assert not target.exists()
  assert (target / "a").read_text() == "x"
  assert os.listdir(target.parent) == ["out"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_interrupted_block_leaves_no_folder(tmp_path, error):
  with pytest.raises(error), appearing_folder(tmp_path / "out") as folder:
    (folder / "a").write_text("x")
    raise error
  assert os.listdir(tmp_path) == []


def test_a_folder_of_a_killed_process_is_started_anew(tmp_path):
  left = tmp_path / "out.partial"
  left.mkdir()
  (left / "old").write_text("x")
  with appearing_folder(tmp_path / "out") as folder:
    assert os.listdir(folder) == []
  assert os.listdir(tmp_path) == ["out"]


def test_only_an_empty_folder_is_replaced(tmp_path):
  target = tmp_path / "out"
  target.mkdir()
  with appearing_folder(target) as folder:
    (folder / "a").write_text("x")
  for taken in (target, target / "a"):
    with (
      pytest.raises(InputError, match="already exists"),
      appearing_folder(taken),
    ):
      pass
  assert (target / "a").read_text() == "x"


def test_room_on_the_disk(tmp_path):
  path = tmp_path / "not" / "yet"
  facts = check_free_space(path, 1, remedy="x")
  assert facts.startswith("1e-09 GB to write, ")
  with pytest.raises(InputError, match=r"1e\+09 GB to write.*or be brief"):
    check_free_space(path, 10**18, remedy="be brief")


def test_a_refused_folder_leaves_no_parents(tmp_path):
  with (
    pytest.raises(KeyboardInterrupt),
    appearing_folder(tmp_path / "a" / "b" / "out"),
  ):
    raise KeyboardInterrupt
  assert os.listdir(tmp_path) == []


def test_one_writer_at_a_time(tmp_path):
  target = tmp_path / "out"
  with appearing_folder(target) as folder:
    (folder / "a").write_text("first")
    with (
      pytest.raises(
        InputError, match=r"another process is writing .*out: wait"
      ),
      appearing_folder(target),
    ):
      raise AssertionError
    assert (folder / "a").read_text() == "first"
  assert (target / "a").read_text() == "first"
  path = tmp_path / "file"
  with new_file(path) as file:
    file.write(b"first")
    with (
      pytest.raises(InputError, match="another process is writing"),
      new_file(path),
    ):
      raise AssertionError
  with pytest.raises(InputError, match="exists: choose"), new_file(path):
    raise AssertionError
  assert path.read_bytes() == b"first"
  assert sorted(os.listdir(tmp_path)) == ["file", "out"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_interrupted_new_file_leaves_nothing(tmp_path, error):
  (tmp_path / "x.partial").write_bytes(b"of a killed process, longer")
  with pytest.raises(error), new_file(tmp_path / "x") as file:
    file.write(b"some")
    raise error
  assert os.listdir(tmp_path) == []
  (tmp_path / "x.partial").write_bytes(b"of a killed process, longer")
  with new_file(tmp_path / "x") as file:
    file.write(b"some")
  assert (tmp_path / "x").read_bytes() == b"some"


def test_what_was_moved_is_looked_at_again(tmp_path, monkeypatch):
  replace = os.replace

  def replace_and_lose(source, destination):
    replace(source, destination)
    (destination / "a").unlink()

  monkeypatch.setattr(os, "replace", replace_and_lose)
  with (
    pytest.raises(OSError, match="does not hold what was written"),
    appearing_folder(tmp_path / "out") as folder,
  ):
    (folder / "a").write_text("x")


_WRITER = """
import pathlib, sys, time
from ddit_jax.errors import InputError
from ddit_jax.files import appearing_folder
time.sleep(float(sys.argv[3]))
try:
  with appearing_folder(pathlib.Path(sys.argv[1])) as folder:
    for number in range(40):
      (folder / str(number)).write_text(sys.argv[2])
      time.sleep(0.002)
except InputError as error:
  sys.exit(str(error))
print("wrote")
"""


@pytest.mark.slow
def test_of_two_processes_one_writes_and_the_other_says_so(tmp_path):
  for pair in range(30):
    target = tmp_path / str(pair)
    writers = [
      subprocess.Popen(
        [sys.executable, "-c", _WRITER, target, name, str(delay)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
      )
      for name, delay in (("a", 0.0), ("b", pair * 0.004))
    ]
    outputs = [writer.communicate() for writer in writers]
    wrote = [out == "wrote\n" for out, _ in outputs]
    assert sum(wrote) == 1, outputs
    assert outputs[wrote.index(False)][1].count("\n") == 1
    texts = {path.read_text() for path in target.iterdir()}
    assert len(list(target.iterdir())) == 40
    assert texts == {"ab"[wrote.index(True)]}
  assert len(list(tmp_path.iterdir())) == 30
