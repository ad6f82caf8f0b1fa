"""CLIP scores by hand."""

import numpy as np
import pytest

from ddit_jax.evaluation import clip_score

IMAGES = np.array([[2.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
TEXTS = np.array([[1.0, 1.0], [0.0, -3.0], [0.0, 5.0]])
ROOT = 2**-0.5
CAPTIONS = [np.array([[1.0, 0.0], [1.0, 1.0]]), -TEXTS[1:2], TEXTS[2:]]


def test_lengths_do_not_matter_and_negative_cosines_count_as_zero():
  assert clip_score._cosines(IMAGES, TEXTS) == pytest.approx([ROOT, -1, 0])
  scores = clip_score.clipscore(IMAGES, TEXTS)
  assert scores == pytest.approx([2.5 * ROOT, 0, 0])
  # torchmetrics keeps them, and clips the mean.
  scaled = clip_score.scaled_cosines(IMAGES, TEXTS)
  assert scaled.mean() == pytest.approx(100 * (ROOT - 1) / 3)


def test_references_take_the_nearest_and_the_harmonic_mean():
  of_text = clip_score.text_scores(TEXTS, CAPTIONS)
  assert of_text == pytest.approx([1, 0, 1])
  both = clip_score.ref_clipscore(IMAGES, TEXTS, CAPTIONS)
  assert both == pytest.approx([2 / (1 + 1 / (2.5 * ROOT)), 0, 0])


def test_undefined_cosines_raise():
  with pytest.raises(ValueError, match="is zero"):
    clip_score._cosines(np.zeros((1, 2)), np.ones((1, 2)))
  with pytest.raises(ValueError, match="one row each"):
    clip_score._cosines(IMAGES, TEXTS[:2])
