"""Recall of images and captions from likelihoods, by hand."""

import numpy as np
import pytest

from ddit_jax.evaluation.retrieval import retrieval_recalls


def test_recalls_by_hand():
  # Caption 2 of image 1 is likely beside every image.
  nats = -np.log([[0.6, 0.3, 0.9], [0.1, 0.7, 0.9]])
  got = retrieval_recalls(nats, [0, 1, 1])
  # Captions 0 and 1 find their images; caption 2 fits both equally.
  assert got["text_to_image/recall@1"] == pytest.approx(2 / 3)
  assert got["text_to_image/recall@5"] == 1
  # Ratios to the mean over images: 1.71, 0.6, 1 and 0.29, 1.4, 1.
  assert got["image_to_text/recall@1"] == 1


def test_a_blind_network_finds_nothing_first():
  nats = np.broadcast_to(np.arange(20.0), (20, 20))
  got = retrieval_recalls(nats, np.arange(20))
  assert set(got.values()) == {0.0}


@pytest.mark.parametrize("image_of", [[0, 1], [0, 0, 0], [0, 1, 2]])
def test_captions_need_their_images(image_of):
  with pytest.raises(ValueError, match="nats of 2 images and 3 captions"):
    retrieval_recalls(np.zeros((2, 3)), image_of)
