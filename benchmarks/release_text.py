"""The release's text sampler, and a T5 beside a network that needs none."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, UInt8
from parity import release_text_sampler

from ddit_jax.diffusion.masked_diffusion import log_probabilities
from ddit_jax.encoders.t5 import T5Config, t5_encoder
from ddit_jax.pipelines.pipeline import Pipeline
from ddit_jax.prng import row_keys
from ddit_jax.sampling.text_sampler import Texts

_END_TIME = 1e-5


class _Logits(NamedTuple):
  logits: jax.Array


class WithT5:
  """A network that embeds its own tokens, at the cost of one with T5.

  The T5 has random weights and reads the same tokens. Its features are added to
  the logits with a weight of zero: no text changes.

  Attributes:
    variables: of the network's parts, and of the T5.
  """

  def __init__(self, pipeline: Pipeline, *, depth: int, width: int):
    self._model = pipeline.model
    self._encoder = t5_encoder(
      T5Config(
        depth=depth,
        width=width,
        num_heads=4,
        head_dim=width // 4,
        mlp_width=4 * width,
        vocab_size=pipeline.tokenizer.vocab_size,
      )
    )
    encoder = self._encoder.init(jax.random.key(0))
    self.variables = {**pipeline.variables, "text_encoder": encoder}

  def encode(self, variables, images):
    """As `DualModel.encode`."""
    return self._model.encode(variables, images)

  def condition(self, variables, tokens):
    """Tokens, and T5's features of them."""
    return tokens, self._encoder.apply(variables["text_encoder"], tokens)

  def predict(self, variables, latents, condition, time, has_image=None):
    """As `DualModel.predict`, logits alone."""
    tokens, features = condition
    logits = self._model.predict(
      variables, latents, tokens, time, has_image=has_image
    ).logits
    return _Logits(logits + 0.0 * features.mean(axis=-1, keepdims=True))


class Release:
  """One text at a time; a prediction is kept while no token changes.

  All parts are compiled; the loop over time is Python's, as there.

  Args:
    model: as `DualModel`, with `variables`.
    mask_id: the token id that stands for a masked token.
    num_steps: of equal length, before the pass that takes what is most likely.
  """

  def __init__(self, model: Any, mask_id: int, *, num_steps: int):
    self._model, self._mask_id = model, mask_id
    self._times = np.linspace(1, _END_TIME, num_steps + 1, dtype=np.float32)
    self._encode = jax.jit(model.encode)
    self._predict = jax.jit(self._log_p)
    self._draw = jax.jit(self._drawn)
    self._finish = jax.jit(
      release_text_sampler.without_noise, static_argnames="mask_id"
    )

  def texts(
    self,
    images: UInt8[np.ndarray, "texts height width 3"],
    tokens: Int[np.ndarray, "texts length"],
    prompt_mask: Bool[np.ndarray, "texts length"],
  ) -> Texts:
    """Fills in each text where `prompt_mask` is False."""
    keys = row_keys(jax.random.key(0), jnp.arange(len(tokens)))
    starts = np.where(prompt_mask, tokens, self._mask_id)
    rows = zip(images[:, None], starts[:, None], keys, strict=True)
    filled, calls = zip(*(self._text(*row) for row in rows), strict=True)
    return Texts(np.concatenate(filled), None, np.array(calls))

  def _text(self, image, start, key) -> tuple[np.ndarray, int]:
    variables = self._model.variables
    latents = self._encode(variables, image)
    state, log_p, calls = jnp.asarray(start), None, 0
    for i, (t, s) in enumerate(zip(self._times, self._times[1:], strict=False)):
      if log_p is None:
        log_p, calls = self._predict(variables, latents, state), calls + 1
      new = self._draw(state, log_p, jax.random.fold_in(key, i), t, s)
      if bool((new != state).any()):
        log_p = None
      state = new
    log_p = self._predict(variables, latents, state)
    state = self._finish(state, log_p, mask_id=self._mask_id)
    return np.asarray(state), calls + 1

  def _log_p(self, variables, latents, state: Int[Array, "1 length"]):
    condition = self._model.condition(variables, state)
    time = jnp.zeros(state.shape[0])
    logits = self._model.predict(variables, latents, condition, time).logits
    return log_probabilities(logits, self._mask_id)

  def _drawn(self, state, log_p, key, t, s):
    chance = release_text_sampler.reveal_probability(t, s)
    return release_text_sampler.draw(
      state,
      log_p,
      jax.random.uniform(key, log_p.shape),
      chance,
      mask_id=self._mask_id,
    )
