"""What went wrong while training, as lines of a file in the workdir."""

import json
import logging
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from ddit_jax.input_error import InputError
from ddit_jax.train.guards import LossSpike, SkippedBatch

FILE_NAME = "incidents.jsonl"

_log = logging.getLogger(__name__)


class TooManySkipped(InputError):
  """Batch after batch gave no finite loss or gradient."""


class Incidents:
  """Left-out batches and rollbacks; process 0 writes them.

  Args:
    workdir: holds the file.
    record_ids: data position behind a batch -> its records by stream.
    max_skipped_in_row: more stop the run.
  """

  def __init__(
    self,
    workdir: pathlib.Path,
    record_ids: Callable[[Mapping], Mapping],
    *,
    max_skipped_in_row: int,
  ):
    self._path = workdir / FILE_NAME
    self._record_ids = record_ids
    self._max_in_row = max_skipped_in_row

  def add_skipped(self, batch: SkippedBatch) -> None:
    """Lists a left-out batch with its records.

    Raises:
      TooManySkipped: there were too many in a row.
    """
    self._append(
      "skipped_batch",
      batch.data_position,
      step=batch.step,
      losses={name: repr(value) for name, value in batch.losses.items()},
    )
    _log.warning(
      "step %d: a loss or gradient is not finite, so its batch was left out; "
      "its records are in %s",
      batch.step,
      self._path,
    )
    if batch.num_in_row > self._max_in_row:
      raise TooManySkipped(
        f"{batch.num_in_row} batches in a row up to step {batch.step} gave no "
        "finite loss or gradient and were left out, "
        f"train.max_skipped_in_row is {self._max_in_row}: look at "
        f"{self._path}; the checkpoints are intact: mend the data, or go on in "
        "another --workdir with init_from and a lower optimizer.learning_rate"
      )

  def add_rollback(self, spike: LossSpike, to_step: int) -> None:
    """Lists a return to an earlier checkpoint."""
    self._append(
      "rollback",
      spike.data_position,
      step=spike.step,
      to_step=to_step,
      cause=str(spike),
    )
    _log.warning(
      "%s: going back to step %d and past that batch", spike, to_step
    )

  def _append(self, event: str, data_position: Mapping, **fields: Any) -> None:
    if jax.process_index() != 0:
      return
    fields["records"] = self._record_ids(data_position)
    line = json.dumps({"event": event, "time": time.time(), **fields})
    with open(self._path, "a") as file:
      file.write(line + "\n")
