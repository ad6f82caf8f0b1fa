"""Records: a hand-written one, round trips, and bytes of bad will."""

import json
import struct

import pytest
from hypothesis import example as also
from hypothesis import given, settings
from hypothesis import strategies as st

from ddit_jax.data.example import (
  BadRecord,
  Example,
  decode_example,
  encode,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
TEXTS = st.lists(TEXT, max_size=4).map(tuple)
EXAMPLES = st.builds(
  Example,
  record_id=TEXT,
  image=st.none() | st.binary(max_size=60),
  prompt=TEXT,
  texts=TEXTS,
  rewritten=TEXTS,
)
GOOD = encode(
  Example(record_id="a:1", image=b"\x89PNG", prompt="Q", texts=("x", "y"))
)
QUICK = settings(max_examples=200, deadline=None, derandomize=True)


def by_hand(
  text: bytes, image: bytes = b"", *, magic=b"DDEX", version=1, flags=0
) -> bytes:
  """A record put together from the written format alone."""
  lengths = struct.pack("<IQ", len(text), len(image))
  return magic + struct.pack("<HH", version, flags) + lengths + text + image


def fields(**changes) -> bytes:
  plain = {"prompt": "", "record_id": "r", "rewritten": [], "texts": ["é"]}
  return json.dumps(plain | changes).encode()


def test_a_record_is_the_bytes_that_the_format_says():
  example = Example(
    record_id="s.tar:7",
    image=b"\xff\xd8jpeg",
    prompt="Q: é? A: ",
    texts=("ja", "nein"),
    rewritten=("neu",),
  )
  text = (
    '{"prompt":"Q: é? A: ","record_id":"s.tar:7",'
    '"rewritten":["neu"],"texts":["ja","nein"]}'
  ).encode()
  assert encode(example) == by_hand(text, b"\xff\xd8jpeg", flags=1)


@QUICK
@given(EXAMPLES)
@also(Example(record_id="", image=b"", texts=()))
@also(Example(record_id="", image=None, texts=("\x00\n\u2028",)))
def test_round_trip(example):
  assert decode_example(encode(example), "elsewhere") == example


@QUICK
@given(st.binary(max_size=80))
def test_bytes_of_any_kind_are_a_bad_record(data):
  with pytest.raises(BadRecord) as caught:
    decode_example(data, "shard:3")
  assert caught.value.record_id == "shard:3"


@QUICK
@given(st.binary(max_size=80), st.integers(0, 1))
def test_any_text_part_is_a_bad_record(text, flags):
  with pytest.raises(BadRecord, match="bad_json"):
    decode_example(by_hand(text, flags=flags), "shard:3")


@QUICK
@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_a_changed_byte_gives_another_example_or_a_bad_record(place, change):
  data = bytearray(GOOD)
  data[place] ^= change
  try:
    read = decode_example(bytes(data), "shard:3")
  except BadRecord as error:
    assert error.record_id == "shard:3"
  else:
    assert read != decode_example(GOOD, "shard:3")


@pytest.mark.parametrize("length", range(len(GOOD)))
def test_a_cut_record_has_the_wrong_length(length):
  with pytest.raises(BadRecord, match="wrong_length"):
    decode_example(GOOD[:length], "shard:3")


@pytest.mark.parametrize(
  ("data", "reason", "detail"),
  [
    (GOOD + b"\0", "wrong_length", "header says"),
    (by_hand(fields(), magic=b"DDEY"), "corrupt_shard", "DDEY"),
    (by_hand(fields(), version=2), "corrupt_shard", "version 2"),
    (by_hand(fields(), b"abc"), "corrupt_shard", "image of 3 bytes"),
    (by_hand(fields(), flags=2), "corrupt_shard", "flags 0x2"),
    (by_hand(b"[" * 200_000), "bad_json", ""),
    (by_hand(b"9" * 9_000), "bad_json", ""),
    (by_hand(b"\xff{}"), "bad_json", "utf-8"),
    (by_hand(b"{}"), "bad_json", "found []"),
    (by_hand(b"null"), "bad_json", "NoneType"),
    (by_hand(fields(more=1)), "bad_json", "more"),
    (by_hand(fields(texts="abc")), "bad_json", "texts is not a list"),
    (by_hand(fields(texts=[1])), "bad_json", "not a string"),
    (by_hand(fields(prompt=None)), "bad_json", "not a string"),
    (by_hand(fields(texts=["\ud800"])), "bad_text", "surrogates"),
    (by_hand(b" " * (2**24 + 1)), "wrong_length", "of text"),
  ],
)
def test_what_is_wrong_is_said(data, reason, detail):
  with pytest.raises(BadRecord) as caught:
    decode_example(data, "shard:3")
  assert caught.value.reason == reason
  assert detail in caught.value.detail and "\n" not in caught.value.detail


@pytest.mark.parametrize("text", ["\ud800", "x" * 2**24])
def test_texts_that_cannot_be_stored(text):
  example = Example(record_id="s:1", image=None, texts=(text,))
  with pytest.raises(BadRecord, match=r"^s:1: bad_text: "):
    encode(example)
