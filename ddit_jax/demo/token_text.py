"""Texts as HTML, each token in the colour of its probability."""

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup, escape

from ddit_jax.data.tokenizers import Tokenizer
from ddit_jax.demo.writing import TextState

_LEGEND = Markup(
  '<p class="ddit-legend"><i class="ddit-scale"></i> probability of a token '
  "when it was taken, 0 to 100 % &ensp; "
  '<span class="ddit-token ddit-given">given</span> '
  '<span class="ddit-token ddit-masked"></span> not yet known</p>'
)


def text_html(
  tokenizer: Tokenizer, states: Sequence[TextState], is_given: np.ndarray
) -> str:
  """The newest state of a text, and below it one line for each call.

  Args:
    tokenizer: of the text.
    states: after each call so far.
    is_given: True where a token is part of the prompt.
  """
  if not states:
    return ""
  lines = [
    Markup('<li value="{}">{}</li>').format(
      state.calls, state_html(tokenizer, state, is_given)
    )
    for state in states
  ]
  return Markup(
    '<div class="ddit-text" data-calls="{}">{}</div>{}'
    "<details><summary>after each network call</summary><ol>{}</ol></details>"
  ).format(
    states[-1].calls,
    state_html(tokenizer, states[-1], is_given),
    _LEGEND,
    Markup("").join(lines),
  )


def state_html(
  tokenizer: Tokenizer, state: TextState, is_given: np.ndarray
) -> Markup:
  """One state of a text; of the padding at its end one token is shown."""
  # A growing canvas may be shorter than the text will be.
  is_end = state.tokens == tokenizer.end_id
  shown = len(is_end) - int(np.cumprod(is_end[::-1]).sum()) + 1
  columns = state.tokens, state.probabilities, is_given[: len(is_end)]
  return Markup('<div class="ddit-state">{}</div>').format(
    Markup("").join(
      _token_html(tokenizer, int(id_), float(p), bool(given))
      for id_, p, given in zip(*(x[:shown] for x in columns), strict=True)
    )
  )


def _token_html(
  tokenizer: Tokenizer, id_: int, p: float, is_given: bool
) -> Markup:
  if id_ == tokenizer.mask_id:
    return Markup(
      '<span class="ddit-token ddit-masked" title="not yet known"></span>'
    )
  if id_ == tokenizer.end_id:
    word, kind = "end", " ddit-end"
  else:
    word, kind = tokenizer.decode([id_]) or tokenizer.tokens([id_])[0], ""
  if is_given:
    return Markup(
      '<span class="ddit-token ddit-given{}" title="given">{}</span>'
    ).format(kind, escape(word))
  return Markup(
    '<span class="ddit-token{}" style="--p:{:.3f}" title="{:.1%}">{}</span>'
  ).format(kind, p, p, escape(word))
