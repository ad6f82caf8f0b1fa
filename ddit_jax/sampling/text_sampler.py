"""Image to text: fills in masked tokens around a prompt (paper eq. 5).

Captioning has no prompt, question answering has the question, and
fill-in-the-blank has any pattern of given tokens.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

from ddit_jax.diffusion.masked_diffusion import (
  log_probabilities,
  reveal_probability,
)
from ddit_jax.errors import check_choices
from ddit_jax.sampling.image_sampler import MAX_STEPS

_END_TIME = 1e-5

Predict = Callable[
  [Int[Array, "batch length"]], Float[Array, "batch length vocab"]
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextSampling:
  """Config of the text sampler.

  Attributes:
    num_steps: network calls; "ancestral" adds one that puts the most likely
      token wherever a mask is left.
    order: "ancestral" reveals each masked position with the posterior's
      probability (eq. 5); "confidence" reveals the positions whose sampled
      token is most probable, equally many at each step.
    temperature: divides the logits of the draw; 0 takes the most likely
      token.
  """

  num_steps: int = 16
  order: Literal["ancestral", "confidence"] = "ancestral"
  temperature: float = 1.0

  def __post_init__(self):
    check_choices(self)
    if not 1 <= self.num_steps <= MAX_STEPS:
      raise ValueError(
        f"num_steps must be in 1 to {MAX_STEPS}, got {self.num_steps}"
      )
    if self.temperature < 0:
      raise ValueError(f"temperature is negative: {self.temperature}")


def infill(
  predict: Predict,
  tokens: Int[Array, "batch length"],
  prompt_mask: Bool[Array, "batch length"],
  keys: Key[Array, " batch"],
  *,
  mask_id: int,
  sampling: TextSampling,
) -> tuple[Int[Array, "batch length"], Int[Array, "steps batch length"]]:
  """Samples every token outside the prompt; prompt tokens never change.

  Args:
    predict: (tokens) -> logits, with the clean images at sigma 0 bound.
    tokens: ids; only those of the prompt are read.
    prompt_mask: True where the token is given.
    keys: randomness of each row's draws, see `prng.row_keys`.
    mask_id: the token id that stands for a masked token.
    sampling: steps, order and temperature.

  Returns:
    The finished tokens, and the partly masked ones after each step.
  """
  start = jnp.where(prompt_mask, tokens, mask_id)
  if sampling.order == "ancestral":
    update = functools.partial(
      ancestral_update,
      keys=keys,
      mask_id=mask_id,
      temperature=sampling.temperature,
    )
    steps = jnp.arange(sampling.num_steps)
    return ancestral_states(predict, start, steps, update, mask_id=mask_id)
  return _by_confidence(predict, start, keys, mask_id, sampling)


def generate_tokens(
  model,
  variables,
  latents,
  tokens: Int[Array, "batch length"],
  prompt_mask: Bool[Array, "batch length"],
  keys: Key[Array, " batch"],
  *,
  mask_id: int,
  sampling: TextSampling,
  has_image: Bool[Array, " batch"] | None = None,
) -> tuple[Int[Array, "batch length"], Int[Array, "steps batch length"]]:
  """Texts about images, see `infill`.

  Args:
    model: with `condition` and `predict`, see `experiment.model.DualModel`.
    variables: the weights of its parts.
    latents: of the images, clean; None if no example has an image.
    tokens: ids; only those at fixed positions are read.
    prompt_mask: True where the token is given.
    keys: randomness of each row's draws, see `prng.row_keys`.
    mask_id: the token id that stands for a masked token.
    sampling: the sampler's config.
    has_image: False where an example has no image; None if all have one.
  """
  clean_time = jnp.zeros(tokens.shape[0])

  def predict(state):
    condition = model.condition(variables, state)
    return model.predict(
      variables, latents, condition, clean_time, has_image=has_image
    ).logits

  return infill(
    predict, tokens, prompt_mask, keys, mask_id=mask_id, sampling=sampling
  )


def ancestral_states(
  predict: Predict,
  start: Int[Array, "batch length"],
  draws: Shaped[Array, "steps *draw"],
  update: Callable[..., Int[Array, "batch length"]],
  *,
  mask_id: int,
) -> tuple[Int[Array, "batch length"], Int[Array, "states batch length"]]:
  """One update per draw, from time 1 to 0, then noise removal.

  Args:
    predict: (tokens) -> logits.
    start: partly masked tokens.
    draws: the randomness of each step.
    update: (state, log probabilities, one of `draws`, reveal probability) ->
      state.
    mask_id: the token id that stands for a masked token.

  Returns:
    The finished tokens, and those after each update and the noise removal.
  """
  times = jnp.linspace(1.0, _END_TIME, draws.shape[0] + 1)

  def step(state, inputs):
    t, s, draw = inputs
    log_p = log_probabilities(predict(state), mask_id)
    state = update(state, log_p, draw, reveal_probability(t, s))
    return state, state

  state, trace = jax.lax.scan(step, start, (times[:-1], times[1:], draws))
  log_p = log_probabilities(predict(state), mask_id)
  state = without_noise(state, log_p, mask_id=mask_id)
  return state, jnp.concatenate([trace, state[None]])


def without_noise(
  state: Int[Array, "batch length"],
  log_p: Float[Array, "batch length vocab"],
  *,
  mask_id: int,
) -> Int[Array, "batch length"]:
  """Replaces remaining masks by the most likely token."""
  best = jnp.argmax(log_p, axis=-1).astype(state.dtype)
  return jnp.where(state == mask_id, best, state)


def ancestral_update(
  state: Int[Array, "batch length"],
  log_p: Float[Array, "batch length vocab"],
  step: Int[Array, ""],
  chance: Float[Array, ""],
  *,
  keys: Key[Array, " batch"],
  mask_id: int,
  temperature: float,
) -> Int[Array, "batch length"]:
  """Reveals each masked token with `chance`, sampled from `log_p`."""
  return ancestral_draw(
    state,
    _tempered(log_p, temperature),
    _gumbel(keys, step, log_p.shape),
    chance,
    mask_id=mask_id,
  )


def ancestral_draw(
  state: Int[Array, "batch length"],
  log_p: Float[Array, "batch length vocab"],
  gumbel: Float[Array, "batch length vocab"],
  chance: Float[Array, ""],
  *,
  mask_id: int,
) -> Int[Array, "batch length"]:
  """Samples each masked position from its posterior with given Gumbel noise."""
  log_q = log_posterior(log_p, chance, mask_id=mask_id)
  sampled = jnp.argmax(log_q + gumbel, axis=-1).astype(state.dtype)
  return jnp.where(state == mask_id, sampled, state)


def log_posterior(
  log_p: Float[Array, "*lead vocab"], chance: Float[Array, ""], *, mask_id: int
) -> Float[Array, "*lead vocab"]:
  """Log q(x_s | x_t masked) over the vocabulary (paper eq. 5).

  A token has `chance` times its probability; the mask has the rest.
  """
  ids = jax.lax.broadcasted_iota(jnp.int32, log_p.shape, log_p.ndim - 1)
  return jnp.where(ids == mask_id, jnp.log1p(-chance), jnp.log(chance) + log_p)


def _tempered(
  log_p: Float[Array, "*lead vocab"], temperature: float
) -> Float[Array, "*lead vocab"]:
  """Log probabilities at a temperature; 0 leaves only the most likely token."""
  if temperature == 1:
    return log_p
  if temperature > 0:
    return jax.nn.log_softmax(log_p / temperature, axis=-1)
  best = jnp.argmax(log_p, axis=-1)[..., None]
  ids = jax.lax.broadcasted_iota(jnp.int32, log_p.shape, log_p.ndim - 1)
  return jnp.where(ids == best, 0.0, -jnp.inf)


def _gumbel(
  keys: Key[Array, " batch"], step: Int[Array, ""], shape: tuple[int, ...]
) -> Float[Array, "batch length vocab"]:
  """Gumbel noise of one step of a batch, each row's from its own key."""

  def draw(key):
    # Float32, as coarser noise lowers the temperature silently.
    key = jax.random.fold_in(key, step)
    return jax.random.gumbel(key, shape[1:], jnp.float32)

  return jax.vmap(draw)(keys)


