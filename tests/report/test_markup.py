"""Text is escaped, numbers are short, images keep every pixel."""

import base64
import io
import math
import re

import numpy as np
import pytest
from PIL import Image

from ddit_jax.report import markup


def test_text_is_safe_between_tags_and_in_attributes():
  assert markup.escape("<b a=\"x\" b='y'>&") == (
    "&lt;b a=&quot;x&quot; b=&#x27;y&#x27;&gt;&amp;"
  )


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_is_embedded_to_the_last_bit(channels):
  draw = np.random.default_rng(0)
  image = draw.integers(0, 256, (7, 5, channels), np.uint8)
  # A view that is not contiguous, as crops and flips are.
  tag = markup.image_tag(image[:, ::-1], alt='a "red" <two>')
  data = base64.b64decode(re.search(r"base64,([^\"]+)", tag).group(1))
  read = np.asarray(Image.open(io.BytesIO(data)))
  np.testing.assert_array_equal(read.reshape(7, 5, -1), image[:, ::-1])
  assert 'alt="a &quot;red&quot; &lt;two&gt;"' in tag
  assert 'width="5" height="7"' in tag


@pytest.mark.parametrize(
  "image",
  [
    np.zeros((4, 4, 3), np.float32),
    np.zeros((4, 4), np.uint8),
    np.zeros((4, 4, 4), np.uint8),
    np.zeros((0, 4, 3), np.uint8),
    None,
  ],
)
def test_what_is_no_picture_is_refused(image):
  with pytest.raises(ValueError, match="report image 'x' is"):
    markup.image_tag(image, alt="x")


@pytest.mark.parametrize(
  ("value", "text"),
  [
    (None, "–"),
    (math.nan, "–"),
    (0, "0"),
    (0.12345, "0.123"),
    (-3.14159, "-3.14"),
    (5.6e-5, "5.6e-05"),
    (999, "999"),
    (60_000, "60\u202f000"),
    (2_028_328_000, "2.03e+09"),
  ],
)
def test_numbers_are_short(value, text):
  assert markup.number(value) == text


@pytest.mark.parametrize(
  ("value", "text"),
  [(0.8236, "82.4\u202f%"), (1, "100.0\u202f%"), (None, "–")],
)
def test_shares_are_per_cent(value, text):
  assert markup.percent(value) == text


@pytest.mark.parametrize(
  ("seconds", "text"),
  [
    (3.14, "3.1\u202fs"),
    (48, "48\u202fs"),
    (1985, "33.1\u202fmin"),
    (9000, "2.5\u202fh"),
  ],
)
def test_durations_choose_their_unit(seconds, text):
  assert markup.duration(seconds) == text


def test_missing_keys_are_named():
  markup.require({"a": 1, "b": 2}, ("a", "b"), "drawing 3")
  with pytest.raises(ValueError, match=r"drawing 3 lacks \['b'\]"):
    markup.require({"a": 1}, ("a", "b"), "drawing 3")
