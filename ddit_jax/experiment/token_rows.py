"""Rows of tokens in stored parameters, matched with a run's by token."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from ddit_jax.data.tokenizers import Tokenizer
from ddit_jax.errors import first_few

_NAMED_TOKENS = 50


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenRows:
  """Where the rows of a run's tokens are in stored parameters.

  Attributes:
    axes: dotted name of a parameter with one row for each token, to that axis.
    num_stored: rows there.
    sources: for each token of the run, its row there; -1 if it has none.
    new: tokens without a stored row.
    unused: tokens there that the run does not have.
  """

  axes: Mapping[str, int]
  num_stored: int
  sources: np.ndarray
  new: tuple[str, ...]
  unused: tuple[str, ...]

  @classmethod
  def matched(
    cls, axes: Mapping[str, int], stored: Tokenizer, tokenizer: Tokenizer
  ) -> "TokenRows | None":
    """Matches by token; None if all tokens have the same rows.

    Args:
      axes: see the class.
      stored: of the stored parameters.
      tokenizer: of the run.
    """
    old = stored.backend.get_vocab(with_added_tokens=True)
    tokens = tokenizer.tokens(range(tokenizer.vocab_size))
    sources = np.array([old.get(token, -1) for token in tokens])
    if np.array_equal(sources, np.arange(stored.vocab_size)):
      return None
    return cls(
      axes=axes,
      num_stored=stored.vocab_size,
      sources=sources,
      new=tuple(token for token in tokens if token not in old),
      unused=tuple(sorted(old.keys() - set(tokens))),
    )

  def stored_shape(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The stored shape of a parameter that has `shape` in the run."""
    if name not in self.axes:
      return shape
    axis = self.axes[name]
    return (*shape[:axis], self.num_stored, *shape[axis + 1 :])

  def placed(self, name: str, stored: jax.Array, new: jax.Array) -> jax.Array:
    """The stored rows in the run's order, between newly initialised ones."""
    axis = self.axes[name]
    taken = jnp.take(stored, np.maximum(self.sources, 0), axis=axis)
    has_row = np.expand_dims(
      self.sources >= 0, [i for i in range(new.ndim) if i != axis]
    )
    return jnp.where(has_row, taken, new)

  def report(self) -> list[str]:
    """A line about new rows and one about unused ones, if there are any."""
    names = " and ".join(sorted(self.axes))
    lines = {"newly initialised": self.new, "unused": self.unused}
    return [
      f"{what} rows of {names}: {_named(tokens)}"
      for what, tokens in lines.items()
      if tokens
    ]


def _named(tokens: tuple[str, ...]) -> str:
  return first_few(map(repr, tokens), limit=_NAMED_TOKENS)
