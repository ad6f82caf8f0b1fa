"""One training step, as the algorithm reads in the paper."""

import dataclasses
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax

from ddit_jax.batch import DualBatch
from ddit_jax.losses.dual import CorruptedBatch, DualLoss
from ddit_jax.models.mmdit import Prediction
from ddit_jax.random_streams import key_for
from ddit_jax.sharding.rules import constrain
from ddit_jax.train.state import TrainState


class Model(Protocol):
  """The network between its frozen encoders, see `TrainState.variables`."""

  def draw_latents(
    self, variables: dict[str, Any], images: jax.Array, key: jax.Array
  ) -> jax.Array:
    """Pixels 0..255 to clean latents, drawn from their posterior."""

  def apply(
    self,
    variables: dict[str, Any],
    latents,
    tokens: jax.Array,
    sigma,
    has_image: jax.Array | None = None,
  ) -> Prediction:
    """Velocity and logits at (partly masked) tokens."""


@dataclasses.dataclass(frozen=True)
class TrainStep:
  """(state, batch) -> (state, metrics); a pure function, meant to be jitted.

  Attributes:
    model: the network that is trained, and what encodes its inputs.
    loss: the dual loss.
    optimizer: the optax chain.
    ema_decay: see `OptimizerSettings`.
    num_microbatches: parts whose gradients are added up; the result is the
      global batch's gradient whatever their number.
    seed: root of all of training's randomness.
  """

  model: Model
  loss: DualLoss
  optimizer: optax.GradientTransformation
  ema_decay: float
  num_microbatches: int
  seed: int

  def __call__(
    self, state: TrainState, batch: DualBatch, null_tokens: jax.Array
  ) -> tuple[TrainState, dict[str, jax.Array]]:
    """Draws the corruption, differentiates, updates parameters and average.

    Args:
      state: donated by the caller.
      batch: the global batch of both streams.
      null_tokens: the empty caption, [length].
    """
    root = key_for(jax.random.key(self.seed), "training")
    variables = state.variables(state.params)

    def encode(images, key):
      return self.model.draw_latents(variables, images, key)

    corrupted = self.loss.corrupt(
      batch, root, state.step, encode=encode, null_tokens=null_tokens
    )
    return self.update(state, corrupted)

  def update(
    self, state: TrainState, corrupted: CorruptedBatch
  ) -> tuple[TrainState, dict[str, jax.Array]]:
    """The step after all random draws: gradients, optimiser, average."""
    grads, metrics = self.gradients(state, corrupted)
    metrics["grad_norm"] = optax.tree.norm(grads)
    updates, opt_state = self.optimizer.update(
      grads, state.opt_state, state.params
    )
    params = optax.apply_updates(state.params, updates)
    decay = ema_decay(self.ema_decay, state.step)
    metrics["ema_decay"] = decay
    ema = optax.incremental_update(params, state.ema, 1 - decay)
    new_state = state.replace(
      step=state.step + 1, params=params, ema=ema, opt_state=opt_state
    )
    return new_state, metrics

  def gradients(self, state: TrainState, corrupted: CorruptedBatch):
    """Gradients and losses of the global batch, added over micro-batches."""

    def loss_of(params, part):
      return self.loss(self._predictor(state), params, part)

    differentiate = jax.grad(loss_of, has_aux=True)
    if self.num_microbatches == 1:
      return differentiate(state.params, corrupted)

    def add_part(total, part):
      addend = differentiate(state.params, part)
      return jax.tree.map(jnp.add, total, addend), None

    parts = jax.tree.map(self._split, corrupted)
    first = jax.tree.map(lambda leaf: leaf[0], parts)
    shapes = jax.eval_shape(differentiate, state.params, first)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.scan(add_part, zeros, parts)[0]

  def _predictor(self, state: TrainState):
    def predict(params, *inputs):
      return self.model.apply(state.variables(params), *inputs)

    return predict

  def _split(self, array: jax.Array) -> jax.Array:
    """[batch, ...] to [parts, batch / parts, ...], each part over all devices.

    Rows are dealt out in turn, so that no example has to change its device
    and every part sees all strata of the text times.
    """
    rest = array.shape[1:]
    parts = self.num_microbatches
    array = array.reshape(array.shape[0] // parts, parts, *rest)
    array = array.swapaxes(0, 1)
    return constrain(array, None, "batch", *(None,) * len(rest))


def ema_decay(largest: float, step: jax.Array) -> jax.Array:
  """min(largest, (1 + step) / (10 + step)): a quick start, then `largest`."""
  step = step.astype(jnp.float32)
  return jnp.minimum(largest, (1 + step) / (10 + step))
