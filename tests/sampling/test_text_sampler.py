"""The loop around the orders: what is fixed, recorded and independent."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddit_jax.prng import row_keys
from ddit_jax.sampling.text_options import TextSampling
from ddit_jax.sampling.text_planners import ORDERS
from ddit_jax.sampling.text_sampler import infill

ROWS, VOCAB, LENGTH, MASK, END = 6, 7, 6, 6, 0
# The orders whose tokens stay.
KEEPING = sorted(name for name in ORDERS if ORDERS[name].keeps_tokens)


TABLE = np.random.default_rng(0).normal(size=(LENGTH, LENGTH, VOCAB, VOCAB))


def predict(states):
  """Logits that depend on all tokens of the row and on no other row."""
  table = jnp.asarray(1.2 * TABLE, jnp.float32)
  known = jax.nn.one_hot(states, VOCAB)
  return jnp.einsum("slv,lpvw->spw", known, table)


@functools.partial(jax.jit, static_argnames=("sampling", "end_id"))
def filled_in(tokens, prompt_mask, keys, sampling, end_id=END):
  return infill(
    predict,
    tokens,
    prompt_mask,
    keys,
    mask_id=MASK,
    sampling=sampling,
    end_id=end_id,
    keeps_trace=True,
  )


def drawn(sampling, rows=ROWS, *, fixed=(), **options):
  """Texts with the token 3 at fixed positions."""
  prompt_mask = np.zeros((rows, LENGTH), bool)
  prompt_mask[:, list(fixed)] = True
  return filled_in(
    jnp.full((rows, LENGTH), 3),
    jnp.asarray(prompt_mask),
    row_keys(jax.random.key(0), jnp.arange(rows)),
    sampling,
    **options,
  )


def in_order(order):
  """Settings that the tests of an order share, so that it compiles once."""
  return TextSampling(order=order, num_steps=3)


@settings(max_examples=60, deadline=None)
@given(
  fixed=st.lists(st.booleans(), min_size=LENGTH, max_size=LENGTH),
  tokens=st.lists(st.integers(0, MASK - 1), min_size=LENGTH, max_size=LENGTH),
  order=st.sampled_from(sorted(ORDERS)),
  seed=st.integers(0, 1000),
)
def test_fixed_tokens_never_change(fixed, tokens, order, seed):
  texts = filled_in(
    jnp.asarray([tokens] * ROWS),
    jnp.asarray([fixed] * ROWS),
    row_keys(jax.random.key(seed), jnp.arange(ROWS)),
    in_order(order),
  )
  for state in [*np.asarray(texts.trace).swapaxes(0, 1), texts.tokens]:
    np.testing.assert_array_equal(
      np.where(fixed, state, tokens), [tokens] * ROWS
    )
  assert (np.asarray(texts.tokens) != MASK).all()


@pytest.mark.parametrize("order", KEEPING)
def test_revealed_tokens_stay_and_keep_their_probability(order):
  texts = drawn(in_order(order), fixed=[1])
  trace, p = np.asarray(texts.trace), np.asarray(texts.trace_probabilities)
  for step in range(1, trace.shape[1]):
    is_known = trace[:, step - 1] != MASK
    for states in (trace, p):
      np.testing.assert_array_equal(
        states[:, step][is_known], states[:, step - 1][is_known]
      )
  np.testing.assert_array_equal(trace[:, -1], texts.tokens)
  np.testing.assert_array_equal(p[:, -1], texts.probabilities)
  np.testing.assert_array_equal(p == 0, trace == MASK)
  assert (p[:, :, 1] == 1).all() and (p <= 1).all()


def test_probabilities_are_those_of_the_network_at_the_time():
  texts = drawn(TextSampling(num_steps=LENGTH, order="margin"), end_id=None)
  trace = np.asarray(texts.trace)
  start = np.full_like(trace[:, :1], MASK)
  for row in range(len(trace)):
    states = np.concatenate([start, trace], axis=1)[row]
    for before, after in itertools.pairwise(states):
      logits = np.asarray(predict(jnp.asarray(before)[None]))[0]
      weights = np.exp(np.asarray(logits, np.float64)[:, :MASK])
      p = weights / weights.sum(-1, keepdims=True)
      for i in np.flatnonzero(before != after):
        want = p[i, after[i]]
        # Measured: 2e-7.
        assert abs(texts.probabilities[row, i] - want) < 2e-6


@pytest.mark.parametrize(
  ("order", "rows"),
  [*((order, [4, 1, 3, 3, 0, 5]) for order in ORDERS), ("threshold", [3, 1])],
)
def test_a_row_does_not_depend_on_the_rows_beside_it(order, rows):
  def texts_of(rows):
    return filled_in(
      jnp.zeros((len(rows), LENGTH), jnp.int32),
      jnp.asarray([[row % 2 == 0] + [False] * 5 for row in rows]),
      row_keys(jax.random.key(2), jnp.asarray(rows)),
      in_order(order),
    )

  many = texts_of(range(ROWS))
  for some, beside in zip(texts_of(rows), many, strict=True):
    np.testing.assert_array_equal(some, np.asarray(beside)[rows])
  assert len({row.tobytes() for row in np.asarray(many.tokens)}) > ROWS // 2


def test_what_the_tokens_were_at_free_positions_is_not_read():
  keys = row_keys(jax.random.key(0), jnp.arange(ROWS))
  first, *others = (
    filled_in(
      jnp.full((ROWS, LENGTH), junk),
      jnp.zeros((ROWS, LENGTH), bool),
      keys,
      in_order("ancestral"),
    ).tokens
    for junk in (0, 2, MASK)
  )
  for other in others:
    np.testing.assert_array_equal(other, first)


def test_a_text_without_masks_needs_no_call():
  for order in KEEPING:
    texts = drawn(in_order(order), fixed=range(LENGTH))
    assert (np.asarray(texts.calls) == 0).all()
    assert (np.asarray(texts.tokens) == 3).all()


@pytest.mark.parametrize("order", ["first_hitting", "confidence"])
def test_a_text_stops_at_its_end_and_is_the_same_up_to_it(order):
  sampling = TextSampling(num_steps=LENGTH, order=order)
  whole = drawn(sampling, rows=200, end_id=None)
  short = drawn(sampling, rows=200)
  fewer = 0
  for row in range(200):
    full, cut = np.asarray(whole.tokens[row]), np.asarray(short.tokens[row])
    end = int(np.append(np.flatnonzero(full == END), LENGTH)[0])
    np.testing.assert_array_equal(cut[:end], full[:end])
    assert (cut[end : end + 1] == END).all()
    assert short.calls[row] <= whole.calls[row]
    fewer += int(short.calls[row] < whole.calls[row])
  assert fewer > 20
  off = TextSampling(num_steps=LENGTH, order=order, stops_at_end=False)
  np.testing.assert_array_equal(drawn(off, rows=200).tokens, whole.tokens)


def test_a_given_token_behind_the_end_keeps_the_text_going():
  sampling = TextSampling(order="first_hitting")
  fixed = [LENGTH - 1]
  texts = drawn(sampling, rows=100, fixed=fixed)
  np.testing.assert_array_equal(
    texts.tokens, drawn(sampling, rows=100, fixed=fixed, end_id=None).tokens
  )
  assert (np.asarray(texts.calls) == LENGTH - 1).all()


def test_every_row_has_its_own_number_of_calls():
  texts = drawn(TextSampling(num_steps=4), rows=50, end_id=None)
  trace = np.asarray(texts.trace)
  for row in range(50):
    known = (trace[row] != MASK).sum(-1)
    calls = int(texts.calls[row])
    assert (np.diff(known[:calls]) > 0).all() and known[0] > 0
    assert (known[calls - 1 :] == LENGTH).all()
  assert len(set(np.asarray(texts.calls).tolist())) > 1


@pytest.mark.parametrize("interval", [1, 2, LENGTH])
def test_the_image_is_read_once_an_interval(interval):
  def beliefs(states, keeps_image=False, image_keys=None):
    # An image that alone says what the text is, from when it was read.
    logits = predict(states if image_keys is None else image_keys)
    return (logits, states) if keeps_image else logits

  sampling = TextSampling(
    order="confidence",
    tokens_per_step=1,
    temperature=0.0,
    image_refresh_interval=interval,
  )
  texts = infill(
    beliefs,
    jnp.zeros((ROWS, LENGTH), jnp.int32),
    jnp.zeros((ROWS, LENGTH), bool),
    row_keys(jax.random.key(0), jnp.arange(ROWS)),
    mask_id=MASK,
    sampling=sampling,
  )
  state = np.full(LENGTH, MASK)
  for call in range(LENGTH):
    if call % interval == 0:
      logits = np.array(predict(jnp.asarray(state)[None])[0, :, :MASK])
      p = np.exp(logits - np.log(np.exp(logits).sum(-1, keepdims=True)))
    where = np.where(state == MASK, p.max(-1), -1).argmax()
    state[where] = p[where].argmax()
  np.testing.assert_array_equal(texts.tokens, [state] * ROWS)
  assert (np.asarray(texts.calls) == LENGTH).all()


def test_logits_that_are_no_numbers_do_not_hang():
  for order in ("confidence", "threshold", "entropy_bound"):
    texts = infill(
      lambda states: jnp.full((*states.shape, VOCAB), jnp.nan),
      jnp.zeros((2, LENGTH), jnp.int32),
      jnp.zeros((2, LENGTH), bool),
      row_keys(jax.random.key(0), jnp.arange(2)),
      mask_id=MASK,
      sampling=TextSampling(num_steps=4, order=order),
    )
    assert (np.asarray(texts.calls) <= LENGTH).all()
