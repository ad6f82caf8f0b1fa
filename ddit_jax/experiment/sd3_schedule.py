"""The sampling grid that a folder of SD3 asks for."""

import json
import pathlib
from typing import Any

from ddit_jax.diffusion.flow_path import FlowPath

FILE_NAME = "scheduler_config.json"
# Options of diffusers' FlowMatchEulerDiscreteScheduler that change the grid
# or add noise; SD3 uses none of them.
_UNKNOWN_OPTIONS = (
  "invert_sigmas",
  "shift_terminal",
  "stochastic_sampling",
  "use_beta_sigmas",
  "use_dynamic_shifting",
  "use_exponential_sigmas",
  "use_karras_sigmas",
)


def sampling_path(folder: pathlib.Path) -> FlowPath:
  """SD3's flow path with the shift of a scheduler's folder.

  Args:
    folder: holds `scheduler_config.json`; SD3's own values stand in for it
      where the checkpoint came without.

  Raises:
    ValueError: the file is damaged, or asks for what is not computed.
  """
  path = folder / FILE_NAME
  if not path.is_file():
    return FlowPath()
  try:
    fields: dict[str, Any] = json.loads(path.read_bytes())
    shift = float(fields["shift"])
    num_train_steps = int(fields["num_train_timesteps"])
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(
      f"{path} does not tell shift and num_train_timesteps: {error!r}"
    ) from error
  used = [name for name in _UNKNOWN_OPTIONS if fields.get(name)]
  if used:
    raise ValueError(
      f"{path} asks for {', '.join(used)}, which SD3 does not use and is not "
      "computed: take SD3's own scheduler"
    )
  return FlowPath(shift=shift, num_train_steps=num_train_steps)
