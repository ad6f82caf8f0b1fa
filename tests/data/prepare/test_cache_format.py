"""Cached records and arrays as bytes: by hand, exact, and damaged."""

import ml_dtypes
import numpy as np
import pytest

from ddit_jax.data.example import BadRecord
from ddit_jax.data.prepare import cache_format
from ddit_jax.data.prepare.cache_format import ArrayFormat, CachedRecord

FULL = CachedRecord(
  record_id="r",
  prompt="Q",
  texts=("ä", "half \ud800"),
  rewritten=("w",),
  feature_entries=(0, None, 1),
  moments=b"\x01\x02",
)
BY_HAND = (
  b'{"bad_image":null,"bad_record":null,"feature_entries":[0,null,1],'
  b'"moments_bytes":2,"prompt":"Q","record_id":"r","rewritten":["w"],'
  b'"texts":["\\u00e4","half \\ud800"]}'
  b"\n\x01\x02"
)


def test_bytes_are_those_written_by_hand():
  assert cache_format.encode_cached(FULL) == BY_HAND
  assert cache_format.decode_cached(BY_HAND, "here") == FULL


@pytest.mark.parametrize(
  "record",
  [
    CachedRecord(record_id="r", bad_record=("missing_file", "gone")),
    CachedRecord(record_id="r", texts=("t",), bad_image=("not_an_image", "x")),
    CachedRecord(record_id="r", texts=("t",)),
  ],
)
def test_marked_records_come_back(record):
  assert (
    cache_format.decode_cached(cache_format.encode_cached(record), "here")
    == record
  )


@pytest.mark.parametrize(
  "data",
  [
    b"",
    BY_HAND[:19],
    BY_HAND[:-1],
    BY_HAND + b"\0",
    b"[]" + BY_HAND[BY_HAND.index(b"\n") :],
    BY_HAND.replace(b"\n", b" "),
    BY_HAND.replace(b'"r"', b'"r '),
    BY_HAND.replace(b'"prompt"', b'"prompd"'),
    BY_HAND.replace(b'"prompt":"Q",', b""),
  ],
)
def test_damage_is_a_bad_record(data):
  with pytest.raises(BadRecord) as caught:
    cache_format.decode_cached(data, "here")
  assert caught.value.reason == "corrupt_shard"
  assert caught.value.record_id == "here"


def test_bfloat16_is_the_upper_half_of_float32():
  stored = ArrayFormat((2, 1), "bfloat16")
  # 1.5 = 0x3fc00000 and -2 = 0xc0000000.
  data = stored.pack(np.array([[1.5], [-2.0]], np.float32))
  assert data == bytes.fromhex("c03f 00c0")
  read = stored.unpack(data, "r")
  assert read.dtype == ml_dtypes.bfloat16
  np.testing.assert_array_equal(read.astype(np.float32), [[1.5], [-2.0]])
  assert stored.num_bytes == 4


def test_float32_keeps_every_bit():
  stored = ArrayFormat((3,), "float32")
  array = np.array([1 / 3, -0.0, np.nan], np.float32)
  assert stored.pack(array) == array.tobytes()
  assert stored.unpack(array.tobytes(), "r").tobytes() == array.tobytes()


def test_nan_is_kept_in_bfloat16():
  stored = ArrayFormat((1,), "bfloat16")
  data = stored.pack(np.array([np.nan], np.float32))
  assert np.isnan(stored.unpack(data, "r").astype(np.float32)).all()


@pytest.mark.parametrize(
  ("array", "message"),
  [
    (np.array([1 / 3, 0], np.float32), "does not hold exactly"),
    (np.zeros(3, np.float32), r"\(3,\) where \(2,\) is stored"),
  ],
)
def test_loss_and_other_shapes_are_refused(array, message):
  with pytest.raises(ValueError, match=message):
    ArrayFormat((2,), "bfloat16").pack(array)


def test_other_lengths_of_bytes_are_refused():
  with pytest.raises(BadRecord, match="r: corrupt_shard: 5 bytes instead of 4"):
    ArrayFormat((2,), "bfloat16").unpack(bytes(5), "r")


@pytest.mark.parametrize(
  ("shape", "dtype"),
  [((2,), "float16"), ((0,), "float32"), ((1.0,), "float32")],
)
def test_impossible_formats_are_refused(shape, dtype):
  with pytest.raises(ValueError, match=r"dtype must be|not a shape"):
    ArrayFormat(shape, dtype)


def test_zeros_have_shape_and_dtype():
  zeros = ArrayFormat((2, 3), "bfloat16").zeros()
  assert (zeros.shape, zeros.dtype) == ((2, 3), ml_dtypes.bfloat16)
  assert not zeros.any()
