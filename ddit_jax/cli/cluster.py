"""How a process finds the other processes of its job."""

import argparse
import math
import os
import sys
import threading

from ddit_jax.cli.flags import Flag
from ddit_jax.errors import InputError, one_line

_SECONDS_TO_JOIN = 300
# After `processes.leaving_together`, which names the silent process.
_SECONDS_UNTIL_JAX_ENDS = 10

FLAGS = {
  "distributed": Flag(
    "join the other processes of the job that SLURM, GKE, a Cloud TPU or Open "
    "MPI started",
    bool,
    False,
  ),
  "coordinator": Flag(
    "HOST:PORT of process 0, with --num_processes and --process_id: join the "
    "other processes where no cluster says who they are"
  ),
  "num_processes": Flag("processes of the job, with --coordinator", int),
  "process_id": Flag("number of this process, from 0, with --coordinator", int),
}
STOP_CODE = Flag(
  "exit code of a run that a signal stopped before its last step", int, 0
)
_EXPLICIT = ("coordinator", "num_processes", "process_id")


def check_stop_code(values: argparse.Namespace) -> None:
  """Raises InputError unless a process can end with the code of `STOP_CODE`."""
  if not 0 <= values.stop_code <= 255:
    raise InputError(f"--stop_code must be in 0 ... 255: {values.stop_code}")


def join(
  values: argparse.Namespace, *, peer_timeout_seconds: float = 40.0
) -> None:
  """Joins the other processes of a job, if the flags ask for it.

  A job whose processes do not find each other in time ends this process with
  exit code 1: a launcher may try again, unlike after bad input.

  Args:
    values: of `FLAGS`.
    peer_timeout_seconds: as `processes.leaving_together` takes it. JAX itself
      ends all processes 10 seconds later.

  Raises:
    InputError: no cluster says who the processes are, or the flags that say so
      do not fit together.
  """
  explicit = _explicit_job(values)
  if not explicit and not values.distributed:
    return
  import jax

  # JAX itself would end with a page of C++ some time later.
  give_up = threading.Timer(_SECONDS_TO_JOIN, _give_up)
  give_up.daemon = True
  give_up.start()
  try:
    jax.distributed.initialize(
      initialization_timeout=_SECONDS_TO_JOIN + 60,
      heartbeat_timeout_seconds=math.ceil(peer_timeout_seconds)
      + _SECONDS_UNTIL_JAX_ENDS,
      **explicit,
    )
  except ValueError as error:
    raise InputError(
      f"--distributed found no cluster job to join ({error}): leave it out on "
      "one machine, start through the cluster's launcher, or give "
      "--coordinator, --num_processes and --process_id"
    ) from error
  except RuntimeError as error:
    reason = one_line(error)
    sys.exit(f"ddit: the processes of the job did not meet: {reason}")
  finally:
    give_up.cancel()


def _give_up() -> None:
  print(
    "ddit: this process waited for the others of the job for "
    f"{_SECONDS_TO_JOIN} seconds, and not all came: look at their output",
    file=sys.stderr,
    flush=True,
  )
  os._exit(1)


def _explicit_job(values: argparse.Namespace) -> dict[str, str | int]:
  """Arguments of `jax.distributed.initialize`; none without the flags."""
  given = [name for name in _EXPLICIT if getattr(values, name) is not None]
  if not given:
    return {}
  if missing := [name for name in _EXPLICIT if name not in given]:
    raise InputError(f"--{given[0]} needs --{' and --'.join(missing)}")
  host, _, port = values.coordinator.rpartition(":")
  if not host or not port.isdecimal() or not 0 < int(port) < 65536:
    raise InputError(
      f"--coordinator must be HOST:PORT, got {values.coordinator!r}"
    )
  if not 0 <= values.process_id < values.num_processes:
    raise InputError(
      f"--process_id must be in 0 ... num_processes - 1, got "
      f"{values.process_id} of {values.num_processes}"
    )
  return {
    "coordinator_address": values.coordinator,
    "num_processes": values.num_processes,
    "process_id": values.process_id,
    # Nothing is left to detect; SLURM would hide all GPUs but one.
    "cluster_detection_method": "deactivate",
  }
