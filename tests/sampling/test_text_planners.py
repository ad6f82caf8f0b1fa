"""Which positions each order opens, against loops over Python lists."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddit_jax.prng import row_keys
from ddit_jax.sampling.text_options import TextSampling
from ddit_jax.sampling.text_planners import (
  ORDERS,
  REMASK,
  TAKE,
  Beliefs,
  RowView,
  beliefs_of,
)
from ddit_jax.sampling.text_sampler import infill

MASK = 3


def taken_by(sampling, log_p, is_open, entropy=None, margin=None):
  """The positions that a planner's first step reveals."""
  log_p, is_open = jnp.asarray(log_p, jnp.float32), jnp.asarray(is_open)
  planner = sampling.planner
  key = jax.random.key(0)
  beliefs = Beliefs(
    token=jnp.zeros(log_p.shape, jnp.int32),
    log_p=log_p,
    margin=log_p if margin is None else jnp.asarray(margin, jnp.float32),
    entropy=-log_p if entropy is None else jnp.asarray(entropy, jnp.float32),
  )
  row = RowView(is_open, is_open, is_open)
  route, _ = planner.route(planner.start(is_open, key), beliefs, row, key)
  return set(np.flatnonzero(np.asarray(route) == TAKE).tolist())


# Different, so that no tie has to be broken.
LOG_P = st.lists(
  st.integers(-400, -1), min_size=5, max_size=5, unique=True
).map(lambda values: [value / 100 for value in values])
OPEN = st.lists(st.booleans(), min_size=5, max_size=5).filter(any)
MANY = settings(max_examples=40, deadline=None)


@MANY
@given(log_p=LOG_P, is_open=OPEN, threshold=st.sampled_from([0.1, 0.5, 0.9]))
def test_threshold_takes_what_is_probable_and_at_least_one(
  log_p, is_open, threshold
):
  sampling = TextSampling(order="threshold", threshold=threshold)
  opened = [i for i in range(5) if is_open[i]]
  want = {i for i in opened if np.exp(log_p[i]) >= threshold}
  want |= {max(opened, key=lambda i: log_p[i])}
  assert taken_by(sampling, log_p, is_open) == want


@MANY
@given(
  log_p=LOG_P,
  is_open=OPEN,
  entropy=st.lists(
    st.integers(0, 30).map(lambda x: x / 16), min_size=5, max_size=5
  ),
  bound=st.sampled_from([0.0, 0.3, 1.1, 9.0]),
)
def test_entropy_bound_takes_while_the_excess_is_small(
  log_p, is_open, entropy, bound
):
  sampling = TextSampling(order="entropy_bound", max_entropy=bound)
  opened = [i for i in range(5) if is_open[i]]
  surest_first = sorted(opened, key=lambda i: -log_p[i])
  want = set()
  for count in range(1, len(opened) + 1):
    chosen = [entropy[i] for i in surest_first[:count]]
    if sum(chosen) - max(chosen) > bound:
      break
    want = set(surest_first[:count])
  assert taken_by(sampling, log_p, is_open, entropy) == want


@MANY
@given(values=LOG_P, is_open=OPEN, count=st.integers(1, 6))
@pytest.mark.parametrize("order", ["confidence", "margin", "entropy"])
def test_ranked_orders_take_the_first_of_their_score(
  order, values, is_open, count
):
  sampling = TextSampling(order=order, tokens_per_step=count)
  nothing = [0.0] * 5
  given = {
    "confidence": (values, nothing, nothing),
    "margin": (nothing, nothing, values),
    "entropy": (nothing, [-x for x in values], nothing),
  }
  log_p, entropy, margin = given[order]
  opened = [i for i in range(5) if is_open[i]]
  want = set(sorted(opened, key=lambda i: -values[i])[:count])
  assert taken_by(sampling, log_p, is_open, entropy, margin) == want


def test_beliefs_are_what_their_names_say():
  p = np.array([[0.5, 0.3, 0.2, 0.0], [0.1, 0.7, 0.2, 0.0]])
  with np.errstate(divide="ignore"):
    log_p = jnp.asarray(np.log(p), jnp.float32)
  beliefs = beliefs_of(log_p, None, temperature=0.0, top_p=1.0)
  np.testing.assert_array_equal(beliefs.token, [0, 1])
  np.testing.assert_allclose(beliefs.log_p, np.log([0.5, 0.7]), rtol=1e-6)
  np.testing.assert_allclose(beliefs.margin, [0.2, 0.5], rtol=1e-6)
  want = [-sum(x * np.log(x) for x in row if x) for row in p]
  np.testing.assert_allclose(beliefs.entropy, want, rtol=1e-6)


