"""The classifier on unseen writers, and on objects that are no digits."""

import numpy as np
import pytest

from ddit_jax.digits import digit_classifier, scenes, world
from ddit_jax.digits.digit_classifier import (
  DigitClassifier,
  fit_classifier,
  segment_features,
)
from ddit_jax.digits.rendering import render_all
from ddit_jax.digits.segmentation import Segment, find_segments
from ddit_jax.digits.world import WORLDS

WORLD = WORLDS["one_digit"]


@pytest.fixture(scope="module")
def classifier():
  return fit_classifier(WORLD, splits=("train",))


def segments_of(images):
  found = find_segments(images, digit_size=WORLD.digit_size)
  return [segment for segments in found for segment in segments]


@pytest.fixture(scope="module")
def unseen():
  """All glyphs of the validation writers as segments, and their labels."""
  writing = world.handwriting("validation")
  drawn = [
    scenes.Scene(
      (
        scenes.SceneObject(
          digit=int(label), color=row % 8, x=8.0, y=8.0, glyph=row
        ),
      )
    )
    for row, label in enumerate(writing.labels)
  ]
  segments = segments_of(render_all(drawn, WORLD, writing))
  assert len(segments) == len(writing.labels)
  return segments, writing.labels


def test_unseen_writers_are_read(classifier, unseen):
  segments, labels = unseen
  predictions = classifier.predict(segments)
  # Measured: 98.4 %, 98.8 % and 99.6 % of 258.
  assert (predictions.digits == labels).mean() > 0.96
  assert (predictions.second_opinions == labels).mean() > 0.96
  assert predictions.is_digit.mean() > 0.98


def test_discs_boxes_noise_and_turned_digits_are_no_digits(classifier):
  y, x = np.mgrid[:16, :16] - 7.5
  disc = x**2 + y**2 < 36
  square = (abs(x) < 6) & (abs(y) < 6)
  images = np.zeros((3, 16, 16, 3), np.uint8)
  images[0][disc] = images[1][square] = (255, 64, 64)
  images[2] = np.random.default_rng(0).integers(256, size=(16, 16, 3))
  assert not classifier.predict(segments_of(images)).is_digit.any()


def test_turned_digits_are_no_digits(classifier, unseen):
  segments, _ = unseen
  turned = [
    Segment(box=p.box, color=p.color, brightness=np.rot90(p.brightness))
    for p in segments
  ]
  # Measured: none of 258.
  assert classifier.predict(turned).is_digit.mean() < 0.02


def test_second_opinion_and_distance_by_brute_force(unseen, monkeypatch):
  segments, labels = unseen
  features = segment_features(segments)
  known, asked = features[:200], segments[200:]
  classifier = DigitClassifier(known, labels[:200], max_distance=1.5)
  predictions = classifier.predict(asked)
  for row, query in enumerate(features[200:].astype(np.float64)):
    distances = np.sqrt(((known - query) ** 2).sum(axis=1))
    assert predictions.is_digit[row] == (distances.min() <= 1.5)
    votes = labels[np.argsort(distances)[:3]].tolist()
    expected = max(
      votes, key=lambda vote: (votes.count(vote), -votes.index(vote))
    )
    assert predictions.second_opinions[row] == expected
  assert 0 < predictions.is_digit.mean() < 1
  monkeypatch.setattr(digit_classifier, "_BLOCK", 7)
  in_blocks = classifier.predict(asked)
  np.testing.assert_array_equal(
    in_blocks.second_opinions, predictions.second_opinions
  )
  np.testing.assert_array_equal(in_blocks.is_digit, predictions.is_digit)


def test_features_keep_proportions_and_ignore_scale():
  def segment(shape):
    return Segment(
      box=(0, 0, shape[1], shape[0]),
      color="red",
      brightness=np.full(shape, 0.5, np.float32),
    )

  bar, long_bar, square = segment_features(
    [segment((12, 2)), segment((24, 4)), segment((6, 6))]
  ).reshape(3, 12, 12)
  assert (square == 1).all()
  expected = np.zeros((12, 12))
  expected[:, 5:7] = 1
  np.testing.assert_array_equal(bar, expected)
  # Measured: 14 % more, because bilinear shrinking blurs the edges.
  np.testing.assert_allclose(long_bar.sum(), bar.sum(), rtol=0.2)


def test_nothing_to_read_gives_nothing(classifier):
  predictions = classifier.predict([])
  assert len(predictions.digits) == len(predictions.is_digit) == 0


def test_digits_too_faint_to_be_found_raise(monkeypatch):
  blurred = digit_classifier._Distortion(warp=0, blur=2.0, noise=0)
  monkeypatch.setattr(digit_classifier, "_DISTORTIONS", (blurred,))
  with pytest.raises(ValueError, match="leave no segment"):
    fit_classifier(WORLD)