def _by_confidence(predict, start, keys, mask_id, sampling):
  num_masked = (start == mask_id).sum(axis=-1)

  def step(state, index):
    log_p = log_probabilities(predict(state), mask_id)
    sampled, confidence = _draw(log_p, keys, index, sampling.temperature)
    is_masked = state == mask_id
    # After step i, (i + 1) / num_steps of the masked tokens are revealed,
    # rounded up.
    target = -(-(index + 1) * num_masked // sampling.num_steps)
    count = target - (num_masked - is_masked.sum(axis=-1))
    confidence = jnp.where(is_masked, confidence, -jnp.inf)
    ranks = jnp.argsort(jnp.argsort(-confidence, axis=-1), axis=-1)
    is_revealed = is_masked & (ranks < count[:, None])
    state = jnp.where(is_revealed, sampled.astype(state.dtype), state)
    return state, state

  return jax.lax.scan(step, start, jnp.arange(sampling.num_steps))


def _draw(
  log_p: Float[Array, "batch length vocab"],
  keys: Key[Array, " batch"],
  step: Int[Array, ""],
  temperature: float,
) -> tuple[Int[Array, "batch length"], Float[Array, "batch length"]]:
  """(tokens, their log probabilities)."""
  if temperature == 0:
    token = jnp.argmax(log_p, axis=-1)
  else:
    noise = _gumbel(keys, step, log_p.shape)
    token = jnp.argmax(log_p / temperature + noise, axis=-1)
  chosen = jnp.take_along_axis(log_p, token[..., None], axis=-1)[..., 0]
  return token, chosen
