"""Texts of a causal language model, token by token: greedy and beam search."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# (cache, the newest token of each row, how many there are) -> (logits of the
# token after it, cache). A cache is a tree of arrays [blocks, rows, ...].
_Continue = Callable[
  [Any, Int[Array, " rows"], Int[Array, ""]],
  tuple[Float[Array, "rows vocab"], Any],
]


@flax.struct.dataclass
class _Beams:
  tokens: Int[Array, "batch beams length"]
  scores: Float[Array, "batch beams"]
  is_ended: Bool[Array, "batch beams"]
  newest: Int[Array, "batch beams"]
  cache: Any
  count: Int[Array, ""]


@flax.struct.dataclass
class FoundTexts:
  """The most likely texts that a search has found.

  Attributes:
    tokens: of each text, padded with the end's id.
    log_likelihood: log p of the text and its end, in nats; of a text that was
      cut off at the length, of its tokens.
  """

  tokens: Int[Array, "batch length"]
  log_likelihood: Float[Array, " batch"]


def beam_search(
  first_logits: Float[Array, "batch vocab"],
  cache: Any,
  continue_text: _Continue,
  *,
  length: int,
  width: int,
  end_id: int,
) -> FoundTexts:
  """Searches for the text of the largest likelihood.

  After each token the `width` most likely beginnings are kept, ended ones
  among them; one is greedy search. Likelihoods are not divided by the length.

  Args:
    first_logits: of each text's first token.
    cache: of what comes before it.
    continue_text: reads one more token.
    length: tokens of the longest text, its end included.
    width: beginnings that are kept.
    end_id: ends and pads a text.
  """
  beams = _first_beams(first_logits, cache, length, width, end_id)

  def is_unfinished(beams: _Beams):
    return (beams.count < length) & ~beams.is_ended.all()

  def step(beams: _Beams) -> _Beams:
    logits, cache = continue_text(
      beams.cache, beams.newest.reshape(-1), beams.count
    )
    return _extended(beams, logits, cache, end_id)

  beams = jax.lax.while_loop(is_unfinished, step, beams)
  # The best of each row comes first.
  return FoundTexts(
    tokens=beams.tokens[:, 0], log_likelihood=beams.scores[:, 0]
  )


def _first_beams(logits, cache, length, width, end_id) -> _Beams:
  batch, vocab = logits.shape
  log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
  kept = min(width, vocab)
  scores, newest = jax.lax.top_k(log_p, kept)
  # More beams than tokens: the others cannot win.
  missing = ((0, 0), (0, width - kept))
  scores = jnp.pad(scores, missing, constant_values=-jnp.inf)
  newest = jnp.pad(newest, missing, constant_values=end_id)
  tokens = jnp.full((batch, width, length), end_id)
  return _Beams(
    tokens=tokens.at[:, :, 0].set(newest),
    scores=scores,
    is_ended=newest == end_id,
    newest=newest,
    cache=jax.tree.map(lambda a: jnp.repeat(a, width, axis=1), cache),
    count=jnp.int32(1),
  )


def _extended(beams: _Beams, logits, cache, end_id: int) -> _Beams:
  """The most likely beginnings with one more token."""
  batch, width, _ = beams.tokens.shape
  log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
  vocab = log_p.shape[-1]
  # After an end come only ends, which cost nothing.
  padding = jnp.full(vocab, -jnp.inf).at[end_id].set(0.0)
  log_p = jnp.where(
    beams.is_ended[..., None],
    padding[None, None],
    log_p.reshape(batch, width, vocab),
  )
  scores = (beams.scores[..., None] + log_p).reshape(batch, -1)
  scores, chosen = jax.lax.top_k(scores, width)
  source, newest = chosen // vocab, chosen % vocab
  tokens = jnp.take_along_axis(beams.tokens, source[..., None], axis=1)
  tokens = tokens.at[:, :, beams.count].set(newest)
  if width > 1:
    rows = (jnp.arange(batch)[:, None] * width + source).reshape(-1)
    cache = jax.tree.map(lambda a: a[:, rows], cache)
  ended = jnp.take_along_axis(beams.is_ended, source, axis=1)
  return _Beams(
    tokens=tokens,
    scores=scores,
    is_ended=ended | (newest == end_id),
    newest=newest,
    cache=cache,
    count=beams.count + 1,
  )
