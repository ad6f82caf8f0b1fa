"""Turns what can stop a run midway into one clear line."""

import contextlib
import errno
import math
import os
import re
import shutil
from collections.abc import Iterator

import jax

from ddit_jax.checkpoint.store import CheckpointStore
from ddit_jax.data.read_log import TooManyBadRecords
from ddit_jax.input_error import InputError
from ddit_jax.train.state import abstract_state

_TENSORSTORE_ERROR = re.compile(r"os_error_code='(\d+)'")
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def check_room(job) -> None:
  """Raises InputError if not one checkpoint fits on the workdir's disk."""
  needed = checkpoint_bytes(job)
  free = shutil.disk_usage(job.folder.path).free
  if free < needed:
    raise InputError(
      f"the disk of {job.folder.path} has {free / 1e9:.1f} GB free and one "
      f"checkpoint takes {needed / 1e9:.1f} GB: make room or choose another "
      "--workdir"
    )


def checkpoint_bytes(job) -> int:
  """Size of the arrays that a checkpoint holds."""
  state = abstract_state(job.network, job.optimizer)
  return sum(
    math.prod(leaf.shape) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(state.items())
  )


@contextlib.contextmanager
def stopping_clearly(store: CheckpointStore) -> Iterator[None]:
  """Says in one line why training stopped, and from where it can go on."""
  try:
    yield
  except TooManyBadRecords as error:
    _leave_alone(store)
    raise InputError(str(error)) from error
  except Exception as error:
    _leave_alone(store)
    cause = _disk_error(error)
    if cause is None:
      raise
    if jax.process_count() == 1:
      # The save under way may be the one that fails.
      with contextlib.suppress(Exception):
        store.wait()
    step = store.latest_step()
    left = (
      "no checkpoint was finished"
      if step is None
      else f"the checkpoint of step {step} is intact"
    )
    raise InputError(
      f"the workdir cannot be written any more ({cause.strerror}); {left}: "
      "make room and give the same command again"
    ) from error


def _leave_alone(store: CheckpointStore) -> None:
  """One of several processes leaves: it must not wait for the others."""
  if jax.process_count() > 1:
    store.abandon()


def _disk_error(error: BaseException | None) -> OSError | None:
  """The full or read-only disk among an error's causes, if it is one."""
  while error is not None:
    number = getattr(error, "errno", None)
    # TensorStore has no errno, it writes the number into its message.
    if found := _TENSORSTORE_ERROR.search(str(error)):
      number = int(found[1])
    if number in _DISK_ERRORS:
      return OSError(number, os.strerror(number))
    error = error.__cause__ or error.__context__
  return None
