"""Segments of images against a slow flood fill and colorsys."""

import cmath
import colorsys
import itertools
import math

import numpy as np
import pytest

from ddit_jax.digits.segmentation import color_name, find_segments, hue_vectors
from ddit_jax.digits.world import COLORS, HUES

SIZE = 10  # a crumb is under 5 px, a segment at least 8 px


def rgb(hue, saturation=0.75, value=1.0):
  return [
    round(255 * c) for c in colorsys.hsv_to_rgb(hue / 360, saturation, value)
  ]


def painted(*strokes, side=24):
  """One black image with rectangles (left, top, right, bottom, colour)."""
  image = np.zeros((1, side, side, 3), np.uint8)
  for left, top, right, bottom, color in strokes:
    image[0, top:bottom, left:right] = color
  return image


def slow_segments(image):
  """The rule of find_segments, pixel by pixel: a set of (box, colour)."""
  height, width, _ = image.shape
  ink = {
    (y, x)
    for y in range(height)
    for x in range(width)
    if max(image[y, x]) / 255 > 0.25
  }
  groups = []
  while ink:
    stack = [ink.pop()]
    group = list(stack)
    while stack:
      y, x = stack.pop()
      for near in [(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]:
        if near in ink:
          ink.remove(near)
          stack.append(near)
          group.append(near)
    groups.append(group)
  segments = [[group] for group in groups]
  for first in groups:
    for second in groups:
      if belong(image, first, second):
        a, b = (next(p for p in segments if g in p) for g in (first, second))
        if a is not b:
          segments.remove(b)
          a.extend(b)
  whole = [list(itertools.chain(*segment)) for segment in segments]
  return {
    (box(pixels), color(image, pixels))
    for pixels in whole
    if len(pixels) >= 0.08 * SIZE**2
  }


def box(pixels):
  ys, xs = zip(*pixels, strict=True)
  return min(xs), min(ys), max(xs) + 1, max(ys) + 1


def color(image, pixels):
  total, brightness = 0, 0
  for pixel in pixels:
    channels = [int(c) / 255 for c in image[pixel]]
    hue = colorsys.rgb_to_hsv(*channels)[0]
    chroma = max(channels) - min(channels)
    total += chroma * cmath.exp(2j * math.pi * hue)
    brightness += max(channels)
  if abs(total) < 0.25 * brightness:
    return None
  degrees = math.degrees(cmath.phase(total))
  return COLORS[
    min(range(8), key=lambda i: abs((degrees - HUES[i] + 180) % 360 - 180))
  ]


def belong(image, first, second):
  a, b = box(first), box(second)
  distance = max(a[0] - b[2], b[0] - a[2], a[1] - b[3], b[1] - a[3])
  has_crumb = min(len(first), len(second)) < 0.05 * SIZE**2
  is_like = color(image, first) == color(image, second)
  return distance < 2 and (is_like or has_crumb)


@pytest.mark.parametrize("ink", [0.12, 0.2, 0.3])
def test_pieces_are_those_of_a_slow_flood_fill(ink):
  rng = np.random.default_rng(0)
  blocks = np.kron(rng.random((6, 10, 10)) < ink, np.ones((1, 2, 2))) > 0
  is_ink = blocks & (rng.random(blocks.shape) < 0.9)
  hues = np.kron(rng.choice(HUES, (6, 10, 10)), np.ones((1, 2, 2)))
  hues += rng.uniform(-9, 9, hues.shape)  # else two hues may tie
  images = np.zeros((*is_ink.shape, 3), np.uint8)
  images[is_ink] = [rgb(hue) for hue in hues[is_ink]]
  found = find_segments(images, digit_size=SIZE)
  for image, segments in zip(images, found, strict=True):
    assert {(p.box, p.color) for p in segments} == slow_segments(image)
  assert sum(map(len, found)) > 5


def test_joining_needs_one_colour_or_a_crumb():
  red, blue = rgb(0), rgb(230)

  def boxes(*strokes):
    found = find_segments(painted(*strokes), digit_size=SIZE)[0]
    return sorted(segment.box for segment in found)

  stroke, right = (2, 2, 5, 8), (6, 2, 9, 8)
  assert boxes((*stroke, red), (*right, red)) == [(2, 2, 9, 8)]
  assert boxes((*stroke, red), (*right, blue)) == [stroke, right]
  crumb = (6, 2, 8, 4)  # 4 px
  assert boxes((*stroke, red), (*crumb, blue)) == [(2, 2, 8, 8)]
  two_away = (7, 2, 10, 8)
  assert boxes((*stroke, red), (*two_away, red)) == [stroke, two_away]
  lonely_crumb = (15, 15, 17, 18)  # 6 px are no crumb, but too little
  assert boxes((*stroke, red), (*lonely_crumb, red)) == [stroke]


def test_other_pieces_are_blanked_out_of_a_crop():
  red, blue = rgb(0), rgb(230)
  angle = [(2, 2, 4, 14, red), (2, 2, 14, 4, red)]
  inside = (8, 8, 12, 12, blue)
  first, second = find_segments(painted(*angle, inside), digit_size=SIZE)[0]
  assert first.box == (2, 2, 14, 14)
  assert first.brightness.shape == (12, 12)
  assert first.brightness[6:10, 6:10].max() == 0
  assert first.brightness[:2].min() == 1
  assert second.color == "blue"
  assert second.brightness.min() == 1


def test_faint_edges_of_a_piece_stay_in_its_crop():
  image = painted((2, 2, 8, 8, rgb(0)))
  image[0, 4, 4] = rgb(0, value=0.2)  # below the ink threshold
  segment = find_segments(image, digit_size=SIZE)[0][0]
  assert segment.brightness[2, 2] == pytest.approx(0.2, abs=1 / 255)


def test_hue_vectors_agree_with_colorsys():
  pixels = np.random.default_rng(1).integers(256, size=(300, 3), dtype=np.uint8)
  pixels[0] = 0
  pixels[1] = 77
  vectors = hue_vectors(pixels)
  for pixel, vector in zip(pixels, vectors, strict=True):
    channels = [int(c) / 255 for c in pixel]
    chroma = max(channels) - min(channels)
    hue = colorsys.rgb_to_hsv(*channels)[0]
    # Measured: 4e-7 at most, single precision.
    assert vector == pytest.approx(
      chroma * cmath.exp(2j * math.pi * hue), abs=2e-6
    )


def test_each_hue_has_its_name_and_grey_has_none():
  for name, hue in zip(COLORS, HUES, strict=True):
    for turned in (hue - 10, hue + 10):
      assert color_name(cmath.rect(0.75, math.radians(turned)), 1.0) == name
  assert color_name(0j, 1.0) is None
  assert color_name(0.2 + 0j, 1.0) is None
  grey = find_segments(painted((2, 2, 8, 8, [200] * 3)), digit_size=SIZE)[0]
  assert grey[0].color is None


def test_neighbouring_images_never_touch():
  full = np.full((3, 8, 8, 3), 255, np.uint8)
  assert [len(p) for p in find_segments(full, digit_size=8)] == [1, 1, 1]
  assert find_segments(np.zeros_like(full), digit_size=8) == [[], [], []]
  assert find_segments(full[:0], digit_size=8) == []


@pytest.mark.parametrize(
  "images", [np.zeros((1, 8, 8, 3)), np.zeros((8, 8, 3), np.uint8)]
)
def test_other_types_and_shapes_raise(images):
  with pytest.raises(ValueError, match="images must be uint8"):
    find_segments(images, digit_size=8)
