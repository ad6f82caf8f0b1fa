"""Every change of a file below a folder is noticed and named."""

import concurrent.futures
import hashlib
import json
import threading

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from ddit_jax.checkpoint.manifest import (
  CheckpointError,
  contents_digest,
  hash_file,
  raise_on_all,
  verify_manifest,
  write_manifest,
)


@pytest.fixture
def folder(tmp_path):
  folder = tmp_path / "step"
  (folder / "params" / "d").mkdir(parents=True)
  (folder / "plain").mkdir()
  (folder / "params" / "d" / "big").write_bytes(bytes(range(256)) * 2000)
  (folder / "params" / "index").write_bytes(b"index")
  (folder / "plain" / "config.json").write_bytes(b"{}")
  (folder / "plain" / "empty").write_bytes(b"")
  write_manifest(folder, extra={"step": 7})
  return folder


def test_an_untouched_folder_gives_back_the_extra_facts(folder):
  assert verify_manifest(folder) == {"step": 7}


def test_a_digest_knows_a_sub_folders_contents_and_nothing_else(folder):
  before = {name: contents_digest(folder, name) for name in ("params", "plain")}
  assert before["params"] != before["plain"]
  (folder / "plain" / "config.json").write_bytes(b"[]")
  write_manifest(folder, extra={"step": 8})
  assert contents_digest(folder, "params") == before["params"]
  assert contents_digest(folder, "plain") != before["plain"]
  moved = folder.rename(folder.parent / "moved")
  (moved / "params").rename(moved / "ema")
  write_manifest(moved)
  assert contents_digest(moved, "ema") == before["params"]
  with pytest.raises(CheckpointError, match="has no files below params"):
    contents_digest(moved, "params")


def test_the_hashes_are_plain_blake2b(folder):
  files = json.loads((folder / "manifest.json").read_text())["files"]
  assert set(files) == {
    "params/d/big",
    "params/index",
    "plain/config.json",
    "plain/empty",
  }
  # RFC 7693's function from hashlib, over the whole content at once.
  expected = hashlib.blake2b(b"index", digest_size=32).hexdigest()
  assert files["params/index"] == {"bytes": 5, "blake2b": expected}


@pytest.mark.parametrize("position", [0, 262_144, 511_999])
def test_one_flipped_bit_is_named(folder, position):
  path = folder / "params" / "d" / "big"
  content = bytearray(path.read_bytes())
  content[position] ^= 1
  path.write_bytes(content)
  with pytest.raises(CheckpointError, match="params/d/big is altered"):
    verify_manifest(folder)


def test_a_truncated_file_is_named_with_both_sizes(folder):
  (folder / "params" / "index").write_bytes(b"ind")
  with pytest.raises(
    CheckpointError, match=r"params/index is truncated \(3 bytes, .* 5\)"
  ):
    verify_manifest(folder)


def test_a_missing_and_an_added_file_are_named(folder):
  (folder / "params" / "index").rename(folder / "params" / "other")
  with pytest.raises(
    CheckpointError, match="params/index is missing; params/other was added"
  ):
    verify_manifest(folder)


def test_only_five_problems_are_named_and_the_rest_counted(folder):
  for number in range(8):
    (folder / f"new{number}").write_bytes(b"")
  with pytest.raises(CheckpointError, match="new4 was added; and 3 more"):
    verify_manifest(folder)


def test_every_flipped_bit_of_the_manifest_itself_is_noticed(folder):
  path = folder / "manifest.json"
  good = path.read_bytes()
  for position in range(0, len(good), 7):
    bad = bytearray(good)
    bad[position] ^= 1
    path.write_bytes(bad)
    if _same_json(bad, good):
      continue  # white space
    with pytest.raises(CheckpointError, match=r"manifest\.json"):
      verify_manifest(folder)


def _same_json(left, right):
  try:
    return json.loads(left) == json.loads(right)
  except ValueError:
    return False


def test_a_folder_without_a_manifest_was_never_finished(folder):
  (folder / "manifest.json").unlink()
  with pytest.raises(CheckpointError, match="never finished"):
    verify_manifest(folder)


def test_looking_below_one_folder_ignores_the_others(folder):
  (folder / "params" / "index").write_bytes(b"Index")
  assert verify_manifest(folder, below="plain") == {"step": 7}
  with pytest.raises(CheckpointError, match="params/index"):
    verify_manifest(folder, below="params")


def test_two_processes_divide_the_hashing_and_miss_nothing(folder):
  # Sorted names: 0 params/d/big, 1 params/index, 2 plain/..., 3 plain/empty.
  (folder / "params" / "index").write_bytes(b"Index")
  assert verify_manifest(folder, share=(0, 2)) == {"step": 7}
  with pytest.raises(CheckpointError, match="params/index is altered"):
    verify_manifest(folder, share=(1, 2))


def test_a_path_that_is_no_folder_is_refused(tmp_path):
  with pytest.raises(CheckpointError, match="is not a folder"):
    write_manifest(tmp_path / "nowhere")


def test_hashing_a_large_file_can_be_stopped(tmp_path):
  content = b"0123456789" * 500_000
  (tmp_path / "a").write_bytes(content)
  expected = hashlib.blake2b(content, digest_size=32).hexdigest()
  is_over = threading.Event()
  assert hash_file(tmp_path / "a", is_over) == {
    "bytes": len(content),
    "blake2b": expected,
  }
  is_over.set()
  with pytest.raises(concurrent.futures.CancelledError):
    hash_file(tmp_path / "a", is_over)


def test_one_process_raises_its_own_error_or_nothing():
  raise_on_all(None, doing="saving")
  with pytest.raises(OSError, match="disk full"):
    raise_on_all(OSError("disk full"), doing="saving")


def test_a_healthy_process_hears_of_the_others(monkeypatch):
  monkeypatch.setattr(jax, "process_count", lambda: 3)
  monkeypatch.setattr(
    multihost_utils,
    "process_allgather",
    lambda mine, tiled: np.concatenate([mine, [True], [False]]),
  )
  with pytest.raises(CheckpointError, match=r"saving failed on process \[1\]"):
    raise_on_all(None, doing="saving")
  with pytest.raises(OSError, match="disk full"):
    raise_on_all(OSError("disk full"), doing="saving")