def trace_of(sampling, num_masked, length=6):
  texts = infill(
    lambda state: jnp.zeros((1, length, MASK + 1)),
    jnp.ones((1, length), jnp.int32),
    jnp.asarray(np.arange(length) >= num_masked)[None],
    row_keys(jax.random.key(0), jnp.arange(1)),
    mask_id=MASK,
    sampling=sampling,
    keeps_trace=True,
  )
  return np.asarray(texts.trace[0]), int(texts.calls[0])


@pytest.mark.parametrize(
  ("num_masked", "num_steps", "want"),
  [(5, 3, [2, 2, 1]), (2, 4, [1, 1, 0, 0]), (0, 2, [0, 0]), (6, 1, [6])],
)
def test_confidence_reveals_shares_rounded_up(num_masked, num_steps, want):
  sampling = TextSampling(num_steps=num_steps, order="confidence")
  trace, calls = trace_of(sampling, num_masked)
  left = [num_masked, *(trace == MASK).sum(1)]
  assert list(-np.diff(left)) == want
  assert calls == sum(share > 0 for share in want)


def test_blocks_are_finished_from_left_to_right():
  sampling = TextSampling(order="confidence", tokens_per_step=1, block_length=2)
  trace, _ = trace_of(sampling, 5)
  shown = [set(np.flatnonzero(state[:5] != MASK).tolist()) for state in trace]
  assert shown[1] == {0, 1} and shown[3] == {0, 1, 2, 3}


def test_blocks_lose_no_state_of_the_trace():
  sampling = TextSampling(num_steps=2, block_length=1)
  trace, calls = trace_of(sampling, 6)
  assert calls == 6
  assert list((trace == MASK).sum(1)) == [5, 4, 3, 2, 1, 0]


def test_choice_temperature_mixes_the_order_early_and_not_late():
  logits = jnp.asarray([[2.0, 0, 0, 0], [1.0, 0, 0, 0], [0.0, 0, 0, 0]])
  rows = 400

  def firsts(choice_temperature):
    texts = infill(
      lambda states: jnp.broadcast_to(logits, (rows, 3, 4)),
      jnp.zeros((rows, 3), jnp.int32),
      jnp.zeros((rows, 3), bool),
      row_keys(jax.random.key(0), jnp.arange(rows)),
      mask_id=MASK,
      sampling=TextSampling(
        order="confidence",
        num_steps=3,
        temperature=0,
        choice_temperature=choice_temperature,
      ),
      keeps_trace=True,
    )
    return np.asarray(texts.trace[:, 0] != MASK).mean(0)

  np.testing.assert_array_equal(firsts(0.0), [1, 0, 0])
  # Gumbel noise makes the scores the logits of who goes first.
  weights = np.exp(np.asarray(logits)[:, 0])
  p = [weights[i] / (weights[i] + 2) for i in range(3)]
  np.testing.assert_allclose(firsts(1.0), np.array(p) / sum(p), atol=0.08)


@pytest.mark.parametrize("order", sorted(ORDERS))
def test_no_order_takes_more_steps_than_it_says(order):
  trace, calls = trace_of(TextSampling(order=order, num_steps=4), 6)
  assert calls <= len(trace) and (trace[-1] != MASK).all()


def two_steps(planner):
  """Routes of a row by a planner's first two steps, of 16 draws each."""
  is_free = jnp.ones(8, bool)
  beliefs = Beliefs(
    jnp.zeros(8, jnp.int32), *jnp.linspace(-3, -1, 24).reshape(3, 8)
  )

  def routes(key):
    keys = jax.random.split(key, 3)
    plan = planner.start(is_free, keys[0])
    start = RowView(is_free, is_free, is_free)
    first, plan = planner.route(plan, beliefs, start, keys[1])
    is_masked = first != TAKE
    row = RowView(is_free, is_masked, is_masked)
    return first, planner.route(plan, beliefs, row, keys[2])[0]

  keys = jax.random.split(jax.random.key(0), 16)
  return map(np.asarray, jax.vmap(routes)(keys))


@pytest.mark.parametrize(
  ("order", "choice_temperature"),
  [*((order, 1.0) for order in ORDERS), ("confidence", 0.0)],
)
def test_a_planner_says_what_its_routes_do(order, choice_temperature):
  sampling = TextSampling(
    order=order,
    num_steps=4,
    temperature=0.0,
    choice_temperature=choice_temperature,
    remask_probability=0.5,
  )
  planner = sampling.planner
  first, second = two_steps(planner)
  assert (first == first[0]).all() == planner.is_deterministic
  assert (second != REMASK).all() == planner.keeps_tokens
  assert sampling.is_deterministic == planner.is_deterministic
  drawn = dataclasses.replace(sampling, temperature=1.0)
  assert not drawn.is_deterministic
