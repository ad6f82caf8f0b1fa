"""The train state of a run: initialised, pretrained, or of a checkpoint."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Key

from ddit_jax.checkpoint.store import CheckpointStore
from ddit_jax.checkpoint.tree_match import check_finite
from ddit_jax.experiment.captioner import CaptionerModel
from ddit_jax.experiment.captioner_weights import CaptionerWeights
from ddit_jax.experiment.config import Config
from ddit_jax.experiment.model import DualModel
from ddit_jax.experiment.pretrained import PretrainedModel, PretrainedParams
from ddit_jax.lora.lora import LoraNetwork
from ddit_jax.models.module import MASK_EMBEDDING
from ddit_jax.post_training.draws import REFERENCE
from ddit_jax.prng import key_for, root_key
from ddit_jax.train.state import TrainState, abstract_state, init_state
from ddit_jax.train.watchdog import Watchdog


@dataclasses.dataclass(frozen=True, kw_only=True)
class StateSource:
  """Makes the state of step 0, or restores that of a checkpoint.

  Attributes:
    config: of the run.
    mesh: all devices.
    model: the trained network and the frozen parts around it.
    encoders: source of the encoders, if there are any.
    pretrained: parameters that a new run starts from, or that stay frozen
      under adapters or a captioner; None if there are none.
    optimizer: the optax chain.
    shardings: of the state, without frozen parameters.
    store: the run's checkpoints.
    watchdog: learns what the run waits for.
  """

  config: Config
  mesh: Mesh
  model: DualModel | CaptionerModel
  encoders: PretrainedModel | None
  pretrained: PretrainedParams | CaptionerWeights | None
  optimizer: optax.GradientTransformation
  shardings: TrainState
  store: CheckpointStore
  watchdog: Watchdog

  def initialise(self) -> TrainState:
    """The state of step 0, created on its devices."""
    self.watchdog.waits_for("the initial state", is_slow=True)
    create = jax.jit(
      functools.partial(init_state, self.model.network, self.optimizer),
      out_shardings=self.shardings,
    )
    state, frozen = create(self._initial_key), self._load_frozen()
    params = self._start_params(state.params, frozen)
    # A copy, because buffers shared with the EMA could not be donated.
    ema = jax.tree.map(jnp.copy, params)
    if self.has_reference:
      frozen[REFERENCE] = jax.tree.map(jnp.copy, params)
    return state.replace(params=params, ema=ema, frozen=frozen)

  @property
  def _initial_key(self) -> Key[Array, ""]:
    return key_for(root_key(self.config.seed), "initialisation")

  def _start_params(self, params: Any, frozen: dict[str, Any]) -> Any:
    """Initialised parameters with those that were trained before."""
    taken = []
    if self.pretrained is not None and not self.has_adapters:
      params = self.pretrained.load(params, self.shardings.params)
      taken = self.pretrained.taken
    if MASK_EMBEDDING in params and MASK_EMBEDDING not in taken:
      row = self.model.frozen_mask_embedding(frozen)
      place = self.shardings.params[MASK_EMBEDDING]
      params = {**params, MASK_EMBEDDING: jax.device_put(row, place)}
    return params

  def restore(self, step: int) -> TrainState:
    """The state of a checkpoint.

    Raises:
      ValueError: the checkpoint is damaged or of another model.
    """
    self.watchdog.waits_for(f"the checkpoint of step {step}", is_slow=True)
    abstract = abstract_state(
      self.model.network, self.optimizer, self.shardings
    )
    frozen = self._load_frozen()
    if self.has_reference:
      create = jax.jit(
        lambda key: self.model.network.init(key)["params"],
        out_shardings=self.shardings.params,
      )
      params = create(self._initial_key)
      frozen[REFERENCE] = self._start_params(params, frozen)
    items = self.store.restore(step, abstract.items())
    check_finite(f"the checkpoint of step {step}", items | {"opt_state": None})
    return TrainState.from_items(items).replace(frozen=frozen)

  def _load_frozen(self) -> dict[str, Any]:
    """Encoders, and the network below adapters, on their devices."""
    frozen = self.config.model.restore_encoders(
      self.model, self.encoders, self.mesh
    )
    if isinstance(self.pretrained, CaptionerWeights):
      frozen = self.pretrained.frozen(frozen, self.mesh)
    if self.has_adapters:
      base = self.model.network.network
      params = self.pretrained.load(
        base.abstract_variables()["params"], base.shardings(self.mesh)["params"]
      )
      frozen["network"] = {"base": params}
    return frozen

  @property
  def has_adapters(self) -> bool:
    """True if adapters are trained on a frozen network."""
    return isinstance(self.model.network, LoraNetwork)

  @property
  def has_reference(self) -> bool:
    """True if the state holds the weights of post-training's reference."""
    return self.config.post_training.needs_reference and not self.has_adapters
