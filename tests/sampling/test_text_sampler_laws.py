"""Laws of whole runs against enumeration, thousands of rows at once."""

import itertools

import numpy as np
import pytest

from ddit_jax.sampling.text_options import TextSampling
from ddit_jax.sampling.text_planners import ORDERS
from tests.sampling import tabular
from tests.sampling.tabular import LENGTH, MASK, START

LEAST_P = 1e-3
ROWS = 20_000
TABLE = tabular.logits_table()


def check_law(tokens, law) -> None:
  pvalue = tabular.p_value(tokens, law)
  print(f"p = {pvalue:.3f}")
  assert pvalue > LEAST_P


@pytest.mark.parametrize("num_steps", [1, 2, 5])
def test_ancestral_has_the_law_of_its_posterior(num_steps):
  texts = tabular.sampled(TABLE, TextSampling(num_steps=num_steps), ROWS)
  check_law(texts.tokens, tabular.ancestral_law(TABLE, num_steps))


def test_the_number_of_steps_can_be_told_from_the_texts():
  texts = tabular.sampled(TABLE, TextSampling(num_steps=2), ROWS)
  for other in (1, 5):
    law = tabular.ancestral_law(TABLE, other)
    assert tabular.p_value(texts.tokens, law) < 1e-6


def test_first_hitting_has_the_law_of_infinitely_many_steps():
  texts = tabular.sampled(TABLE, TextSampling(order="first_hitting"), ROWS)
  law = tabular.one_by_one_law(TABLE)
  check_law(texts.tokens, law)
  few, many = (tabular.ancestral_law(TABLE, n) for n in (4, 16))
  far, near = (
    max(abs(other[text] - law[text]) for text in law) for other in (few, many)
  )
  assert near < far / 3
  np.testing.assert_array_equal(texts.calls, LENGTH)


@pytest.mark.parametrize(
  ("settings", "change"),
  [
    ({"temperature": 0.5}, lambda p: p**2 / (p**2).sum()),
    ({"temperature": 2.0}, lambda p: p**0.5 / (p**0.5).sum()),
    ({"top_p": 0.7}, lambda p: nucleus(p, 0.7)),
  ],
)
def test_temperature_and_top_p_change_the_draws(settings, change):
  sampling = TextSampling(num_steps=2, **settings)
  texts = tabular.sampled(TABLE, sampling, ROWS)
  check_law(texts.tokens, tabular.ancestral_law(TABLE, 2, change))


def nucleus(p, top_p):
  """The smallest set of the likeliest tokens that has `top_p`, normed."""
  kept, total = np.zeros_like(p), 0.0
  for token in np.argsort(-p):
    if total < top_p:
      kept[token] = p[token]
    total += p[token]
  return kept / kept.sum()


@pytest.mark.parametrize(
  ("order", "num_drafts"), [("ancestral", 2), ("first_hitting", 4)]
)
def test_verified_drafts_are_the_very_tokens(order, num_drafts):
  """Most drafts fail on this table, so both paths are taken."""
  assert ORDERS[order].has_fixed_noise
  settings = {"order": order, "num_steps": 6}
  one = tabular.sampled(TABLE, TextSampling(**settings), 3000, keeps_trace=True)
  many = tabular.sampled(
    TABLE,
    TextSampling(**settings, num_drafts=num_drafts),
    3000,
    keeps_trace=True,
  )
  for name in ("tokens", "probabilities", "trace", "trace_probabilities"):
    np.testing.assert_array_equal(getattr(many, name), getattr(one, name))
  calls, fewer = np.asarray(one.calls), np.asarray(many.calls)
  assert (fewer <= calls).all() and (fewer >= -(-calls // num_drafts)).all()
  saved = 1 - fewer.sum() / calls.sum()
  print(f"{saved:.0%} of the calls saved")
  assert 0.05 < saved < 1 - 1 / num_drafts


@pytest.mark.parametrize(
  "settings",
  [
    {"order": "confidence", "num_steps": 3},
    {"order": "threshold", "threshold": 0.6},
    {"order": "remasking", "num_steps": 6, "remask_probability": 0.4},
  ],
)
def test_drafts_keep_the_tokens_of_any_order_without_chance(settings):
  one, many = (
    tabular.sampled(
      TABLE, TextSampling(**settings, temperature=0, num_drafts=count), 500
    )
    for count in (1, 3)
  )
  np.testing.assert_array_equal(many.tokens, one.tokens)
  assert np.sum(many.calls) <= np.sum(one.calls)


def test_calls_are_those_of_steps_that_reveal():
  """T (1 - (1 - 1 / T)^N) on average, to three standard errors."""
  num_steps = 4
  texts = tabular.sampled(TABLE, TextSampling(num_steps=num_steps), ROWS)
  calls = np.asarray(texts.calls)
  want = num_steps * (1 - (1 - 1 / num_steps) ** LENGTH)
  assert abs(calls.mean() - want) < 3 * calls.std() / ROWS**0.5


def remasking_law(num_steps, cap):
  law = {START: 1.0}
  for step in range(num_steps):
    known, after = step / num_steps, (step + 1) / num_steps
    remask = min(cap, (1 - after) / known) if step else 0
    reveal = (after - (1 - remask) * known) / (1 - known)

    def moves(now, p, remask=remask, reveal=reveal):
      if now == MASK:
        return np.append(reveal * p, 1 - reveal)
      return (1 - remask) * np.eye(MASK + 1)[now] + remask * np.eye(MASK + 1)[3]

    law = tabular.chain(law, TABLE, moves)
  return law


def test_remasking_follows_its_schedule():
  sampling = TextSampling(
    order="remasking", num_steps=4, remask_probability=0.5
  )
  texts = tabular.sampled(TABLE, sampling, ROWS, keeps_trace=True)
  check_law(texts.tokens, remasking_law(4, 0.5))
  np.testing.assert_array_equal(texts.calls, 4)
  # Of all positions, a step's share is known (what ReMDM keeps).
  known = (np.asarray(texts.trace) != MASK).mean((0, 2))
  np.testing.assert_allclose(known, [0.25, 0.5, 0.75, 1], atol=0.01)
  before, later = texts.trace[:, 1], texts.trace[:, 2]
  assert ((before != MASK) & (later == MASK)).any()


def test_remasking_without_remasking_is_ancestral():
  sampling = TextSampling(order="remasking", num_steps=3, remask_probability=0)
  texts = tabular.sampled(TABLE, sampling, ROWS)
  check_law(texts.tokens, tabular.ancestral_law(TABLE, 3))


def test_blocks_of_one_are_drawn_from_left_to_right():
  sampling = TextSampling(order="ancestral", block_length=1)
  texts = tabular.sampled(TABLE, sampling, ROWS)
  law = dict.fromkeys(tabular.STATES, 0.0)
  for text in itertools.product(range(MASK), repeat=LENGTH):
    law[text] = 1.0
    for i, token in enumerate(text):
      state = (*text[:i], *START[i:])
      law[text] *= tabular.probabilities(TABLE, state)[i, token]
  check_law(texts.tokens, law)
