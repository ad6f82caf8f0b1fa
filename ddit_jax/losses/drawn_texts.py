"""Drawn texts and the bound of their probability, as evaluation takes it."""

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from ddit_jax.losses.dual import Model
from ddit_jax.losses.likelihood import bound_of_texts


@flax.struct.dataclass
class DrawnTexts:
  """Texts that follow their prompts.

  Attributes:
    latents: of the images they are about, clean; None for text alone.
    tokens: ids of prompt and text.
    is_given: True on the prompt.
    is_scored: True on the text and the end token that closes it. What follows
      is never read.
    draws: `jax.random.key_data` of each row. Policies that are compared mask
      the same positions.
    has_image: False where there is only text; None if all have an image.
  """

  latents: Float[Array, "*lead height width channels"] | None
  tokens: Int[Array, "*lead length"]
  is_given: Bool[Array, "*lead length"]
  is_scored: Bool[Array, "*lead length"]
  draws: UInt32[Array, "*lead words"]
  has_image: Bool[Array, "*lead"] | None = None

  @property
  def num_scored(self) -> Int[Array, "*lead"]:
    """Tokens whose probability counts, of an empty text 1, to divide by."""
    return jnp.maximum(self.is_scored.sum(axis=-1), 1)


def prompt_positions(
  loss_mask: Bool[Array, "rows length"],
) -> Bool[Array, "rows length"]:
  """What stands before the first token of a text that may be masked.

  A word of the text that has no id may not be masked either, but it is no part
  of the prompt.
  """
  return jnp.cumsum(loss_mask, axis=-1) == 0


def scored_positions(
  tokens: Int[Array, "rows length"],
  is_given: Bool[Array, "rows length"],
  end_id: int,
) -> Bool[Array, "rows length"]:
  """The text behind the prompt, up to and with its first end token."""
  is_end = (tokens == end_id) & ~is_given
  num_ends_before = jnp.cumsum(is_end, axis=-1) - is_end
  return ~is_given & (num_ends_before == 0)


def log_probability(
  model: Model, variables, texts: DrawnTexts, num_passes: int
) -> Float[Array, " rows"]:
  """A lower bound of log p(text | prompt, image) of each row, in nats.

  It depends neither on the other rows nor on what follows the text.

  Args:
    model: the network.
    variables: of the policy.
    texts: a batch, or a part of one.
    num_passes: calls of the network, see `likelihood.text_bound`.
  """
  return -bound_of_texts(
    model,
    variables,
    texts.latents,
    texts.tokens,
    texts.is_given,
    texts.is_scored,
    jax.random.wrap_key_data(texts.draws),
    num_passes=num_passes,
    has_image=texts.has_image,
  ).nats
