"""`ddit train`: build the parts, loop, roll back."""

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int

from ddit_jax.batch import DualBatch
from ddit_jax.checkpoint.manifest import raising_on_all
from ddit_jax.checkpoint.store import CheckpointStore
from ddit_jax.config.load import as_json
from ddit_jax.data.loader import DualLoader
from ddit_jax.data.prefetch import DeviceFeed, rows_of_process, to_mesh
from ddit_jax.data.text import caption_tokens, instructions_file
from ddit_jax.data.tokenizers import Tokenizer
from ddit_jax.data.training_data import TrainingData
from ddit_jax.errors import InputError, preparing
from ddit_jax.experiment import processes, source_record
from ddit_jax.experiment.captioner import CaptionerModel
from ddit_jax.experiment.captioner_weights import (
  CaptionerWeights,
  start_weights,
)
from ddit_jax.experiment.compiled_step import CompiledStep
from ddit_jax.experiment.config import Config
from ddit_jax.experiment.data import open_all_sources, open_data
from ddit_jax.experiment.model import DualModel
from ddit_jax.experiment.pretrained import PretrainedParams
from ddit_jax.experiment.state_source import StateSource
from ddit_jax.experiment.step_log import step_log
from ddit_jax.experiment.validation import Validator, sample_grid
from ddit_jax.experiment.vocabulary import new_tokenizer, resumed_tokenizer
from ddit_jax.experiment.workdir import RunFolder, explaining_stops
from ddit_jax.files import check_free_space
from ddit_jax.monitor.metric_writer import MetricWriter
from ddit_jax.monitor.progress import progress_bar
from ddit_jax.monitor.start_times import StartTimes, seconds_since_begin
from ddit_jax.planning.compiler_options import check_compiler_knows
from ddit_jax.post_training.held_out import HeldOutRewards
from ddit_jax.post_training.rollouts import Rollouts
from ddit_jax.train import loop
from ddit_jax.train.hooks import LossGuard, LossSpike, StepLog, TooManySkipped
from ddit_jax.train.profile import ProfileWindow, parse_window
from ddit_jax.train.state import (
  TrainState,
  abstract_state,
  state_shardings,
)
from ddit_jax.train.watchdog import NO_WATCHDOG, Watchdog

_log = logging.getLogger(__name__)
_IMPORT_SECONDS = seconds_since_begin()
# Scalars by name; only the first process may have some.
Evaluation = Callable[[loop.Progress], dict[str, float]]


