"""Several stages of training as one job: each starts from the previous one."""

import dataclasses
import logging
import pathlib
from collections.abc import Callable, Mapping

import jax

from ddit_jax.checkpoint.manifest import CheckpointError
from ddit_jax.checkpoint.store import CheckpointStore, checkpoints_in
from ddit_jax.errors import InputError, preparing
from ddit_jax.experiment import trainer
from ddit_jax.experiment.config import STAGE, Config
from ddit_jax.experiment.data import open_all_sources
from ddit_jax.experiment.processes import check_same_settings
from ddit_jax.experiment.workdir import RunFolder
from ddit_jax.files import local_path

_log = logging.getLogger(__name__)

_Stages = Mapping[str, Config]


def train_stages(
  stages: _Stages,
  workdir: str,
  *,
  evaluation_of: Callable[[trainer.Trainer], trainer.Evaluation] | None = None,
) -> bool:
  """Trains the stages in order, each in its own folder of `workdir`.

  A stage whose last step is done is skipped, so the same command continues
  where the job was stopped or killed. `init_from` = "stage:NAME" starts from
  the newest checkpoint of an earlier stage.

  Args:
    stages: name -> config, in order.
    workdir: the folder of the job.
    evaluation_of: see `trainer.train`.

  Returns:
    True if all stages are done, False after a stop signal.

  Raises:
    InputError: the stages are incompatible with each other or with the folder,
      or data or weights of one of them cannot be opened, before any compute;
      or any error of `trainer.train`.
  """
  folders = {name: local_path(workdir) / name for name in stages}
  with preparing():
    check_same_settings({n: dataclasses.asdict(c) for n, c in stages.items()})
    # As the stages that are done have saved them.
    kind = jax.devices()[0].device_kind
    stages = {name: c.for_chip(kind) for name, c in stages.items()}
    _check_references(stages)
    done = [n for n in stages if _is_complete(stages[n], folders[n])]
    _check_order(list(stages), done)
    if done and not _can_be_followed(done[-1], stages, folders):
      done.pop()
    _check_can_start([n for n in stages if n not in done], stages)
  steps_before = 0
  for name, config in stages.items():
    last = config.train.num_steps
    if name in done:
      _log.info("%s is complete: step %d was its last", name, last)
      continue
    _log.info("%s in %s", name, folders[name])
    if not trainer.train(
      config,
      str(folders[name]),
      steps_before=steps_before,
      evaluation_of=evaluation_of,
    ):
      return False
    steps_before += last
  return True


def _check_references(stages: _Stages) -> None:
  """Raises InputError unless stages start from earlier stages only."""
  before: list[str] = []
  for name, config in stages.items():
    start = config.init_from
    if start.startswith(STAGE) and start.removeprefix(STAGE) not in before:
      raise InputError(
        f"stages.{name}.init_from is {start!r}; the stages before it are "
        f"{', '.join(before) or 'none'}"
      )
    before.append(name)


def _check_can_start(names: list[str], stages: _Stages) -> None:
  """Checks later stages as far as possible; raises InputError.

  The first one opens its data and weights before any compute.
  """
  checked = {stages[name].model.encoders_from for name in names[:1]}
  for name in names[1:]:
    config = stages[name]
    try:
      config.make_mesh()
      open_all_sources(config.data)
      if config.model.encoders_from not in checked:
        config.model.open_encoders()
        checked.add(config.model.encoders_from)
    except ValueError as error:
      raise InputError(f"stages.{name}: {error}") from error


def _is_complete(config: Config, folder: pathlib.Path) -> bool:
  """True if a stage of the same config has done its last step.

  Raises:
    InputError: it cannot be continued with this config.
  """
  if not checkpoints_in(folder).is_dir():
    return False
  with CheckpointStore(checkpoints_in(folder), read_only=True) as store:
    step = store.latest_step()
    if step is None:
      return False
    with RunFolder(folder) as run:
      run.check_resumes(config, store, step)
  return step == config.train.num_steps


def _can_be_followed(
  name: str, stages: _Stages, folders: Mapping[str, pathlib.Path]
) -> bool:
  """False if the next stage would start from damaged weights of this one."""
  later = [n for n in stages if stages[n].init_from == STAGE + name]
  if not later or checkpoints_in(folders[later[0]]).is_dir():
    return True
  with CheckpointStore(checkpoints_in(folders[name]), read_only=True) as store:
    try:
      store.verify(stages[name].train.num_steps)
    except CheckpointError:
      return False
  return True


def _check_order(names: list[str], done: list[str]) -> None:
  """Raises InputError if a stage is done and one before it is not."""
  if done != names[: len(done)]:
    missing = next(name for name in names if name not in done)
    raise InputError(
      f"the stages {', '.join(done)} are complete but {missing} before them is "
      f"not: restore its train.num_steps, or choose another --workdir"
    )
