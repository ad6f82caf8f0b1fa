"""Texts and JSON of untrusted files become clean or are refused."""

import pytest

from ddit_jax.data.sources.annotations import (
  TextError,
  clean_text,
  clean_texts,
  image_size_of,
  parse_json_text,
  parse_object,
  positive_int,
  text_of_bytes,
)


@pytest.mark.parametrize(
  ("data", "text"),
  [
    (b" a dog\r\n", "a dog"),
    ("\ufeffdog".encode(), "dog"),
    ("日本 🐕".encode(), "日本 🐕"),
    ("\u00a0a\u3000".encode(), "a"),
    (b"", ""),
    (b"\n\t ", ""),
  ],
)
def test_bytes_become_text(data, text):
  assert text_of_bytes(data) == text


@pytest.mark.parametrize(
  "data", [b"\xff", b"caf\xe9", b"\xed\xa0\x80", b"\xc0\x80"]
)
def test_other_encodings_are_refused(data):
  with pytest.raises(TextError, match="not UTF-8") as caught:
    text_of_bytes(data)
  assert caught.value.reason == "bad_text"


@pytest.mark.parametrize("value", [7, 1.5, True, [], {}, None, b"a", "\ud800"])
def test_what_is_no_text_is_refused(value):
  with pytest.raises(TextError) as caught:
    clean_text(value)
  assert caught.value.reason == "bad_text"


def test_one_text_or_many_are_taken():
  assert clean_texts(None) == clean_texts([]) == clean_texts(" ") == ()
  assert clean_texts(" a ") == ("a",)
  assert clean_texts(["b", "", " a", "b"]) == ("b", "a", "b")
  with pytest.raises(TextError):
    clean_texts(["a", 7])
  with pytest.raises(TextError):
    clean_texts([["a"]])


def test_json_is_parsed_from_bytes_and_text():
  assert parse_json_text(b'\xef\xbb\xbf{"a": [1]}') == {"a": [1]}
  assert parse_json_text("[1, null]") == [1, None]
  assert parse_object(b"{}") == {}


@pytest.mark.parametrize(
  "data",
  [
    b"",
    b"{",
    b'{"a": 1} x',
    b"\xff",
    b'{"a": 1, "a": 1}',
    b'[{"b": {"a": 1, "a": 2}}]',
    b"[" * 200_000,
    b'{"a":' * 200_000,
    b"[" * 50_000 + b"]" * 50_000,
    b"9" * 10_000,
  ],
)
def test_bad_json_is_refused(data):
  with pytest.raises(TextError, match="not valid JSON") as caught:
    parse_json_text(data)
  assert caught.value.reason == "bad_json" and "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"[]", b"7", b'"a"', b"null"])
def test_objects_are_wanted(data):
  with pytest.raises(TextError, match="not an object but"):
    parse_object(data)


@pytest.mark.parametrize(
  ("value", "side"),
  [
    (7, 7),
    ("512", 512),
    (512.0, 512),
    (0, None),
    (-1, None),
    (True, None),
    (1.5, None),
    (float("nan"), None),
    (float("inf"), None),
    ("1e3", None),
    ("-5", None),
    ("²", None),
    ("9" * 5000, None),
    (None, None),
    ([3], None),
  ],
)
def test_sides_are_positive_whole_numbers(value, side):
  assert positive_int({"height": value}, "height") == side
  assert positive_int({}, "height") is None
  size = image_size_of({"height": value, "width": 3})
  assert size == (None if side is None else (side, 3))
