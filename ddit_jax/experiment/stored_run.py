"""One checkpoint of a run: its settings, its parts, its network's weights."""

import dataclasses

from jax.sharding import Mesh

from ddit_jax.checkpoint.store import CheckpointStore
from ddit_jax.config_files import to_settings
from ddit_jax.data.tokenizer import Tokenizer, from_files
from ddit_jax.experiment import build
from ddit_jax.experiment.converted import ConvertedWeights
from ddit_jax.experiment.dual_model import DualModel
from ddit_jax.experiment.frozen_base import FrozenBase
from ddit_jax.input_error import InputError
from ddit_jax.models.pure_module import Variables
from ddit_jax.settings import ExperimentSettings


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredRun:
  """A finished step of a store, with everything but arrays read.

  Attributes:
    store: where it lies.
    step: which one.
    settings: of the run.
    tokenizer: saved with it.
    encoders: what its frozen encoders come from, if it has any.
    model: the network between them.
  """

  store: CheckpointStore
  step: int
  settings: ExperimentSettings
  tokenizer: Tokenizer
  encoders: ConvertedWeights | None
  model: DualModel

  @classmethod
  def open(cls, store: CheckpointStore, step: int | None) -> "StoredRun":
    """Reads a step's plain files; the newest step's if None.

    Raises:
      ValueError: there is no such step, or it is damaged.
    """
    steps = store.steps()
    if not steps:
      raise InputError("there is no finished checkpoint: train first")
    step = steps[-1] if step is None else step
    if step not in steps:
      raise InputError(
        f"there is no checkpoint of step {step}; there are {steps}"
      )
    settings = to_settings(store.config(step), f"the checkpoint of step {step}")
    tokenizer = from_files(store.files(step))
    encoders = build.open_encoders(settings)
    return cls(
      store=store,
      step=step,
      settings=settings,
      tokenizer=tokenizer,
      encoders=encoders,
      model=build.build_model(settings, tokenizer, encoders),
    )

  def trained(self, weights: str, mesh: Mesh) -> Variables:
    """The variables of the network that a checkpoint holds.

    Args:
      weights: "ema" or "params".
      mesh: the devices.
    """
    wanted = self.model.abstract_variables(mesh)["network"]
    items = self.store.restore(
      self.step, {weights: wanted["params"], "constants": wanted["constants"]}
    )
    return {"params": items[weights], "constants": items["constants"]}

  def merged(self, weights: str, mesh: Mesh) -> tuple[DualModel, Variables]:
    """The model with the adapters merged, if it has any, and `trained` so.

    Raises:
      InputError: their frozen base is gone, or is another one.
    """
    trained = self.trained(weights, mesh)
    if not self.settings.lora.rank:
      return self.model, trained
    base = FrozenBase.open(self.settings, self.model.network)
    base.check_same(self.store.files(self.step))
    plain = dataclasses.replace(self.model, network=base.network.network)
    return plain, base.merged(trained, mesh)
