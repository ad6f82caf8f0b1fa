"""What draws of any modality have in common."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from ddit_jax.batch import TextToImageBatch
from ddit_jax.losses.advantages import group_advantages
from ddit_jax.losses.flow_matching import NoisyImages
from ddit_jax.post_training.config import RewardsConfig
from ddit_jax.train.state import TrainState

# In `TrainState.frozen`: what a run without adapters started from.
REFERENCE = "reference"


def old_policy(state: TrainState) -> dict[str, Any]:
  """Variables of the policy that draws: the EMA of the trained one."""
  return state.variables(state.ema)


def reference_policy(state: TrainState) -> dict[str, Any]:
  """Variables of the policy that the run started from."""
  if REFERENCE in state.frozen:
    return state.variables(state.frozen[REFERENCE])
  # New adapters change nothing because one of their factors is zero.
  return state.variables(jax.tree.map(jnp.zeros_like, state.params))


def encoded_captions(
  model, variables: dict[str, Any], batch: TextToImageBatch
) -> Shaped[Array, "batch length *features"]:
  """The captions as the network takes them, before their rows are repeated."""
  text = batch.tokens if batch.features is None else batch.features
  return model.condition(variables, text, is_text_clean=True)


def predicted_velocity(
  model, variables: dict[str, Any], noisy: NoisyImages
) -> Float[Array, "rows height width channels"]:
  """A policy's velocity at noised images, float32."""
  condition = model.condition(variables, noisy.text, is_text_clean=True)
  found = model.predict(variables, noisy.latents, condition, noisy.sigma)
  return found.velocity.astype(jnp.float32)


@flax.struct.dataclass
class Shown:
  """What rewards see of the draws, a row each.

  Attributes:
    images: pixels that were drawn or asked about.
    prompts: tokens that hold the prompt.
    is_prompt: True where they are the prompt's; None where all are.
    texts: tokens of prompt and drawn text; None where images were drawn.
    references: tokens of prompt and the data's text; likewise.
  """

  images: Any
  prompts: Any
  is_prompt: Any = None
  texts: Any = None
  references: Any = None


def advantages_of(
  part: RewardsConfig, rewards: Float[Array, "rows kinds"], *, is_scaled: bool
) -> Float[Array, " rows"]:
  """See `losses.advantages.group_advantages`."""
  return group_advantages(
    rewards,
    jnp.array(part.weights, jnp.float32),
    group_size=part.group_size,
    is_scaled=is_scaled,
  )
