"""Texts as columns hold them, good and bad."""

import pytest

from ddit_jax.data.example import BadRecord
from ddit_jax.data.sources.annotations import optional_texts_of, texts_of


@pytest.mark.parametrize(
  ("value", "texts"),
  [
    ("é", ("é",)),
    ("é".encode(), ("é",)),
    (["a", b"b", "", None, " c d\n"], ("a", "b", "c d")),
  ],
)
def test_texts(value, texts):
  assert texts_of(value, "r") == texts
  assert optional_texts_of(value, "r") == texts


@pytest.mark.parametrize("value", [None, "", " \n", [], [None], ["", b" "]])
def test_no_text(value):
  with pytest.raises(BadRecord, match=r"^r: empty_text: "):
    texts_of(value, "r")
  assert optional_texts_of(value, "r") == ()


@pytest.mark.parametrize(
  "value", [b"\xff", b"a\0", "a\0", ["a", 7], {"text": "a"}, [["a"]]]
)
@pytest.mark.parametrize("function", [texts_of, optional_texts_of])
def test_what_is_no_text(value, function):
  with pytest.raises(BadRecord, match=r"^r: bad_text: "):
    function(value, "r")
