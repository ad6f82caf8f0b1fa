"""A frozen network under adapters, with the face of a network."""

import dataclasses

import jax

from ddit_jax.lora.adapters import (
  LoraConfig,
  init_adapters,
  merge,
  target_kernels,
)
from ddit_jax.models.mmdit import Prediction
from ddit_jax.models.network import Network
from ddit_jax.models.pure_module import Variables


# A dataclass again, so that equality, by which jit finds compiled functions,
# sees the adapters' settings too.
@dataclasses.dataclass(frozen=True, kw_only=True, init=False)
class LoraNetwork(Network):
  """A `Network` whose parameters are adapters alone.

  Its variables are {"params": adapters, "constants": the position table};
  `apply` also takes {"base": the frozen parameters}, which it neither creates
  nor counts.

  Attributes:
    network: what is adapted.
    lora: rank, scale and targets.
  """

  network: Network
  lora: LoraConfig

  def __init__(self, network: Network, lora: LoraConfig):
    """Raises ValueError if the rank is larger than a targeted kernel."""
    # The parent's dataclass is frozen.
    object.__setattr__(self, "network", network)
    object.__setattr__(self, "lora", lora)
    super().__init__(
      network.config,
      network.execution,
      parameter_dtype=network.parameter_dtype,
      has_mask_embedding=network.has_mask_embedding,
    )
    # Outside of any trace, for a plain message.
    target_kernels(network._abstract_boxed()["params"], lora)

  def apply(self, variables: Variables, *inputs, **options) -> Prediction:
    """As the network with the adapters merged; see `Network.apply`."""
    return self.network.apply(self.merged(variables), *inputs, **options)

  def text_logits(self, variables: Variables, text_hidden) -> jax.Array:
    """The frozen text head; see `Network.text_logits`."""
    frozen = {"params": variables["base"]}
    return self.network.text_logits(frozen, text_hidden)

  def mask_embedding(self, variables: Variables) -> jax.Array:
    """The frozen row; see `Network.mask_embedding`."""
    return self.network.mask_embedding({"params": variables["base"]})

  def merged(self, variables: Variables) -> Variables:
    """Variables of the network itself, equal to these."""
    params = merge(variables["base"], variables["params"], self.lora.scale)
    return {"params": params, "constants": variables["constants"]}

  def _boxed_init(self, key: jax.Array) -> Variables:
    base = super()._boxed_init(key)
    kernels = target_kernels(base["params"], self.lora)
    adapters = init_adapters(key, kernels, self.lora)
    return {"params": adapters, "constants": base["constants"]}
