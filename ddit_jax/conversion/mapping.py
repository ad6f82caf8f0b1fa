"""The one table: our arrays beside the tensors of every layout.

Only data, read in both directions. A naming is one way to call the tensors of
one component; `rows` says how to read it.
"""

import dataclasses

from ddit_jax.conversion.encoder_rows import (
  ENCODER_FRESH,
  ENCODER_LEFT_OVER,
  ENCODER_NAMINGS,
)
from ddit_jax.conversion.network_rows import (
  NETWORK_FRESH,
  NETWORK_LEFT_OVER,
  NETWORK_NAMINGS,
)
from ddit_jax.conversion.rows import FreshRow, LeftOver, Section

# Naming -> every tensor of a component.
NAMINGS: dict[str, tuple[Section, ...]] = NETWORK_NAMINGS | ENCODER_NAMINGS
# Naming -> what our arrays need and it has no tensors for.
FRESH: dict[str, tuple[FreshRow, ...]] = NETWORK_FRESH | ENCODER_FRESH
# Naming -> tensors that may be there and that nothing takes.
LEFT_OVER: dict[str, tuple[LeftOver, ...]] = (
  NETWORK_LEFT_OVER | ENCODER_LEFT_OVER
)
# SD3's naming of the network -> the same read into D-DiT.
INTO_DDIT: dict[str, str] = {
  "sd3_network": "sd3_network_into_ddit",
  "single_network": "single_network_into_ddit",
}

COMPONENTS = ("network", "text_encoder", "vae", "clip_l", "clip_g")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
  """Where one way of publishing keeps each component.

  Attributes:
    letter: the short name on the command line.
    title: what to call it in messages.
    places: component -> folder, or prefix of its names in the single file.
    namings: component -> naming of its tensors.
    plain_folders: our folder of files that are only copied -> theirs.
  """

  letter: str
  title: str
  places: dict[str, str]
  namings: dict[str, str]
  plain_folders: dict[str, str]


LAYOUTS: dict[str, Layout] = {
  "sd3_folder": Layout(
    letter="a",
    title="diffusers folder of SD3",
    places={
      "network": "transformer",
      "text_encoder": "text_encoder_3",
      "vae": "vae",
      "clip_l": "text_encoder",
      "clip_g": "text_encoder_2",
    },
    namings={
      "network": "sd3_network",
      "text_encoder": "t5",
      "vae": "folder_vae",
      "clip_l": "clip",
      "clip_g": "clip",
    },
    plain_folders={
      "tokenizer": "tokenizer_3",
      "tokenizer_clip_l": "tokenizer",
      "tokenizer_clip_g": "tokenizer_2",
      "scheduler": "scheduler",
    },
  ),
  "single_file": Layout(
    letter="b",
    title="Stability's single file of SD3",
    places={
      "network": "model.diffusion_model.",
      "text_encoder": "text_encoders.t5xxl.",
      "vae": "first_stage_model.",
      "clip_l": "text_encoders.clip_l.",
      "clip_g": "text_encoders.clip_g.",
    },
    namings={
      "network": "single_network",
      "text_encoder": "t5",
      "vae": "single_vae",
      "clip_l": "clip",
      "clip_g": "clip",
    },
    plain_folders={},
  ),
  "ddit_folder": Layout(
    letter="c",
    title="D-DiT folder",
    places={
      "network": "transformer",
      "text_encoder": "text_encoder",
      "vae": "vae",
    },
    namings={
      "network": "ddit_network",
      "text_encoder": "t5",
      "vae": "folder_vae",
    },
    plain_folders={"tokenizer": "tokenizer", "scheduler": "scheduler"},
  ),
}
# The single file's text encoders have this below their prefix; their stray
# numbers do not.
SINGLE_FILE_ENCODER_PREFIX = "transformer."
