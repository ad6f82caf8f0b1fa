"""Masked diffusion of tokens (paper eq. 4-8; MDLM's SUBS rules)."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ddit_jax.errors import check_choices


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskedDiffusion:
  """At time t in (0, 1] a target token is still visible with probability 1 - t.

  Attributes:
    mask_count: "bernoulli" masks each target independently; "exact" masks
      exactly ceil(t * n) of n targets, whose weight is n divided by that
      count: the same expected loss with less variance.
    noise_schedule: "linear" masks with probability t; "log_linear" with
      (1 - epsilon) * t, the released code's noise. The weight is 1 / t in
      both.
    min_time: smallest training time, in (0, 1).
    epsilon: of the log-linear noise.
  """

  mask_count: Literal["bernoulli", "exact"] = "bernoulli"
  noise_schedule: Literal["linear", "log_linear"] = "linear"
  min_time: float = 1e-3
  epsilon: float = 1e-3

  def __post_init__(self):
    check_choices(self)
    if not 0 < self.min_time < 1:
      raise ValueError(f"min_time must be in (0, 1), got {self.min_time}")
    if not 0 <= self.epsilon < 1:
      raise ValueError(f"epsilon must be in [0, 1), got {self.epsilon}")

  def mask_probability(self, t: Float[Array, "*dims"]) -> Array:
    """The probability that a target token is masked at time t."""
    if self.noise_schedule == "log_linear":
      return (1 - self.epsilon) * t
    return t

  def loss_weight(self, t: Float[Array, "*dims"]) -> Array:
    """Factor of the negative log likelihood of masked tokens (eq. 8)."""
    return 1 / t

  def training_times(self, key: jax.Array, batch: int) -> Array:
    """Stratified times over the **global** batch, float32 [batch].

    One uniform u shifts all strata: antithetic sampling in the sense of MDLM.
    """
    shift = jax.random.uniform(key)
    return self.times_from_uniforms(jnp.broadcast_to(shift, (batch,)))

  def times_from_uniforms(
    self, uniforms: Float[Array, " batch"]
  ) -> Float[Array, " batch"]:
    """Times in [min_time, 1], each shifted from the start of its stratum."""
    batch = uniforms.shape[0]
    strata = (jnp.arange(batch, dtype=jnp.float32) + uniforms) / batch
    return self.min_time + (1 - self.min_time) * jnp.mod(strata, 1.0)

  def mask_tokens(
    self,
    key: jax.Array,
    tokens: Int[Array, "batch length"],
    loss_mask: Bool[Array, "batch length"],
    t: Float[Array, " batch"],
    *,
    mask_id: int,
  ) -> tuple[Array, Array, Array]:
    """Hides target tokens at times t.

    Returns:
      noisy tokens; is_masked, True where a token was hidden; the weight of
      each example's summed negative log likelihood, [batch].
    """
    uniform = jax.random.uniform(key, tokens.shape)
    if self.mask_count == "exact":
      is_masked, weight = _mask_exact_count(uniform, loss_mask, t)
    else:
      chance = self.mask_probability(t)[:, None]
      is_masked = loss_mask & (uniform < chance)
      weight = self.loss_weight(t)
    return jnp.where(is_masked, mask_id, tokens), is_masked, weight


def tempered(
  log_p: Float[Array, "*lead vocab"], temperature: float
) -> Float[Array, "*lead vocab"]:
  """Log probabilities at a positive temperature."""
  if temperature == 1:
    return log_p
  return jax.nn.log_softmax(log_p / temperature, axis=-1)


def nucleus(
  log_p: Float[Array, "*lead vocab"], top_p: float
) -> Float[Array, "*lead vocab"]:
  """Removes all but the most likely tokens that reach `top_p` together.

  The rest is not normalised: Gumbel draws do not need it. Tokens as likely as
  the last one that is kept are kept, too.
  """
  if top_p == 1:
    return log_p
  descending = -jnp.sort(-log_p, axis=-1)
  before = jnp.cumsum(jnp.exp(descending), axis=-1) - jnp.exp(descending)
  least = jnp.where(before < top_p, descending, jnp.inf).min(-1, keepdims=True)
  return jnp.where(log_p >= least, log_p, -jnp.inf)


def log_probabilities(
  logits: Float[Array, "*lead vocab"], mask_id: int
) -> Float[Array, "*lead vocab"]:
  """Float32 log-softmax in which the mask itself has probability zero."""
  logits = logits.astype(jnp.float32)
  ids = jnp.arange(logits.shape[-1])
  ids = ids.reshape((1,) * (logits.ndim - 1) + (-1,))
  logits = jnp.where(ids == mask_id, -jnp.inf, logits)
  return jax.nn.log_softmax(logits, axis=-1)


def _mask_exact_count(uniform, loss_mask, t):
  num_targets = loss_mask.sum(axis=-1)
  count = jnp.ceil(t * num_targets.astype(jnp.float32)).astype(jnp.int32)
  count = jnp.clip(count, jnp.minimum(1, num_targets), num_targets)
  # Fixed tokens rank last, so they are never among the first `count`.
  ranks = jnp.argsort(jnp.argsort(jnp.where(loss_mask, uniform, 2.0)))
  is_masked = loss_mask & (ranks < count[:, None])
  weight = num_targets / jnp.maximum(count, 1)
  return is_masked, weight.astype(jnp.float32)
