"""Bad records say in one short line what was seen."""

import pytest

from ddit_jax.data.example import BadRecord, Example, has_images


@pytest.mark.parametrize("size", [400, 401, 10**6])
def test_what_is_quoted_is_cut(size):
  error = BadRecord("bad_text", "x" * size, "r" * size)
  for text in (error.detail, error.record_id):
    assert len(text) == 400
    assert text.endswith(" ...") == (size > 400)
  assert str(error) == f"{error.record_id}: bad_text: {error.detail}"


def test_lines_are_joined():
  error = BadRecord("bad_text", "one\n  two\r\nthree", "a\nb")
  assert str(error) == "a b: bad_text: one two three"


def test_reasons_are_known_ones():
  with pytest.raises(ValueError, match="unknown reason 'tired'"):
    BadRecord("tired", "", "")


def test_a_source_has_images_unless_it_says_otherwise():
  class Texts:
    has_images = False

  assert not has_images(Texts())
  assert has_images([Example(record_id="", image=None, texts=())])
