"""Tables of where the weights of the full-size models lie, on four meshes.

`python -m tests.sharding.full_size` writes the golden files anew.
"""

import functools
import pathlib

from jax.sharding import AbstractMesh, AxisType

from ddit_jax.encoders.t5 import T5_SIZES, t5_encoder
from ddit_jax.encoders.vae import AutoencoderConfig, autoencoder
from ddit_jax.experiment.encoder_placement import EncoderPlacement
from ddit_jax.models.config import size
from ddit_jax.models.module import Network
from ddit_jax.sharding.mesh import MeshConfig
from ddit_jax.sharding.placement import (
  Placement,
  placement_summary,
  placement_table,
  placements,
)
from ddit_jax.sharding.rules import MESH_AXES

MESHES = {
  "fsdp_64": {"fsdp": 64},
  "replica_8_fsdp_8": {"replica": 8, "fsdp": 8},
  "fsdp_16_tensor_4": {"fsdp": 16, "tensor": 4},
  "fsdp_8_context_4_tensor_2": {"fsdp": 8, "context": 4, "tensor": 2},
}
_FSDP = EncoderPlacement(text_encoder="fsdp")
# T5 beside a tensor axis of four.
ENCODERS = {
  "fsdp_16_tensor_4": EncoderPlacement(text_encoder="tensor", vae="replicated")
}


def mesh(**sizes: int) -> AbstractMesh:
  return AbstractMesh(
    tuple(sizes.get(name, 1) for name in MESH_AXES),
    MESH_AXES,
    axis_types=(AxisType.Auto,) * len(MESH_AXES),
  )


@functools.cache
def modules():
  """The abstract variables of each part, with their logical axes."""
  half = {"dtype": "bfloat16", "parameter_dtype": "bfloat16"}
  parts = {
    "network": Network(size("sd3_medium"), has_mask_embedding=True),
    "text_encoder": t5_encoder(T5_SIZES["xxl"], **half),
    "vae": autoencoder(AutoencoderConfig(), **half),
  }
  return {name: part._abstract_boxed for name, part in parts.items()}


def table(name: str) -> str:
  """All parts: summary, then a line per array."""
  on, places = mesh(**MESHES[name]), ENCODERS.get(name, _FSDP)
  lines = [f"{dict(on.shape)}"]
  for part, boxed in modules().items():
    axes = MESH_AXES if part == "network" else places.axes(part)
    smallest = MeshConfig.min_split_bytes
    placement = Placement(axes=axes, min_split_bytes=smallest)
    rows = placements(boxed, on, placement)
    lines += ["", f"{part}: {placement_summary(rows)}", placement_table(rows)]
  return "\n".join(lines) + "\n"


def golden(name: str) -> pathlib.Path:
  return pathlib.Path(__file__).parent / "golden" / f"{name}.txt"


if __name__ == "__main__":
  for name in MESHES:
    golden(name).parent.mkdir(exist_ok=True)
    golden(name).write_text(table(name))
