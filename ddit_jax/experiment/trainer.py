"""What `ddit train` does: resume or start, then loop."""

import contextlib
import dataclasses
import errno
import functools
import logging
import math
import os
import re
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from ddit_jax.checkpoint.manifest import raise_on_all
from ddit_jax.checkpoint.store import CheckpointStore
from ddit_jax.config.load import from_dict
from ddit_jax.data.bad_records import TooManyBadRecords
from ddit_jax.data.prefetch import DeviceFeed, rows_of_process
from ddit_jax.data.text import caption_tokens
from ddit_jax.data.tokenizers import Tokenizer, from_files
from ddit_jax.errors import InputError, preparing
from ddit_jax.experiment.config import Config
from ddit_jax.experiment.data import make_tokenizer, open_data, open_sources
from ddit_jax.experiment.model import training_flops
from ddit_jax.experiment.pretrained import FrozenBase, StartingWeights
from ddit_jax.experiment.validation import Validator
from ddit_jax.experiment.workdir import RunFolder
from ddit_jax.files import check_free_space
from ddit_jax.models.module import (
  MASK_EMBEDDING,
  counts_table,
  parameter_counts,
)
from ddit_jax.monitor.metric_writer import MetricWriter, Silent
from ddit_jax.monitor.progress import ProgressBar
from ddit_jax.prng import key_for
from ddit_jax.sharding import rules
from ddit_jax.train.hooks import (
  Incidents,
  LossGuard,
  LossSpike,
  StepLog,
  TooManySkipped,
)
from ddit_jax.train.loop import Hook, Progress, StopSignal, run_loop
from ddit_jax.train.state import (
  TrainState,
  abstract_state,
  init_state,
  state_shardings,
)
from ddit_jax.train.step import TrainStep


class TrainingRun:
  """The running part of a `TrainingJob`.

  Args:
    job: its parts.
    stop: asks for an orderly end.
  """

  def __init__(self, job, stop: StopSignal):
    self._job, self._stop = job, stop
    self._train = job.settings.train
    self._incidents = Incidents(
      job.folder.path,
      job.stream.record_ids,
      max_skipped_in_row=self._train.max_skipped_in_row,
    )
    # One over all rollbacks, so that it remembers what losses were like.
    self._guard = LossGuard(
      self._incidents.add_skipped, spike_factor=self._train.spike_factor
    )

  def to_end(self, state: TrainState) -> bool:
    """Trains to the last step (True) or to a stop signal (False).

    Raises:
      InputError: the losses went wrong too often.
    """
    job, start = self._job, self._job.start or 0
    job.folder.write_config(job.settings)
    is_first = jax.process_index() == 0
    with contextlib.ExitStack() as stack:
      writer, bar = Silent(), Silent()
      if is_first:
        writer = stack.enter_context(MetricWriter(job.folder.path))
        bar = stack.enter_context(
          ProgressBar(total=self._train.num_steps, initial=start)
        )
      num_rollbacks = 0
      while True:
        writer.truncate_after(start)
        outcome = self._until_spike(start, state, writer, bar)
        # All that the loop held is free by now: there is room for another.
        del state
        job.store.wait()
        if not isinstance(outcome, LossSpike):
          return outcome
        self._check_may_turn_back(outcome, num_rollbacks)
        start, state = self._rolled_back(outcome)
        num_rollbacks += 1

  def _until_spike(
    self, start: int, state: TrainState, writer: Any, bar: Any
  ) -> LossSpike | bool:
    """Trains on; the spike at which it stopped, or what `to_end` returns."""
    job, last = self._job, None

    def watch(progress: Progress) -> None:
      nonlocal last
      last = progress
      self._guard(progress)

    def save(progress: Progress) -> None:
      self._guard.catch_up()
      job.save(progress)

    with contextlib.closing(DeviceFeed(job.stream, job.mesh)) as feed:
      hooks = [
        Hook(1, watch),
        Hook(self._train.log_every, StepLog(job, writer, bar, feed, start)),
        Hook(
          self._train.validate_every,
          Validator(job, writer),
          is_needed_at_stop=False,
        ),
        Hook(self._train.checkpoint_every, save),
      ]
      try:
        run_loop(
          job.step_function(state),
          state,
          feed,
          start=start,
          num_steps=self._train.num_steps,
          hooks=hooks,
          is_stop_asked=self._stop.is_asked,
        )
      except TooManySkipped:
        # What was learnt since the last checkpoint is sound.
        job.save(last)
        job.store.wait()
        raise
      except LossSpike as spike:
        # Its traceback would keep the whole state.
        return spike.with_traceback(None)
    is_at_end = last is None or last.step == self._train.num_steps
    return is_at_end and not self._stop.was_asked

  def _check_may_turn_back(self, spike: LossSpike, num_rollbacks: int) -> None:
    job = self._job
    step = job.store.latest_step()
    if step is None:
      raise InputError(
        f"{spike}, and there is no checkpoint yet to go back to: start in "
        "another --workdir with a lower optimizer.learning_rate or "
        "train.checkpoint_every"
      )
    if num_rollbacks == self._train.max_rollbacks:
      raise InputError(
        f"{spike}; this is one more than train.max_rollbacks = "
        f"{self._train.max_rollbacks}: go on in another --workdir with "
        f"init_from={job.store.folder}/{step} and a lower "
        "optimizer.learning_rate"
      )

  def _rolled_back(self, spike: LossSpike) -> tuple[int, TrainState]:
    """(step, state) of the newest checkpoint; the data goes on behind it."""
    job = self._job
    step = job.store.latest_step()
    self._incidents.add_rollback(spike, step)
    self._guard.forget_unread()
    job.go_on_reading(spike.data_position)
    return step, job.restored_state(step).replace(frozen=job.frozen())


