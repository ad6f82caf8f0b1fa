"""Files that appear whole or not at all; JSON that is not trusted."""

import os

import pytest

from ddit_jax.files import read_json_object, replace_file


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


def test_the_object_is_read(tmp_path):
  path = tmp_path / "a.json"
  path.write_text('{"é": [1]}', encoding="utf-8")
  assert read_json_object(path, max_bytes=11) == {"é": [1]}
  with pytest.raises(ValueError, match="has 11 bytes, at most 10 are read"):
    read_json_object(path, max_bytes=10)


@pytest.mark.parametrize(
  ("data", "message"),
  [
    (b"", "is no JSON"),
    (b"{\n'a': 1}", "is no JSON"),
    (b"\xff", "is no JSON"),
    (b"[" * 100_000, "is no JSON"),
    (b"9" * 9_000, "is no JSON"),
    (b"[1]", "must hold a JSON object"),
  ],
)
def test_anything_else_is_a_line(tmp_path, data, message):
  path = tmp_path / "a.json"
  path.write_bytes(data)
  with pytest.raises(ValueError, match=message) as caught:
    read_json_object(path, max_bytes=200_000)
  assert "\n" not in str(caught.value)
