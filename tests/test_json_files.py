"""JSON of untrusted files, and hashes."""

import hashlib
import os

import pytest

from ddit_jax.errors import InputError
from ddit_jax.json_files import (
  file_hash,
  json_hash,
  parse_json,
  read_json,
  read_json_object,
  read_sealed,
  sealed,
  write_json,
  write_lines,
)


def test_the_object_is_read(tmp_path):
  path = tmp_path / "a.json"
  path.write_text('{"é": [1]}', encoding="utf-8")
  assert read_json_object(path, max_bytes=11) == {"é": [1]}
  with pytest.raises(ValueError, match="has 11 bytes, at most 10 are read"):
    read_json_object(path, max_bytes=10)


@pytest.mark.parametrize(
  ("data", "message"),
  [
    (b"", "is not JSON"),
    (b"{\n'a': 1}", "is not JSON"),
    (b"\xff", "is not JSON"),
    (b"[" * 100_000, "is not JSON"),
    (b"9" * 9_000, "is not JSON"),
    (b"[1]", "must hold a JSON object"),
  ],
)
def test_anything_else_is_a_line(tmp_path, data, message):
  path = tmp_path / "a.json"
  path.write_bytes(data)
  with pytest.raises(ValueError, match=message) as caught:
    read_json_object(path, max_bytes=200_000)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_json_may_begin_with_a_byte_order_mark(tmp_path, encoding):
  """Editors and shells of Windows write one."""
  path = tmp_path / "spec.json"
  path.write_text('{"kind": "ä"}', encoding=encoding)
  assert read_json_object(path, max_bytes=100) == {"kind": "ä"}


def test_a_changed_value_breaks_the_seal(tmp_path):
  path, body = tmp_path / "x.json", {"b": [1, 2.5, "ä"], "a": {"c": None}}
  path.write_bytes(sealed(body))
  assert read_sealed(path, max_bytes=1000) == body
  sound = path.read_bytes()
  for old, new in ((b"2.5", b"2.6"), (b"null", b"true"), (b"blake2b", b"x")):
    path.write_bytes(sound.replace(old, new))
    with pytest.raises(ValueError, match="damaged: its hash is another one"):
      read_sealed(path, max_bytes=1000)


@pytest.mark.parametrize(
  ("data", "message"),
  [
    (b'{"a": 1, "b": {"c": 1, "c": 2}}', "it names 'c' twice"),
    (b"[" * 100_000, "it nests too deeply"),
    (b'{"a": ', "Expecting value"),
    (b'{"a": "\xff"}', "invalid start byte"),
    (f"[{'9' * 5000}]", "5000 digits"),
  ],
)
def test_damaged_json_is_a_value_error(data, message):
  with pytest.raises(ValueError, match=message):
    parse_json(data)


def test_json_of_any_kind_is_parsed():
  assert parse_json("[1, null]") == [1, None]
  assert parse_json(b'\xef\xbb\xbf{"a": [true]}') == {"a": [True]}


def test_hashes_are_plain_blake2b(tmp_path):
  data = bytes(range(256)) * 100
  (tmp_path / "file").write_bytes(data)
  for size in (16, 32):
    expected = hashlib.blake2b(data, digest_size=size).hexdigest()
    assert file_hash(tmp_path / "file", digest_bytes=size) == expected
  expected = hashlib.blake2b(b'{"a": 1, "b": 2}', digest_size=16).hexdigest()
  assert json_hash({"b": 2, "a": 1}) == expected


def test_a_pipe_is_not_waited_for(tmp_path):
  os.mkfifo(tmp_path / "pipe")
  with pytest.raises(InputError, match="is not a regular file"):
    file_hash(tmp_path / "pipe")


def test_what_is_not_json_leaves_the_file_as_it_was(tmp_path):
  path = write_json(tmp_path / "a.json", {"a": [1, None, "\u2028"]}, indent=1)
  assert read_json(path, max_bytes=99) == {"a": [1, None, "\u2028"]}
  whole = path.read_bytes()
  for write in (write_json, lambda path, value: write_lines(path, [value])):
    with pytest.raises(ValueError, match="not JSON compliant"):
      write(path, {"a": float("nan")})
    assert path.read_bytes() == whole and list(tmp_path.iterdir()) == [path]
  write_lines(path, [{"a": 1}, {"b": 2}])
  assert path.read_text() == '{"a": 1}\n{"b": 2}\n'
