"""Rematerialisation of a block by name: what the backward pass recomputes.

A block names its matrix products and its attention with `checkpoint_name`. Per
token, in units of the width, they are: the attention's result 1, the output
projection 1, the MLP's hidden layer 4 and its output 1, and the queries, keys
and values 3; the modulation is one vector of 6 per example.
"""

from collections.abc import Callable
from typing import Literal

import jax

from ddit_jax.errors import InputError, check_known
from ddit_jax.models.attention import ATTENTION
from ddit_jax.models.joint_block import SAVABLE

Remat = Literal[
  "none", "full", "dots", "save_attention", "save_all_but_qkv", "chip"
]

_SAVED_NAMES = {"save_attention": (ATTENTION,), "save_all_but_qkv": SAVABLE}


def offloaded_names(remat: Remat, offload: str) -> tuple[str, ...]:
  """The names in `Execution.offload`.

  Raises:
    ValueError: `remat` does not save one of them.
  """
  names = tuple(offload.split(",")) if offload else ()
  if names and remat not in _SAVED_NAMES:
    raise ValueError(
      f"offload={offload!r} needs a remat that saves tensors by name, not "
      f"{remat!r}: set remat to save_attention or save_all_but_qkv"
    )
  check_known(
    names, _SAVED_NAMES.get(remat, ()), what=f"offload: remat={remat} saves no"
  )
  return names


def remat_policy(remat: Remat, offload: str) -> Callable | None:
  """What `jax.checkpoint` saves of a block; None if it saves everything.

  Args:
    remat: see `Execution`.
    offload: see `Execution`.

  Raises:
    InputError: the devices cannot reach the host's memory.
  """
  policies = jax.checkpoint_policies
  if remat == "none":
    return None
  if remat in ("full", "chip"):
    # Of a chip that is not known, the one that takes the least memory.
    return policies.nothing_saveable
  if remat == "dots":
    return policies.dots_with_no_batch_dims_saveable
  names = offloaded_names(remat, offload)
  kept = [name for name in _SAVED_NAMES[remat] if name not in names]
  if not names:
    return policies.save_only_these_names(*kept)
  _check_can_offload()
  return policies.save_and_offload_only_these_names(
    names_which_can_be_saved=kept,
    names_which_can_be_offloaded=list(names),
    offload_src="device",
    offload_dst="pinned_host",
  )


def _check_can_offload() -> None:
  device = jax.devices()[0]
  kinds = {memory.kind for memory in device.addressable_memories()}
  if "pinned_host" not in kinds:
    raise InputError(
      f"model.execution.offload needs devices that reach the host's memory; "
      f"{device.platform} has only {', '.join(sorted(kinds))}: set it to ''"
    )