_TENSORSTORE_ERROR = re.compile(r"os_error_code='(\d+)'")
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def check_room(job) -> None:
  """Raises InputError if not one checkpoint fits on the workdir's disk."""
  check_free_space(
    job.folder.path,
    checkpoint_bytes(job),
    remedy="choose another --workdir",
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


BEST_METRIC = "validation/total"

_log = logging.getLogger(__name__)


def train(settings: Config, workdir: str) -> int:
  """What `ddit train` does with one stage; the exit code, 0.

  Raises:
    InputError: see `train_to_end`.
  """
  train_to_end(settings, workdir)
  return 0


def train_to_end(
  settings: Config, workdir: str, *, steps_before: int = 0
) -> bool:
  """Trains in `workdir` until the last step or a stop signal.

  Args:
    settings: of the run.
    workdir: its folder.
    steps_before: of earlier stages in this process; processes agree on a step
      to stop at, which must only ever grow.

  Returns:
    True if the last step is done, False after a stop signal.

  Raises:
    InputError: settings, devices or folder do not fit, before any compute; or
      the data, the losses or the disk made the run stop.
  """
  with contextlib.ExitStack() as stack:
    with preparing():
      folder = stack.enter_context(RunFolder(workdir))
      store = stack.enter_context(_open_store(folder, settings))
      job = _prepared(settings, folder, store)
      restored = None if job.start is None else job.restored()
    job.report()
    stack.enter_context(jax.set_mesh(job.mesh))
    stop = stack.enter_context(StopSignal(steps_before=steps_before))
    stack.enter_context(stopping_clearly(store))
    frozen = job.frozen()
    state = job.fresh(frozen) if restored is None else restored
    state = state.replace(frozen=frozen)
    # Handed over: nothing here keeps arrays that the run gives away.
    del restored, frozen
    return TrainingRun(job, stop).to_end(state)


def _prepared(
  settings: Config, folder: RunFolder, store: CheckpointStore
) -> "TrainingJob":
  """The job's parts; what one process cannot open, no process starts."""
  job, error = None, None
  try:
    job = TrainingJob(settings, folder, store)
    if jax.process_index() == 0:
      check_room(job)
  except (ValueError, OSError) as caught:
    error = caught
  raise_on_all(error, doing="preparing the run")
  return job


def _open_store(folder: RunFolder, settings: Config):
  return CheckpointStore(
    folder.checkpoints,
    keep_last=settings.train.keep_last,
    best_metric=BEST_METRIC,
  )


class TrainingJob:
  """All parts of one run, built and checked; `TrainingRun` runs them."""

  def __init__(
    self,
    settings: Config,
    folder: RunFolder,
    store: CheckpointStore,
  ):
    self.settings, self.folder, self.store = settings, folder, store
    self.mesh = settings.make_mesh()
    self.start = store.latest_step()
    self.encoders = settings.model.open_encoders()
    self.sources = open_sources(settings.data)
    self.tokenizer = self._tokenizer()
    self.model = settings.make_model(self.tokenizer, self.encoders)
    self.network = self.model.network
    self.base = self._frozen_base()
    self.start_weights = self._start_weights()
    self.optimizer = settings.optimizer.make(settings.train.num_steps)
    self.null_tokens = caption_tokens(
      self.tokenizer, "", settings.data.text_to_image.text_length
    )
    self.data = open_data(settings, self.tokenizer, self.sources, folder.path)
    self.rows_of = functools.partial(rows_of_process, self.mesh)
    self.stream = self.data.training_stream(self.rows_of)
    self.shardings = state_shardings(self.network, self.optimizer, self.mesh)
    self._validation: tuple[int, dict[str, float]] = (0, {})
    self._flops: dict[bool, dict[str, int]] = {}

  def fresh(self, frozen: dict[str, Any]) -> TrainState:
    """A newly initialised state, created on its devices."""
    create = jax.jit(
      functools.partial(init_state, self.network, self.optimizer),
      out_shardings=self.shardings,
    )
    root = jax.random.key(self.settings.seed)
    state = create(key_for(root, "initialisation"))
    params = state.params
    if self.start_weights is not None:
      params = self.start_weights.load(params, self.shardings.params)
    taken = () if self.start_weights is None else self.start_weights.taken
    if MASK_EMBEDDING in params and MASK_EMBEDDING not in taken:
      row = self.model.frozen_mask_embedding(frozen)
      layout = self.shardings.params[MASK_EMBEDDING]
      params = {**params, MASK_EMBEDDING: jax.device_put(row, layout)}
    # A copy: an aliased average would keep the buffers from being donated.
    return state.replace(params=params, ema=jax.tree.map(jnp.copy, params))

  def frozen(self) -> dict[str, Any]:
    """All frozen weights, of encoders and under adapters, on their devices."""
    frozen = self.settings.model.restore_encoders(
      self.model, self.encoders, self.mesh
    )
    if self.base is not None:
      frozen["network"] = self.base.restore(self.mesh)
    return frozen

  def restored(self) -> TrainState:
    """The newest checkpoint's state; the data stream goes where it was.

    Raises:
      ValueError: it is damaged, of another model, or beyond the last step.
    """
    num_steps = self.settings.train.num_steps
    if self.start > num_steps:
      raise ValueError(
        f"{self.folder.path} is at step {self.start}, beyond train.num_steps = "
        f"{num_steps}: raise it or choose another --workdir"
      )
    state = self.restored_state(self.start)
    self.stream.seek(self.store.data_position(self.start))
    return state

  def go_on_reading(self, position: dict[str, Any]) -> None:
    """Opens the data stream anew, at a position."""
    self.stream = self.data.training_stream(self.rows_of)
    self.stream.seek(position)

  def restored_state(self, step: int) -> TrainState:
    """The state of a finished checkpoint, without what is frozen."""
    abstract = abstract_state(self.network, self.optimizer, self.shardings)
    return TrainState.from_items(self.store.restore(step, abstract.items()))

  def save(self, progress: Progress) -> None:
    """Starts a checkpoint of this step; the loop goes on meanwhile."""
    step, losses = self._validation
    self.store.save(
      progress.step,
      progress.state.items(),
      data_position=progress.data_position,
      config=dataclasses.asdict(self.settings),
      files=self._files(),
      metrics=losses if step == progress.step else None,
    )

  def note_validation(self, step: int, losses: dict[str, float]) -> None:
    """Keeps validation losses for the checkpoint of the same step."""
    self._validation = (step, losses)

  def train_step(self, is_mask_embedding_trained: bool = True) -> TrainStep:
    """The pure step of this job's settings."""
    return TrainStep(
      model=self.model,
      loss=self.settings.loss,
      optimizer=self.settings.optimizer,
      train=self.settings.train,
      seed=self.settings.seed,
      is_mask_embedding_trained=is_mask_embedding_trained,
    )

  def step_function(self, state: TrainState):
    """The jitted, donating (step, state, batch) -> (state, metrics)."""
    layout = self.shardings.replace(
      frozen=jax.tree.map(lambda array: array.sharding, state.frozen)
    )
    jitted = {
      is_trained: jax.jit(
        self.train_step(is_trained),
        donate_argnums=0,
        out_shardings=(layout, None),
      )
      for is_trained in (True, False)
    }

    def run_step(step, state, batch):
      if not self._flops:
        self._count_flops(batch)
      # Two programs, as the frozen one never goes back through T5.
      run = jitted[self._is_mask_embedding_trained(step)]
      return run(state, batch, self.null_tokens)

    return run_step

  def step_flops(self, step: int) -> dict[str, int]:
    """Model FLOPs of a step by part, see `training_flops`."""
    return self._flops[self._is_mask_embedding_trained(step)]

  def _count_flops(self, batch) -> None:
    has_row = self.settings.model.has_mask_embedding and self.base is None
    self._flops = {
      is_trained: training_flops(
        self.model,
        batch,
        is_mask_embedding_trained=has_row and is_trained,
        is_network_frozen=self.base is not None,
      )
      for is_trained in (True, False)
    }

  def _is_mask_embedding_trained(self, step: int) -> bool:
    last = self.settings.train.mask_embedding_steps
    return last == -1 or step <= last

  def _start_weights(self) -> StartingWeights | None:
    settings = self.settings
    is_new = self.start is None and self.base is None
    if not settings.init_from or not is_new:
      return None
    wanted = self.network.abstract_variables()["params"]
    place = self.folder.resolved(settings.init_from)
    return StartingWeights.open(place, settings.init_weights, wanted)

  def _frozen_base(self) -> FrozenBase | None:
    """What stays frozen under adapters, the same at every start."""
    if not self.settings.lora.rank:
      return None
    place = self.folder.resolved(self.settings.init_from)
    base = FrozenBase.open(place, self.settings.init_weights, self.network)
    if self.start is not None:
      base.check_same(self.store.files(self.start))
    return base

  def _files(self) -> dict[str, bytes]:
    """What a checkpoint holds besides arrays and settings."""
    files = self.tokenizer.files()
    return files if self.base is None else files | self.base.files()

  def _tokenizer(self) -> Tokenizer:
    if self.start is None:
      return make_tokenizer(self.settings.data, self.encoders, self.sources)
    source = f"the run in {self.folder.path}"
    saved = from_dict(Config, self.store.config(self.start), source)
    self.folder.check_same_run(self.settings, saved, self._first_open_step())
    return from_files(self.store.files(self.start))

  def _first_open_step(self) -> int:
    """The first step whose batch is not read yet; after rollbacks, later."""
    streams = self.settings.data.streams_on()
    read = [
      -(-number // streams[name].batch_size)
      for name, place in self.store.data_position(self.start).items()
      for number in place.values()
      if name in streams
    ]
    return max([self.start, *read])

  def report(self) -> None:
    """Says what is trained, on which devices, and where it goes on."""
    rows = self.network.placements(self.mesh)
    counts = {
      name: parameter_counts(part.abstract_variables())
      for name, part in self.model.parts().items()
    }
    _log.info(
      "%s: %d parameters on %d devices %s\n%s\n%s",
      self.settings.name,
      self.network.num_parameters(),
      self.mesh.size,
      dict(self.mesh.shape),
      counts_table(counts),
      rules.report(rows),
    )
    if self.base is not None:
      _log.info("%s", self.base.report())
    _log.info("%s", self.data.report())
    path, last = self.folder.path, self.settings.train.num_steps
    if self.start is None:
      _log.info("starting in %s", path)
      if self.start_weights is not None:
        _log.info("%s", self.start_weights.report())
    elif self.start < last:
      _log.info("resuming %s at step %d of %d", path, self.start, last)
    else:
      _log.info("%s is complete: step %d is the last", path, last)
