"""Jitted likelihoods of texts and images."""

import functools
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Int, UInt8, UInt32

from ddit_jax.data.text import check_prompt, tokenize_and_pad
from ddit_jax.data.tokenizers import Tokenizer
from ddit_jax.losses.likelihood import (
  Bound,
  LikelihoodConfig,
  bound_of_texts,
  image_bound,
)
from ddit_jax.pipelines.on_mesh import ModelOnMesh, in_batches
from ddit_jax.prng import key_for, root_key, row_keys


class ScoredTexts(NamedTuple):
  """Tokens whose likelihood is asked.

  Attributes:
    tokens: ids.
    is_given: True where a token is always visible.
    is_scored: True where it counts; what is neither stays masked.
  """

  tokens: Int[np.ndarray, "rows length"]
  is_given: Bool[np.ndarray, "rows length"]
  is_scored: Bool[np.ndarray, "rows length"]

  def rows(self, numbers: Int[np.ndarray, " rows"]) -> "ScoredTexts":
    """Some of the texts, each as often as its number is there."""
    return ScoredTexts(*(column[numbers] for column in self))


class Likelihood(ModelOnMesh):
  """Likelihoods under one model.

  Each compiles once per batch size and config. A row's draws follow from the
  seed and the row's index alone.
  """

  def _jit(self) -> None:
    self._texts = jax.jit(self._text_batch, static_argnames="num_passes")
    self._images = jax.jit(self._image_batch, static_argnames="config")

  def texts(
    self,
    images: UInt8[np.ndarray, "rows height width 3"],
    texts: ScoredTexts,
    *,
    indices: UInt32[np.ndarray, " rows"],
    seed: int,
    config: LikelihoodConfig,
    batch_size: int,
  ) -> Bound:
    """See `losses.likelihood.text_bound`."""
    estimate = functools.partial(
      self._texts,
      self._variables,
      key_for(root_key(seed), "text_likelihood"),
      num_passes=config.text_passes,
    )
    rows = indices, images, *texts
    return in_batches(estimate, rows, mesh=self._mesh, batch_size=batch_size)

  def images(
    self,
    images: UInt8[np.ndarray, "rows height width 3"],
    texts: Int[np.ndarray, "rows length"],
    *,
    indices: UInt32[np.ndarray, " rows"],
    seed: int,
    config: LikelihoodConfig,
    batch_size: int,
  ) -> Bound:
    """See `losses.likelihood.image_bound`."""
    estimate = functools.partial(
      self._images,
      self._variables,
      key_for(root_key(seed), "image_likelihood"),
      config=config,
    )
    rows = indices, images, texts
    return in_batches(estimate, rows, mesh=self._mesh, batch_size=batch_size)

  def _text_batch(self, variables, root, rows, *, num_passes: int) -> Bound:
    indices, images, tokens, is_given, is_scored = rows
    return bound_of_texts(
      self._model,
      variables,
      self._model.encode(variables, images),
      tokens,
      is_given,
      is_scored,
      row_keys(root, indices),
      num_passes=num_passes,
    )

  def _image_batch(
    self, variables, root, rows, *, config: LikelihoodConfig
  ) -> Bound:
    indices, images, texts = rows
    condition = self._model.condition(variables, texts)

    def velocity(latents, sigma):
      return self._model.predict(variables, latents, condition, sigma).velocity

    return image_bound(
      velocity,
      self._model.encode(variables, images),
      row_keys(root, indices),
      num_steps=config.ode_steps,
      num_draws=config.image_draws,
      bin_width=self._model.bin_width,
    )


def scored_text(
  tokenizer: Tokenizer, prompt: str, text: str, length: int
) -> tuple[
  Int[np.ndarray, " length"],
  Bool[np.ndarray, " length"],
  Bool[np.ndarray, " length"],
]:
  """(tokens, is_given, is_scored) of a text that follows a prompt.

  The text and the end token that closes it are scored. What follows stays
  masked: the likelihood is that of every canvas that reads as this text.

  Raises:
    ValueError: they do not fit, or have words that the tokenizer does not know.
  """
  check_prompt(tokenizer, prompt + text)
  tokenized = tokenize_and_pad(tokenizer, prompt, text, length)
  # Losing the end token is harmless: the text itself is complete.
  if tokenized.num_truncated > 1:
    raise ValueError(
      f"{prompt + text!r} has {tokenized.num_truncated + length - 1} tokens, "
      f"this model's texts have {length}: shorten it"
    )
  num_given = len(tokenizer.encode(prompt)) if prompt else 0
  places = np.arange(length)
  is_given = places < num_given
  ends = np.flatnonzero((tokenized.tokens == tokenizer.end_id) & ~is_given)
  last = ends[0] if len(ends) else length - 1
  return tokenized.tokens, is_given, ~is_given & (places <= last)
