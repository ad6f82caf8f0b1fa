"""Recorded images are channels first, ours channels last."""

import numpy as np


def channels_last(images) -> np.ndarray:
  """[batch, channels, height, width] to [batch, height, width, channels]."""
  return np.moveaxis(np.asarray(images), -3, -1)


def channels_first(images) -> np.ndarray:
  """[batch, height, width, channels] to [batch, channels, height, width]."""
  return np.moveaxis(np.asarray(images), -1, -3)