def train(
  config: Config,
  workdir: str,
  *,
  steps_before: int = 0,
  evaluation_of: "Callable[[Trainer], Evaluation] | None" = None,
) -> bool:
  """Trains in `workdir` until the last step or a stop signal.

  Args:
    config: of the run.
    workdir: its folder; an existing run is continued.
    steps_before: steps of earlier stages in this process, see `StopSignal`.
    evaluation_of: makes what runs `benchmarks.at_validation`, if that names
      tasks: `pipelines.validation_tasks`.

  Returns:
    True if the last step is done, False after a stop signal.

  Raises:
    InputError: config, devices or folder are incompatible, before any compute;
      or the data, the losses or the disk stopped the run.
  """
  times = StartTimes(0.0 if steps_before else _IMPORT_SECONDS)
  with contextlib.ExitStack() as stack:
    with preparing():
      processes.check_same_settings(
        dataclasses.asdict(config) | {"workdir": workdir}
      )
      folder = stack.enter_context(RunFolder(workdir))
      store = stack.enter_context(folder.open_store(config.train.keep_last))
      watchdog = Watchdog(
        folder.path / f"hang_{jax.process_index()}.txt",
        config.train.step_timeout_seconds,
      )
      stack.enter_context(
        processes.leaving_together(
          peer_timeout_seconds=config.train.peer_timeout_seconds,
          watchdog=watchdog,
        )
      )
      store.newest_whole_step()  # From here on the latest step is whole.
      with raising_on_all("preparing the run"):
        trainer = Trainer.build(config, folder, store, watchdog)
        trainer = trainer.with_evaluation(evaluation_of)
      processes.check_same_shapes(trainer.data.shape_digests)
      times.end_phase("data")
      state, resumed_step = None, trainer.resumed_step
      if resumed_step is not None:
        position = store.data_position(resumed_step)
        state = trainer.restore(resumed_step, position)
        times.end_phase("restore")
    trainer.log_report()
    stack.enter_context(jax.set_mesh(trainer.mesh))
    stop = stack.enter_context(loop.StopSignal(steps_before=steps_before))
    stack.enter_context(explaining_stops(store, folder))
    if state is None:
      state = trainer.states.initialise()
      times.end_phase("initialise")
    return trainer.fit(state, stop, times)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trainer:
  """The parts of one run, built and checked before any compute.

  Attributes:
    config: of the run.
    folder: the workdir.
    store: its checkpoints.
    resumed_step: of the checkpoint that the run continues from, or None.
    mesh: all devices.
    tokenizer: of all texts.
    model: the trained network and the frozen parts around it.
    pretrained: parameters that a new run starts from, or that stay frozen
      under adapters or a captioner; None if there are none.
    null_tokens: the empty caption, int32.
    states: makes or restores the train state.
    data: the training batches, the validation batch, and reading statistics.
    loader: of the batches of both tasks.
    source_files: what the sources hold, for checkpoints.
    watchdog: learns what the run waits for.
    rollouts: of post-training.
    evaluation: of the EMA at each validation, beside its losses.
  """

  config: Config
  folder: RunFolder
  store: CheckpointStore
  resumed_step: int | None
  mesh: Mesh
  tokenizer: Tokenizer
  model: DualModel | CaptionerModel
  pretrained: PretrainedParams | CaptionerWeights | None
  null_tokens: Int[np.ndarray, " length"]
  states: StateSource
  data: TrainingData
  loader: DualLoader
  source_files: dict[str, bytes]
  watchdog: Watchdog
  rollouts: Rollouts | None = None
  evaluation: Evaluation | None = None

  @classmethod
  def build(
    cls,
    config: Config,
    folder: RunFolder,
    store: CheckpointStore,
    watchdog: Watchdog = NO_WATCHDOG,
  ) -> "Trainer":
    """Opens and checks everything.

    Raises:
      ValueError: parts of the config do not fit together, with the devices,
        with the run that is in the folder, or with the free space.
    """
    mesh = config.make_mesh()
    kind = mesh.devices.flat[0].device_kind
    config = config.for_chip(kind)
    check_compiler_knows(config.train.compiler_options)
    encoders = config.model.open_encoders()
    # Indexes and image sizes of any number of files are read the first time.
    watchdog.waits_for("its sources and data", is_endless=True)
    sources, validation = open_all_sources(config.data)
    resumed_step = store.latest_step()
    held = source_record.run_files(sources, validation)
    files = {} if resumed_step is None else store.files(resumed_step)
    init_from = config.start_of(folder.path)
    if resumed_step is None:
      tokenizer = new_tokenizer(config, init_from, encoders, sources)
    else:
      folder.check_resumes(config, store, resumed_step)
      tokenizer = resumed_tokenizer(config, files, held, sources)
    model = config.make_model(tokenizer, encoders, device_kind=kind)
    model.check_runs_on(mesh)
    pretrained = start_weights(config, init_from, model, store, tokenizer)
    optimizer = config.optimizer.make(config.train.num_steps)
    data = open_data(config, tokenizer, sources, folder.path, validation)
    held |= source_record.shape_files(data.shape_digests)
    source_record.check_shapes(files, held, changeable=config.changeable_keys)
    if jax.process_index() == 0:
      needed = abstract_state(model.network, optimizer).num_bytes()
      check_free_space(folder.path, needed, remedy="choose another --workdir")
    length = config.data.text_to_image.text_length
    null_tokens = caption_tokens(tokenizer, "", length)
    return cls(
      config=config,
      folder=folder,
      store=store,
      resumed_step=resumed_step,
      mesh=mesh,
      tokenizer=tokenizer,
      model=model,
      pretrained=pretrained,
      null_tokens=null_tokens,
      states=StateSource(
        config=config,
        mesh=mesh,
        model=model,
        encoders=encoders,
        pretrained=pretrained,
        optimizer=optimizer,
        shardings=state_shardings(model.network, optimizer, mesh),
        store=store,
        watchdog=watchdog,
      ),
      data=data,
      loader=data.training_loader(functools.partial(rows_of_process, mesh)),
      source_files=held,
      watchdog=watchdog,
      rollouts=config.make_rollouts(model, tokenizer, null_tokens, mesh),
    )

  def with_evaluation(
    self, evaluation_of: "Callable[[Trainer], Evaluation] | None"
  ) -> "Trainer":
    """With what runs `benchmarks.at_validation`, if that names tasks.

    Raises:
      InputError: nothing was given that runs them, or they cannot be run.
    """
    if not self.config.benchmarks.tasks_at_validation:
      return self
    if evaluation_of is None:
      raise InputError(
        "benchmarks.at_validation names tasks, which `ddit train` runs: pass "
        "evaluation_of=pipelines.validation_tasks.ValidationTasks.of"
      )
    return dataclasses.replace(self, evaluation=evaluation_of(self))

  def restore(self, step: int, data_position: dict[str, Any]) -> TrainState:
    """The state of a checkpoint; the data continues at `data_position`.

    Raises:
      ValueError: the checkpoint is damaged or of another model.
    """
    state = self.states.restore(step)
    self.loader.seek(data_position)
    return state

  def fit(
    self, state: TrainState, stop: loop.StopSignal, times: StartTimes
  ) -> bool:
    """Trains to the last step (True) or to a stop signal (False).

    Args:
      state: of step `resumed_step` or 0; its buffers are donated.
      stop: requests a clean stop.
      times: of the run's start.

    Raises:
      InputError: too many rollbacks.
    """
    train, start = self.config.train, self.resumed_step or 0
    self.folder.write_config(self.config)
    is_first = jax.process_index() == 0
    profile = ProfileWindow(
      self.folder.path / "profile",
      parse_window(train.profile_steps) if is_first else range(0),
    )
    step = CompiledStep(
      self.config,
      self.model,
      self.null_tokens,
      self.states.shardings,
      watchdog=self.watchdog,
      times=times,
      profile=profile,
      rollouts=self.rollouts,
    )
    with (
      contextlib.closing(profile),
      MetricWriter(self.folder.path if is_first else None) as writer,
      progress_bar(train.num_steps, initial=start, is_shown=is_first) as bar,
    ):
      # Shared by all rollbacks, so that it remembers earlier losses.
      guard = self._loss_guard()
      rows_of = functools.partial(rows_of_process, self.mesh)
      batch = to_mesh(self.data.validation_batch(rows_of), self.mesh)
      log = step_log(
        *(self.config, self.model, batch, writer, bar),
        num_devices=self.mesh.size,
        reader_counts=self.data.counts,
      )
      hooks = self._hooks(guard, log, writer, batch)
      while True:
        writer.truncate_after(start)
        log.restart(start)
        outcome = self._run_until_spike(start, state, step, hooks, stop)
        self.watchdog.waits_for("the last checkpoint", is_slow=True)
        self.store.wait()
        if not isinstance(outcome, LossSpike):
          return outcome
        start = self.store.newest_whole_step()
        guard.roll_back(outcome, start)
        # The loop's state is gone by now, so there is room for this one.
        state = self.restore(start, outcome.data_position)

  def _loss_guard(self) -> LossGuard:
    train = self.config.train
    return LossGuard(
      self.folder.path,
      self.loader.record_ids,
      max_skipped_in_row=train.max_skipped_in_row,
      spike_factor=train.spike_factor,
      max_rollbacks=train.max_rollbacks,
    )

  def _run_until_spike(
    self,
    start: int,
    state: TrainState,
    step: loop.StepFunction,
    hooks: list[loop.Hook],
    stop: loop.StopSignal,
  ) -> LossSpike | bool:
    """Trains; returns the spike that ended it, or the result of `fit`."""
    num_steps = self.config.train.num_steps
    with contextlib.closing(DeviceFeed(self.loader, self.mesh)) as feed:
      try:
        state = loop.run_loop(
          step,
          state,
          feed,
          start=start,
          num_steps=num_steps,
          hooks=hooks,
          is_stop_requested=stop.is_requested,
          watchdog=self.watchdog,
        )
      except LossSpike as spike:
        # Its traceback would keep the whole state alive.
        return spike.with_traceback(None)
    return int(state.step) == num_steps and not stop.was_requested

  def _hooks(
    self, guard: LossGuard, log: StepLog, writer: MetricWriter, batch: DualBatch
  ) -> list[loop.Hook]:
    """The hooks after a step, in this order; `batch` is for validation."""
    config, train = self.config, self.config.train
    validator = Validator(
      self.model, config.objective, self.null_tokens, batch, writer
    )

    def check(progress: loop.Progress) -> None:
      with self._saving_if_too_many_skipped(progress):
        guard(progress)

    def save(progress: loop.Progress) -> None:
      with self._saving_if_too_many_skipped(progress):
        guard.catch_up()
      self._save(progress, validator.losses_at(progress.step))

    validate = functools.partial(
      loop.Hook, train.validate_every, is_needed_at_stop=False, is_slow=True
    )
    hooks = [
      loop.Hook(1, check, name="the losses of the steps before"),
      loop.Hook(train.log_every, log, name="the scalars"),
      validate(validator, name="the validation losses"),
    ]
    if train.sample_grid_size:
      grid = sample_grid(
        config, self.model, self.tokenizer, self.null_tokens, batch, writer
      )
      hooks.append(validate(grid, name="the sample grids"))
    if self.rollouts is not None:
      held_out = HeldOutRewards(self.rollouts, batch, writer, self.folder.path)
      hooks.append(validate(held_out, name="the held-out rewards"))
    if self.evaluation is not None:

      def evaluate(progress: loop.Progress) -> None:
        writer.write_scalars(progress.step, self.evaluation(progress))

      hooks.append(validate(evaluate, name="the tasks at validation"))
    every = train.checkpoint_every
    return [*hooks, loop.Hook(every, save, name="the checkpoint", is_slow=True)]

  @contextlib.contextmanager
  def _saving_if_too_many_skipped(self, progress: loop.Progress):
    """Skipped batches changed nothing, so the earlier state is valid."""
    try:
      yield
    except TooManySkipped:
      self._save(progress, None)
      self.store.wait()
      raise

  def _save(
    self, progress: loop.Progress, losses: dict[str, float] | None
  ) -> None:
    """Starts a checkpoint; the loop continues while it is written."""
    self.folder.check_is_there()
    files = self.tokenizer.files() | self.source_files
    files |= instructions_file(self.data.instructions)
    is_captioner = isinstance(self.pretrained, CaptionerWeights)
    if is_captioner or (
      self.config.keeps_start and self.pretrained is not None
    ):
      files |= self.pretrained.base_file()
    self.store.save(
      progress.step,
      progress.state.items(),
      data_position=progress.data_position,
      config=as_json(self.config),
      files=files,
      metrics=losses,
    )

  def log_report(self) -> None:
    """Logs what is trained, on which devices, and where it continues."""
    _log.info("%s: %s", self.config.name, self.model.report(self.mesh))
    if self.pretrained is not None:
      prefix = "frozen " if self.states.has_adapters else ""
      _log.info("%s%s", prefix, self.pretrained.report())
    if (options := self.config.train.compiler_options) != "none":
      _log.info("compiler options: %s", options)
    _log.info("%s", self.data.description)
    path, last = self.folder.path, self.config.train.num_steps
    resumed_step = self.resumed_step
    if resumed_step is None:
      _log.info("starting in %s", path)
    elif resumed_step < last:
      _log.info("resuming %s at step %d of %d", path, resumed_step, last)
    else:
      _log.info("%s is complete: step %d is the last", path, last)
