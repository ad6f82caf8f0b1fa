"""Cached records as bytes, against a case by hand, and damaged."""

import pytest

from ddit_jax.data.example import BadRecord
from ddit_jax.data.prepare import cache_format
from ddit_jax.data.prepare.cache_format import CachedRecord

FULL = CachedRecord(
  record_id="r",
  prompt="Q",
  texts=("ä", "half \ud800"),
  rewritten=("w",),
  feature_entries=(0, None, 1),
  moments=b"\x01\x02",
)
BY_HAND = (
  b"DDLC\x01\x00\x00\x00\x91\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00"
  b'{"bad_image":null,"bad_record":null,"feature_entries":[0,null,1],'
  b'"prompt":"Q","record_id":"r","rewritten":["w"],'
  b'"texts":["\\u00e4","half \\ud800"]}'
  b"\x01\x02"
)


def test_bytes_are_those_written_by_hand():
  assert cache_format.encode(FULL) == BY_HAND
  assert cache_format.decode(BY_HAND, "here") == FULL


@pytest.mark.parametrize(
  "record",
  [
    CachedRecord(record_id="r", bad_record=("missing_file", "gone")),
    CachedRecord(record_id="r", texts=("t",), bad_image=("not_an_image", "x")),
    CachedRecord(record_id="r", texts=("t",)),
  ],
)
def test_marked_records_come_back(record):
  assert cache_format.decode(cache_format.encode(record), "here") == record


@pytest.mark.parametrize(
  "data",
  [
    b"",
    BY_HAND[:19],
    BY_HAND[:-1],
    BY_HAND + b"\0",
    b"DDEX" + BY_HAND[4:],
    BY_HAND[:4] + b"\x02" + BY_HAND[5:],
    BY_HAND.replace(b'"r"', b'"r '),
    BY_HAND.replace(b'"prompt"', b'"prompd"'),
    BY_HAND.replace(b"[0,null,1]", b"11111111.0"),
  ],
)
def test_damage_is_a_bad_record(data):
  with pytest.raises(BadRecord) as caught:
    cache_format.decode(data, "here")
  assert caught.value.reason == "corrupt_shard"
  assert caught.value.record_id == "here"
