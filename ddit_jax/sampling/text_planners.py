"""Orders of the text sampler: what becomes of each position after a call.

A planner looks at one row and routes each of its positions: the position stays
as it is, takes the token that was drawn for it, or is masked again. `infill`
does all else.

To add an order, write a planner and name it in `Order` and `ORDERS`. Its class
attributes are what the sampler and the checks of the config ask of it. Compare
its routes with a loop over Python lists in
tests/sampling/test_text_planners.py, and say in docs/text_sampling.md what it
reveals and costs.
"""

import abc
import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from ddit_jax.diffusion.masked_diffusion import nucleus, tempered

STAY, TAKE, REMASK = 0, 1, 2
_MAX_INT = jnp.iinfo(jnp.int32).max

_Route = Int[Array, " length"]
# What a planner remembers of a row, any tree of arrays.
_Plan = Any


class Beliefs(NamedTuple):
  """What the network says of each position of one row, arrays [length].

  Attributes:
    token: drawn, at the temperature and from the nucleus.
    log_p: the token's log probability, at temperature 1.
    margin: the difference of the two largest probabilities.
    entropy: in nats.
  """

  token: Int[Array, " length"]
  log_p: Float[Array, " length"]
  margin: Float[Array, " length"]
  entropy: Float[Array, " length"]


class RowView(NamedTuple):
  """What is known of one row, arrays [length].

  Attributes:
    is_free: True where no token is given.
    is_masked: True where none is known.
    is_open: True where one may be revealed now, a part of `is_masked`.
  """

  is_free: Bool[Array, " length"]
  is_masked: Bool[Array, " length"]
  is_open: Bool[Array, " length"]


def beliefs_of(
  log_p: Float[Array, "length vocab"],
  noise: Float[Array, "length vocab"] | None,
  *,
  temperature: float,
  top_p: float,
) -> Beliefs:
  """Draws a token for each position by the Gumbel noise; None for the best.

  Args:
    log_p: of the network, at temperature 1.
    noise: Gumbel noise, for temperatures above 0.
    temperature: see `TextSampling`, as `top_p`.
    top_p: the nucleus.
  """
  if noise is None:
    token = jnp.argmax(log_p, axis=-1)
  else:
    weights = nucleus(tempered(log_p, temperature), top_p)
    token = jnp.argmax(weights + noise, axis=-1)
  p = jnp.exp(log_p)
  best = jax.lax.top_k(p, 2)[0]
  return Beliefs(
    token=token,
    log_p=jnp.take_along_axis(log_p, token[:, None], axis=-1)[:, 0],
    margin=best[:, 0] - best[:, 1],
    entropy=-jnp.where(p > 0, p * log_p, 0).sum(axis=-1),
  )


@dataclasses.dataclass(frozen=True)
class Planner(abc.ABC):
  """An order.

  Attributes:
    sampling: the `TextSampling`, whose checks ask this class what it does.
    is_deterministic: whether its plans and routes draw nothing.
    has_fixed_noise: whether the tokens' draws have the same noise at each step.
    keeps_tokens: whether a token that was taken stays. Only then may a row stop
      at its end token, or be revealed in blocks.
  """

  sampling: Any
  is_deterministic = True
  has_fixed_noise = False
  keeps_tokens = True

  def max_steps(self, length: int) -> int:
    """The most steps of a row of so many tokens."""
    return length

  def start(
    self, is_free: Bool[Array, " length"], key: Key[Array, ""]
  ) -> _Plan:
    """The plan of a row in which all that is free is masked."""
    del key
    return is_free.sum()

  @abc.abstractmethod
  def route(
    self, plan: _Plan, beliefs: Beliefs, row: RowView, key: Key[Array, ""]
  ) -> tuple[_Route, _Plan]:
    """(what becomes of each position, the plan after this step)."""

  def is_done(self, plan: _Plan, is_masked: Bool[Array, " length"]) -> Array:
    """Whether the row needs no other step."""
    del plan
    return ~is_masked.any()


class Ancestral(Planner):
  """The paper's sampler: the step of each token is drawn beforehand (eq. 5).

  A token that is masked at t is still masked at s with probability s / t, so at
  time s with probability s: of T equal steps each is as likely. The network
  does not see the time, so steps without tokens need no call: of N tokens T (1
  - (1 - 1 / T)^N) are left on average.
  """

  is_deterministic = False
  has_fixed_noise = True

  def max_steps(self, length):
    # Each block takes steps of its own.
    if self.sampling.block_length:
      return length
    return min(length, self.sampling.num_steps)

  def start(self, is_free, key):
    return jax.random.randint(key, is_free.shape, 0, self.sampling.num_steps)

  def route(self, plan, beliefs, row, key):
    del beliefs, key
    now = jnp.where(row.is_open, plan, _MAX_INT).min()
    return jnp.where(row.is_open & (plan == now), TAKE, STAY), plan


class FirstHitting(Ancestral):
  """Ancestral sampling with infinitely many steps (arXiv:2409.02908).

  No two tokens share a step, and every order of them is as likely.
  """

  def max_steps(self, length):
    return length

  def start(self, is_free, key):
    return jax.random.permutation(key, is_free.shape[0])


