"""Paths of a config become lists of files."""

import os
import pathlib

import pytest

from ddit_jax.data.sources.paths import (
  existing_file,
  existing_folder,
  list_files,
  shared_folder,
)


@pytest.fixture
def folder(tmp_path):
  for name in ("b.tar", "a.tar", "c.TAR", "n-08.tar", "n-10.tar", "x.txt"):
    (tmp_path / name).touch()
  (tmp_path / "d.tar").mkdir()
  (tmp_path / "sub").mkdir()
  (tmp_path / "sub" / "s.tar").touch()
  return tmp_path


def names(path, folder) -> list[str]:
  files = list_files(path, suffixes=(".tar",))
  return [str(file.relative_to(folder)) for file in files]


def test_a_file_is_itself_whatever_its_name(folder):
  assert names(f"{folder}/x.txt", folder) == ["x.txt"]
  assert names(folder / "x.txt", folder) == ["x.txt"]


def test_a_folder_gives_its_files_in_order(folder):
  expected = ["a.tar", "b.tar", "c.TAR", "n-08.tar", "n-10.tar"]
  assert names(folder, folder) == expected


def test_patterns_and_ranges_are_expanded(folder):
  assert names(f"{folder}/[ab].tar", folder) == ["a.tar", "b.tar"]
  (folder / "n-09.tar").touch()
  expected = ["n-08.tar", "n-09.tar", "n-10.tar"]
  assert names(f"{folder}/n-{{08..10}}.tar", folder) == expected


def test_two_ranges_are_multiplied(tmp_path):
  for place in "12":
    (tmp_path / place).mkdir()
    for number in "34":
      (tmp_path / place / number).touch()
  found = names(f"{tmp_path}/{{1..2}}/{{3..4}}", tmp_path)
  assert found == ["1/3", "1/4", "2/3", "2/4"]


def test_lists_keep_their_order(folder):
  paths = [f"{folder}/sub", f"{folder}/b.tar"]
  assert names(paths, folder) == ["sub/s.tar", "b.tar"]
  assert shared_folder(list_files(paths, suffixes=(".tar",))) == folder


def test_relative_paths_become_absolute(folder, monkeypatch):
  monkeypatch.chdir(folder)
  assert names("a.tar", folder) == ["a.tar"]
  assert list_files("a.tar", suffixes=())[0].is_absolute()


@pytest.mark.parametrize(
  ("path", "message"),
  [
    ("{}/none.tar", "is not a file, a folder or a pattern that matches"),
    ("{}/none-*.tar", "is not a file, a folder or a pattern that matches"),
    ("{}/n-{{08..12}}.tar", "n-09.tar is not a file"),
    ("{}/{{3..1}}", "the range {3..1} of .* is empty"),
    ("{}/{{0..99999}}/{{0..99999}}", "more than 10000000 files"),
    ("{}/d.tar", "is a folder without .tar files"),
  ],
)
def test_what_is_not_there_is_refused(path, message, folder):
  with pytest.raises(ValueError, match=message):
    list_files(path.format(folder), suffixes=(".tar",))


@pytest.mark.parametrize("path", [7, None, [], [7], {"a": 1}])
def test_other_types_are_refused(path):
  with pytest.raises(ValueError, match="must be a file, pattern or list"):
    list_files(path, suffixes=())


def test_a_file_that_is_listed_twice_is_refused(folder):
  paths = [f"{folder}/a.tar", f"{folder}/sub/../a.tar"]
  with pytest.raises(ValueError, match=r"1 files are listed twice.*a\.tar"):
    list_files(paths, suffixes=())


def test_files_and_folders_are_told_apart(folder):
  assert existing_file(f"{folder}/a.tar", what="path") == folder / "a.tar"
  assert existing_folder(str(folder), what="images") == folder
  with pytest.raises(
    ValueError, match=r"path must be a file, but .* is a folder"
  ):
    existing_file(folder, what="path")
  with pytest.raises(ValueError, match=r"but .* does not exist"):
    existing_file(folder / "none", what="path")
  os.mkfifo(folder / "pipe")
  with pytest.raises(ValueError, match=r"but .*pipe is not a regular file"):
    existing_file(folder / "pipe", what="path")
  with pytest.raises(
    ValueError, match=r"images must be a folder, but .* a file"
  ):
    existing_folder(folder / "a.tar", what="images")
  with pytest.raises(ValueError, match=r"but .* does not exist"):
    existing_folder(folder / "none", what="images")
  for function in (existing_file, existing_folder):
    with pytest.raises(ValueError, match="not 7"):
      function(7, what="path")


def test_the_home_folder_is_known(folder, monkeypatch):
  monkeypatch.setenv("HOME", str(folder))
  assert existing_file("~/a.tar", what="path") == pathlib.Path(folder, "a.tar")
  assert names("~/[a].tar", folder) == ["a.tar"]
