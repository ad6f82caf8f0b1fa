"""Frozen encoders as functions of numpy rows, on this process's devices."""

import jax
import numpy as np

from ddit_jax.data.device_feed import to_mesh
from ddit_jax.data.image_codec import PixelCodec
from ddit_jax.experiment.converted import ConvertedWeights
from ddit_jax.experiment.dual_model import DualModel
from ddit_jax.models.pure_module import Variables
from ddit_jax.sharding.mesh import batch_ways, make_mesh


class LocalEncoders:
  """A model's encoders; their weights are read when first used.

  Each process encodes its own rows and waits for no other.

  Attributes:
    num_rows: most rows in one call; fewer are padded, so that every call runs
      the same program.
  """

  def __init__(
    self,
    model: DualModel,
    weights: ConvertedWeights,
    *,
    placement: str,
    rows_per_device: int,
  ):
    """Args:
    model: with an autoencoder.
    weights: of its encoders.
    placement: see `ConvertedWeights.restore`.
    rows_per_device: rows that one device encodes at once.
    """
    self._model, self._weights, self._placement = model, weights, placement
    self._mesh = make_mesh(devices=jax.local_devices())
    self._variables: dict[str, Variables] = {}
    self._to_moments = jax.jit(self._moments_of)
    self._to_features = jax.jit(self._features_of)
    self.num_rows = rows_per_device * batch_ways(self._mesh)

  def moments(self, pixels: np.ndarray) -> jax.Array:
    """uint8 [rows, height, width, 3] to float32 moments, `num_rows` of them.

    Returns before they are computed.
    """
    return self._run(self._to_moments, "vae", pixels)

  def features(self, tokens: np.ndarray) -> jax.Array:
    """Clean tokens [rows, length] to features in the encoder's dtype."""
    return self._run(self._to_features, "text_encoder", tokens)

  def _moments_of(self, variables: Variables, pixels: jax.Array) -> jax.Array:
    scaled = PixelCodec().encode(pixels)
    vae = self._model.autoencoder
    return vae.apply(variables, scaled, method="encode").moments()

  def _features_of(self, variables: Variables, tokens: jax.Array) -> jax.Array:
    return self._model.text_encoder.apply(variables, tokens)

  def _run(self, function, name: str, rows: np.ndarray) -> jax.Array:
    if name not in self._variables:
      part = self._model.parts()[name]
      self._variables[name] = self._weights.restore(
        name, part, self._mesh, self._placement
      )
    missing = self.num_rows - len(rows)
    padded = np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)])
    with jax.set_mesh(self._mesh):
      return function(self._variables[name], to_mesh(padded, self._mesh))
