"""Plain facts come back exactly, or are refused before anything is written."""

import json
import math

import numpy as np
import pytest

from ddit_jax.checkpoint import store
from ddit_jax.checkpoint.manifest import CheckpointError

CONFIG = {"schema_version": 1, "width": 64, "betas": [0.9, 0.95], "name": None}


def encode(**changes):
  facts = {
    "config": CONFIG,
    "data_position": {"next_index": 12},
    "metrics": None,
    "files": {},
  }
  return store.encode_plain(**(facts | changes))


def test_what_is_written_is_read(tmp_path):
  files = {"tokenizer.json": b"\x00\xff{}", "vocab.txt": b"one\r\ntwo"}
  store.write_plain(
    tmp_path, encode(files=files, metrics={"loss": 0.1, "bad": math.inf})
  )
  assert store.read_record(tmp_path, "config") == CONFIG
  assert store.read_record(tmp_path, "data_position") == {"next_index": 12}
  assert store.read_files(tmp_path) == files
  metrics = store.read_metrics(tmp_path)
  assert metrics["loss"] == 0.1 and math.isnan(metrics["bad"])


def test_the_json_is_strict_json():
  contents = encode(metrics={"a": math.nan, "b": np.float32(0.5)})

  def refuse(name):
    raise AssertionError(f"{name} is not JSON")

  read = json.loads(contents["plain/metrics.json"], parse_constant=refuse)
  assert read == {"a": None, "b": 0.5}


def test_without_metrics_and_files_there_are_none(tmp_path):
  store.write_plain(tmp_path, encode())
  assert store.read_metrics(tmp_path) is None
  assert store.read_files(tmp_path) == {}


def test_a_missing_record_is_named(tmp_path):
  with pytest.raises(CheckpointError, match=r"config\.json is missing"):
    store.read_record(tmp_path, "config")


@pytest.mark.parametrize(
  ("value", "message"),
  [
    ((1, 2), r"config\.a\.b is a tuple"),
    (np.float32(1), r"config\.a\.b is a float32"),
    (math.nan, r"config\.a\.b is nan"),
    ({1: 2}, r"config\.a\.b has the key 1"),
    ([0, {"c": b""}], r"config\.a\.b\[1\]\.c is a bytes"),
  ],
)
def test_what_json_would_change_is_refused_with_its_path(value, message):
  with pytest.raises(ValueError, match=message):
    encode(config={"schema_version": 1, "a": {"b": value}})


def test_a_config_needs_its_schema_version():
  with pytest.raises(ValueError, match="schema_version"):
    encode(config={"width": 64})


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", "a\\b", "/a"])
def test_a_file_name_cannot_lead_elsewhere(name):
  with pytest.raises(ValueError, match="not a plain name"):
    encode(files={name: b""})
