"""How the mesh splits the weights of the frozen encoders."""

import dataclasses
from typing import Literal

from ddit_jax.errors import check_choices
from ddit_jax.planning.chips import is_roomy
from ddit_jax.sharding.rules import MESH_AXES


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderPlacement:
  """How the mesh splits the weights of the frozen encoders.

  Attributes:
    text_encoder: "fsdp" splits T5 like the network and gathers it at each use;
      "tensor" splits it along `mesh.tensor` alone, so that nothing is gathered;
      "replicated" keeps all of it on every device. "chip" replicates on devices
      of 64 GiB and more when training, else splits along "fsdp".
    vae: "fsdp" or "replicated"; nothing of it is split along `mesh.tensor`.
  """

  text_encoder: Literal["chip", "fsdp", "tensor", "replicated"] = "chip"
  vae: Literal["fsdp", "replicated"] = "fsdp"

  def __post_init__(self):
    check_choices(self)

  def on(self, device_kind: str) -> "EncoderPlacement":
    """The same with what "chip" means spelled out."""
    if self.text_encoder != "chip":
      return self
    choice = "replicated" if is_roomy(device_kind) else "fsdp"
    return dataclasses.replace(self, text_encoder=choice)

  def axes(self, name: str) -> tuple[str, ...]:
    """The mesh axes that may split the part of this name."""
    placement = getattr(self, name)
    return {"fsdp": MESH_AXES, "tensor": ("tensor",), "replicated": ()}[
      placement
    ]
