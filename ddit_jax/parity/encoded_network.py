"""The MM-DiT behind its frozen text encoder, called with token ids."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from ddit_jax.models.mmdit import Prediction
from ddit_jax.models.network import Network
from ddit_jax.models.pure_module import PureModule


@dataclasses.dataclass(frozen=True)
class EncodedNetwork:
  """What losses, samplers and the training step take for a network.

  Its variables are {"params": the network's, "constants": all that is not
  trained, the encoder's weights included}; see `join`.

  Attributes:
    network: the MM-DiT.
    encoder: the text encoder.
  """

  network: Network
  encoder: PureModule

  def join(
    self, network: Mapping[str, Any], encoder: Mapping[str, Any]
  ) -> dict[str, Any]:
    """Both modules' variables as this one's."""
    constants = {"network": network["constants"], "encoder": encoder}
    return {"params": network["params"], "constants": constants}

  def apply(
    self, variables: Mapping[str, Any], latents, tokens: jax.Array, sigma
  ) -> Prediction:
    """Encodes the tokens, then predicts velocity and logits."""
    constants = variables["constants"]
    features = self.encoder.apply(constants["encoder"], tokens)
    return self.network.apply(
      {"params": variables["params"], "constants": constants["network"]},
      latents,
      features,
      sigma,
    )
