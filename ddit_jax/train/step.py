"""One training step, in the order of the paper's algorithm."""

import dataclasses
import functools
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Shaped

from ddit_jax.batch import DualBatch
from ddit_jax.losses import captioning, dual
from ddit_jax.losses.objective import Loss, Objective
from ddit_jax.losses.time_buckets import bucket_means
from ddit_jax.models.module import MASK_EMBEDDING
from ddit_jax.prng import key_for, root_key
from ddit_jax.sharding.gathering import gathered, scattered
from ddit_jax.sharding.rules import constrain
from ddit_jax.train.loop import TrainConfig
from ddit_jax.train.optimizer import OptimizerConfig
from ddit_jax.train.state import TrainState


@runtime_checkable
class TrainableModel(dual.Model, Protocol):
  """The network between its frozen encoders, see `TrainState.variables`.

  To gather weights once a step, its `network` must be a `Network`.
  """

  def frozen_mask_embedding(self, frozen: dict[str, Any]) -> jax.Array:
    """The mask token's embedding in the text encoder's own table."""


@dataclasses.dataclass(frozen=True)
class TrainStep:
  """(state, batch, null_tokens) -> (state, metrics), pure and to be jitted.

  Attributes:
    model: the trained network with the encoders of its inputs.
    loss: what is minimised, e.g. the dual loss; a `Loss` for `update` alone.
    optimizer: updates the parameters and their EMA.
    train: number of micro-batches and of steps.
    seed: root of all random keys of training.
    is_mask_embedding_trained: False keeps `MASK_EMBEDDING` as it is, if there
      is one, and skips the backward pass through the text encoder.
    has_task_norms: True differentiates each task alone, for its gradient norm.
  """

  model: TrainableModel | captioning.CaptioningModel
  loss: Objective | Loss
  optimizer: OptimizerConfig
  train: TrainConfig
  seed: int
  is_mask_embedding_trained: bool = True
  has_task_norms: bool = False

  @functools.cached_property
  def chain(self) -> optax.GradientTransformation:
    """The optax chain of the whole run."""
    return self.optimizer.make(self.train.num_steps)

  def __call__(
    self,
    state: TrainState,
    batch: DualBatch,
    null_tokens: Int[Array, " length"],
  ) -> tuple[TrainState, dict[str, jax.Array]]:
    """Draws the corruption, differentiates, updates parameters and EMA.

    Args:
      state: donated by the caller.
      batch: the global batch of both tasks.
      null_tokens: the empty caption.
    """
    root = key_for(root_key(self.seed), "training")
    corrupted = self.loss.corrupt(
      batch,
      root,
      state.step,
      model=self.model,
      variables=state.variables(state.params),
      null_tokens=null_tokens,
    )
    return self.update(state, corrupted)

  def update(
    self, state: TrainState, corrupted: Any
  ) -> tuple[TrainState, dict[str, jax.Array]]:
    """The step after all random draws: gradients, optimizer, EMA.

    A loss, gradient or update that is not finite changes only the
    counts.
    """
    grads, metrics = self.gradients(state, corrupted)
    metrics["grad_norm"] = optax.tree.norm(grads)
    updates, opt_state = self.chain.update(grads, state.opt_state, state.params)
    updates = self._without_frozen_update(updates)
    metrics["update_norm"] = optax.tree.norm(updates)
    params = optax.apply_updates(state.params, updates)
    decay = ema_decay(self.optimizer.ema_decay, state.step)
    metrics["ema_decay"] = decay
    ema = optax.incremental_update(params, state.ema, 1 - decay)
    watched = ("loss/total", "grad_norm", "update_norm")
    is_finite = jnp.isfinite(sum(metrics[name] for name in watched))
    kept = jax.tree.map(
      lambda new, old: jnp.where(is_finite, new, old),
      (params, ema, opt_state),
      (state.params, state.ema, state.opt_state),
    )
    params, ema, opt_state = kept
    num_in_row = jnp.where(is_finite, 0, state.num_skipped_in_row + 1)
    new_state = state.replace(
      step=state.step + 1,
      num_skipped=state.num_skipped + jnp.where(is_finite, 0, 1),
      num_skipped_in_row=num_in_row,
      params=params,
      ema=ema,
      opt_state=opt_state,
    )
    if MASK_EMBEDDING in params:
      metrics |= self._mask_embedding_drift(new_state)
    metrics["num_skipped"] = new_state.num_skipped
    metrics["num_skipped_in_row"] = num_in_row
    return new_state, metrics

  def gradients(self, state: TrainState, corrupted: Any):
    """Gradient and losses of the global batch, added over micro-batches."""
    layout, params = self._layout_if_gathered(), state.params
    if layout is not None:
      dtype = self.model.network.execution.dtype
      params = gathered(params, layout, dtype)

    def gradients_of(part):
      grads, values = self._part_gradients(state, params, part)
      if layout is not None:
        grads = {k: scattered(tree, layout) for k, tree in grads.items()}
      return grads, values

    if self.train.num_microbatches == 1:
      grads, (losses, buckets) = gradients_of(corrupted)
    else:
      grads, (losses, buckets) = self._added(gradients_of, corrupted)
    metrics = {f"loss/{name}": loss for name, loss in losses.items()}
    metrics["loss/total"] = self.loss.total(losses)
    if len(grads) > 1:
      for name, tree in grads.items():
        metrics[f"grad_norm/{name}"] = optax.tree.norm(tree)
    for name, values in buckets.items():
      metrics |= bucket_means(name, values)
    total = jax.tree.map(lambda *parts: sum(parts), *grads.values())
    return total, metrics

  def _layout_if_gathered(self):
    """The parameters' shardings if they are gathered once a step, else None."""
    mesh = jax.sharding.get_abstract_mesh()
    if self.train.weight_gathering != "once" or mesh.empty:
      return None
    return self.model.network.shardings(mesh)["params"]

  def _added(self, gradients_of, corrupted):
    """The sum of `gradients_of` over the micro-batches."""

    def add_part(total, part):
      return jax.tree.map(jnp.add, total, gradients_of(part)), None

    parts = jax.tree.map(self._split, corrupted)
    first = jax.tree.map(lambda leaf: leaf[0], parts)
    shapes = jax.eval_shape(gradients_of, first)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.scan(add_part, zeros, parts)[0]

  def _part_gradients(self, state: TrainState, params: Any, part: Any):
    """({task or "both": gradient}, (losses, buckets)) of one micro-batch."""

    def loss_of(params, part):
      variables = state.variables(self._without_frozen_gradient(params))
      losses, buckets = self.loss.losses(self.model, variables, part)
      return self.loss.total(losses), (losses, buckets)

    differentiate = jax.grad(loss_of, has_aux=True)
    parts = {"both": part}
    if self.has_task_norms:
      parts = self.loss.alone(part)
    grads, losses, buckets = {}, {}, {}
    for task, examples in parts.items():
      grads[task], values = differentiate(params, examples)
      losses |= values[0]
      buckets |= values[1]
    return grads, (losses, buckets)

  def _without_frozen_gradient(self, params):
    """Stops the gradient of a mask embedding that is not trained."""
    if self.is_mask_embedding_trained or MASK_EMBEDDING not in params:
      return params
    row = jax.lax.stop_gradient(params[MASK_EMBEDDING])
    return {**params, MASK_EMBEDDING: row}

  def _without_frozen_update(self, updates):
    """Drops the update (weight decay, momentum) of such a mask embedding."""
    if self.is_mask_embedding_trained or MASK_EMBEDDING not in updates:
      return updates
    return {**updates, MASK_EMBEDDING: jnp.zeros_like(updates[MASK_EMBEDDING])}

  def _mask_embedding_drift(self, state: TrainState) -> dict[str, jax.Array]:
    """Distance to the text encoder's own embedding, relative to its norm."""
    start = self.model.frozen_mask_embedding(state.frozen)
    moved = jnp.linalg.norm(state.params[MASK_EMBEDDING] - start)
    return {"mask_embedding/drift": moved / jnp.linalg.norm(start)}

  def _split(
    self, array: Shaped[Array, "batch *rest"]
  ) -> Shaped[Array, "parts batch_of_part *rest"]:
    """Divides the batch into micro-batches, each of them over all devices.

    Rows are assigned round-robin, so that no example changes its device
    and every part sees all strata of the text times.
    """
    rest = array.shape[1:]
    parts = self.train.num_microbatches
    array = array.reshape(array.shape[0] // parts, parts, *rest)
    array = array.swapaxes(0, 1)
    return constrain(array, None, "batch", *(None,) * len(rest))


def ema_decay(largest: float, step: Int[Array, ""]) -> Float[Array, ""]:
  """min(largest, (1 + step) / (10 + step)): a quick start, then `largest`."""
  step = step.astype(jnp.float32)
  return jnp.minimum(largest, (1 + step) / (10 + step))