class Confidence(Planner):
  """The same number of tokens at each step, those of the highest scores."""

  @property
  def is_deterministic(self):
    return self.sampling.choice_temperature == 0

  def max_steps(self, length):
    if self.sampling.tokens_per_step or self.sampling.block_length:
      return length
    return min(length, self.sampling.num_steps)

  def route(self, plan, beliefs, row, key):
    num_known = plan - row.is_masked.sum()
    score = self.score(beliefs)
    if self.sampling.choice_temperature:
      share = row.is_masked.sum() / jnp.maximum(plan, 1)
      noise = jax.random.gumbel(key, score.shape, jnp.float32)
      score += self.sampling.choice_temperature * share * noise
    is_taken = _ranks(score, row.is_open) < self._count(plan, num_known)
    return jnp.where(row.is_open & is_taken, TAKE, STAY), plan

  def score(self, beliefs: Beliefs) -> Float[Array, " length"]:
    """The larger, the sooner a position takes its token."""
    return beliefs.log_p

  def _count(self, num_free, num_known):
    """The tokens of the present step.

    After step i, (i + 1) / num_steps of all are known, rounded up.
    """
    if self.sampling.tokens_per_step:
      return self.sampling.tokens_per_step
    num_steps = self.sampling.num_steps
    step = num_known * num_steps // jnp.maximum(num_free, 1)
    return -(-(step + 1) * num_free // num_steps) - num_known


class Margin(Confidence):
  """First where the best token is far ahead of the second."""

  def score(self, beliefs):
    return beliefs.margin


class Entropy(Confidence):
  """First where the prediction has the least entropy."""

  def score(self, beliefs):
    return -beliefs.entropy


class Threshold(Planner):
  """All tokens that are probable enough (Fast-dLLM, arXiv:2505.22618)."""

  def route(self, plan, beliefs, row, key):
    del key
    is_probable = beliefs.log_p >= jnp.log(self.sampling.threshold)
    is_taken = is_probable | (_ranks(beliefs.log_p, row.is_open) == 0)
    return jnp.where(row.is_open & is_taken, TAKE, STAY), plan


class EntropyBound(Planner):
  """As many as a bound of their joint entropy allows (arXiv:2505.24857).

  The entropies less the largest bound what is lost by drawing the tokens
  independently.
  """

  def route(self, plan, beliefs, row, key):
    del key
    rank = _ranks(beliefs.log_p, row.is_open)
    surest_first = jnp.argsort(rank)
    entropy = jnp.where(row.is_open, beliefs.entropy, 0)[surest_first]
    excess = jnp.cumsum(entropy) - jax.lax.cummax(entropy)
    is_taken = (excess <= self.sampling.max_entropy)[rank] | (rank == 0)
    return jnp.where(row.is_open & is_taken, TAKE, STAY), plan


class Remasking(Planner):
  """ReMDM's capped schedule (arXiv:2503.00307): tokens may be masked again.

  From the known share a to a', a known token is masked with probability s = min
  (cap, (1 - a') / a), and a masked one revealed with (a' - (1 - s) a) / (1 -
  a), which keeps each position's probability of being known.
  """

  is_deterministic = False
  keeps_tokens = False

  def max_steps(self, length):
    return self.sampling.num_steps

  def start(self, is_free, key):
    return jnp.zeros((), jnp.int32)

  def route(self, plan, beliefs, row, key):
    num_steps = self.sampling.num_steps
    known, next_known = plan / num_steps, (plan + 1) / num_steps
    remask = (1 - next_known) / jnp.maximum(known, 1 / num_steps)
    remask = jnp.minimum(self.sampling.remask_probability, remask)
    reveal = (next_known - (1 - remask) * known) / (1 - known)
    # Of rounding, nothing may be left at the end.
    reveal = jnp.where(plan + 1 == num_steps, 1.0, reveal)
    uniform = jax.random.uniform(key, row.is_free.shape)
    is_known = row.is_free & ~row.is_masked
    route = jnp.where(row.is_masked & (uniform < reveal), TAKE, STAY)
    return jnp.where(is_known & (uniform < remask), REMASK, route), plan + 1

  def is_done(self, plan, is_masked):
    return plan >= self.sampling.num_steps


# Names of `TextSampling.order`: a type for the config, and their planners.
Order = Literal[
  "ancestral",
  "first_hitting",
  "confidence",
  "margin",
  "entropy",
  "threshold",
  "entropy_bound",
  "remasking",
]
ORDERS: dict[str, type[Planner]] = {
  "ancestral": Ancestral,
  "first_hitting": FirstHitting,
  "confidence": Confidence,
  "margin": Margin,
  "entropy": Entropy,
  "threshold": Threshold,
  "entropy_bound": EntropyBound,
  "remasking": Remasking,
}


def _ranks(
  score: Float[Array, " length"], is_open: Bool[Array, " length"]
) -> Int[Array, " length"]:
  """The place of each position in descending order; closed ones are last.

  An open one is always first, even if no score is a number.
  """
  least = jnp.finfo(score.dtype).min
  score = jnp.maximum(jnp.nan_to_num(score, nan=least), least)
  descending = jnp.argsort(-jnp.where(is_open, score, -jnp.inf))
  return jnp.argsort(descending)
