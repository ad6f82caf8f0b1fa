"""A destination is whole or absent."""

import hashlib
from concurrent.futures import CancelledError

import pytest

from ddit_jax.conversion.errors import ConversionError
from ddit_jax.conversion.partial_folder import (
  check_free,
  check_space,
  hash_file,
  partial_folder,
)


def test_appears_at_the_end(tmp_path):
  target = tmp_path / "deep" / "out"
  with partial_folder(target) as folder:
    (folder / "a").write_text("x")
    assert not target.exists()
  assert (target / "a").read_text() == "x"
  assert [p.name for p in target.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_nothing(tmp_path, error):
  with pytest.raises(error), partial_folder(tmp_path / "out") as folder:
    (folder / "a").write_text("x")
    raise error
  assert list(tmp_path.iterdir()) == []


def test_what_a_kill_left_behind_is_started_anew(tmp_path):
  left = tmp_path / "out.partial"
  left.mkdir()
  (left / "old").write_text("x")
  with partial_folder(tmp_path / "out") as folder:
    assert list(folder.iterdir()) == []
  assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_nothing_is_overwritten(tmp_path):
  target = tmp_path / "out"
  target.mkdir()
  check_free(target)
  with partial_folder(target) as folder:
    (folder / "a").write_text("x")
  with pytest.raises(ConversionError, match="already exists"):
    check_free(target)
  file = tmp_path / "file"
  file.write_text("")
  with (
    pytest.raises(ConversionError, match="already exists"),
    partial_folder(file),
  ):
    pass
  assert (target / "a").read_text() == "x"


def test_room_on_the_disk(tmp_path):
  check_space(tmp_path / "not" / "yet", 1)
  with pytest.raises(ConversionError, match="make room"):
    check_space(tmp_path / "not" / "yet", 10**18)


def test_hash(tmp_path):
  (tmp_path / "a").write_bytes(b"abc")
  expected = hashlib.blake2b(b"abc", digest_size=32).hexdigest()
  assert hash_file(tmp_path / "a") == {"bytes": 3, "blake2b": expected}
  with pytest.raises(CancelledError):
    hash_file(tmp_path / "a", lambda: True)


def test_hash_of_a_file_longer_than_is_read_at_once(tmp_path):
  content = b"0123456789" * 500_000
  (tmp_path / "a").write_bytes(content)
  expected = hashlib.blake2b(content, digest_size=32).hexdigest()
  assert hash_file(tmp_path / "a")["blake2b"] == expected
