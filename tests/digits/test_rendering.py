"""Rendering against Pillow's bicubic interpolation."""

import colorsys

import numpy as np
import pytest
from PIL import Image

from ddit_jax.digits.rendering import render_all
from ddit_jax.digits.scenes import Scene, SceneObject, sample_scene
from ddit_jax.digits.world import HUES, WORLDS, handwriting

WRITING = handwriting("train")
LARGE = WORLDS["scenes_32"]
ONE = WORLDS["one_digit"]


def render(scene, world):
  return render_all([scene], world, WRITING)[0]


def pillow_image(objects, world):
  """Cells on whole pixels, pasted one after the other."""
  image = np.zeros((world.canvas, world.canvas, 3))
  size = world.digit_size
  for obj in objects:
    ink = Image.fromarray((WRITING.images[obj.glyph] / 16).astype(np.float32))
    alpha = np.asarray(ink.resize((size, size), Image.Resampling.BICUBIC))
    hue = HUES[obj.color] / 360
    color = np.array(colorsys.hsv_to_rgb(hue, 0.75, 1))
    left, top = round(obj.x - size / 2), round(obj.y - size / 2)
    image[top : top + size, left : left + size] = (
      alpha.clip(0, 1)[..., None] * color
    )
  return 255 * image


@pytest.mark.parametrize("name", WORLDS)
def test_a_cell_on_whole_pixels_equals_pillows_bicubic(name):
  world = WORLDS[name]
  half = world.digit_size / 2
  for glyph in range(40):
    obj = SceneObject(
      digit=0, color=glyph % 8, x=half + glyph % 3, y=half + 1, glyph=glyph
    )
    got = render(Scene((obj,)), world)
    assert got.dtype == np.uint8
    # Measured 0.5000: only the rounding to whole numbers.
    np.testing.assert_allclose(got, pillow_image([obj], world), atol=0.501)


def test_things_do_not_disturb_each_other():
  objects = (
    SceneObject(digit=1, color=0, x=6.0, y=7.0, glyph=1),
    SceneObject(digit=2, color=5, x=20.0, y=9.0, glyph=2),
    SceneObject(digit=3, color=3, x=8.0, y=25.0, glyph=3),
  )
  got = render(Scene(objects), LARGE)
  np.testing.assert_allclose(got, pillow_image(objects, LARGE), atol=0.501)


def test_between_two_pixels_lies_between_two_images():
  images = [
    render(
      Scene((SceneObject(digit=3, color=2, x=x, y=8.0, glyph=3),)), ONE
    ).astype(float)
    for x in (7.5, 7.75, 8.0, 8.25, 8.5)
  ]
  centers = [
    (image.sum(axis=(0, 2)) * np.arange(16)).sum() / image.sum()
    for image in images
  ]
  # Measured steps 0.21 to 0.28 where the cell moves by 0.25.
  np.testing.assert_allclose(np.diff(centers), 0.25, atol=0.06)


def test_many_scenes_at_once_equal_one_by_one():
  rng = np.random.default_rng(0)
  drawn = [
    sample_scene(LARGE, rng, writing=WRITING, held_out=False) for _ in range(30)
  ]
  together = render_all(drawn, LARGE, WRITING)
  for image, scene in zip(together, drawn, strict=True):
    np.testing.assert_array_equal(image, render(scene, LARGE))
