"""Several stages of training as one job: each starts from the one before."""

import dataclasses
import logging
import pathlib
from collections.abc import Mapping

from ddit_jax.checkpoint.store import CheckpointStore
from ddit_jax.config_files import to_settings
from ddit_jax.experiment import build, training
from ddit_jax.experiment.run_folder import RunFolder, checkpoints_in
from ddit_jax.input_error import InputError, preparing
from ddit_jax.settings import ExperimentSettings

# An `init_from` that names an earlier stage of the same job.
_PREFIX = "stage:"

_log = logging.getLogger(__name__)

Stages = Mapping[str, ExperimentSettings]


def train_stages(stages: Stages, workdir: str) -> int:
  """Trains stage after stage, each in its own folder of `workdir`.

  A stage whose last step is done is passed over, so the same command goes on
  where the job was stopped or killed. `init_from` = "stage:NAME" starts from
  the newest checkpoint of an earlier stage.

  Args:
    stages: name -> settings, in order.
    workdir: the folder of the job.

  Returns:
    0, also after a stop signal.

  Raises:
    InputError: the stages do not fit together or with what is in the folder,
      before any compute; or what `training.train_to_end` raises.
  """
  folders = {name: pathlib.Path(workdir) / name for name in stages}
  with preparing():
    stages = _with_places(stages, folders)
    for name, settings in stages.items():
      _check(name, settings)
    done = [n for n in stages if _is_complete(stages[n], folders[n])]
    _check_order(list(stages), done)
  for name, settings in stages.items():
    if name in done:
      last = settings.train.num_steps
      _log.info("%s is complete: step %d was its last", name, last)
      continue
    _log.info("%s in %s", name, folders[name])
    if not training.train_to_end(settings, str(folders[name])):
      return 0
  return 0


def _with_places(
  stages: Stages, folders: Mapping[str, pathlib.Path]
) -> dict[str, ExperimentSettings]:
  """The stages with "stage:NAME" replaced by that stage's folder."""
  placed: dict[str, ExperimentSettings] = {}
  for name, settings in stages.items():
    if settings.init_from.startswith(_PREFIX):
      before = settings.init_from.removeprefix(_PREFIX)
      if before not in placed:
        raise InputError(
          f"stages.{name}.init_from is {settings.init_from!r}; the stages "
          f"before it are {', '.join(placed) or 'none'}"
        )
      settings = dataclasses.replace(settings, init_from=str(folders[before]))
    placed[name] = settings
  return placed


def _check(name: str, settings: ExperimentSettings) -> None:
  """Raises InputError for what can be seen of a later stage at once."""
  try:
    build.build_mesh(settings)
    if settings.model.encoders_from:
      build.open_encoders(settings)
  except ValueError as error:
    raise InputError(f"stages.{name}: {error}") from error


def _is_complete(settings: ExperimentSettings, folder: pathlib.Path) -> bool:
  """True if a stage of the same settings has done its last step.

  Raises:
    InputError: its settings were others.
  """
  if not checkpoints_in(folder).is_dir():
    return False
  with CheckpointStore(checkpoints_in(folder), read_only=True) as store:
    step = store.latest_step()
    if step is None:
      return False
    saved = to_settings(store.config(step), f"the stage in {folder}")
  with RunFolder(folder) as run:
    run.check_same_run(settings, saved, step)
  return step == settings.train.num_steps


def _check_order(names: list[str], done: list[str]) -> None:
  """Raises InputError if a stage is done and one before it is not."""
  if done != names[: len(done)]:
    missing = next(name for name in names if name not in done)
    raise InputError(
      f"the stages {', '.join(done)} are complete but {missing} before them is "
      f"not: restore its train.num_steps, or choose another --workdir"
    )
