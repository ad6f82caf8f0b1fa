"""Tasks of `ddit evaluate` at every validation of a training run."""

import dataclasses
import logging
import pathlib
import re

import jax

from ddit_jax.errors import InputError
from ddit_jax.experiment.config import Config
from ddit_jax.experiment.run_report import EVALUATION
from ddit_jax.experiment.trainer import Trainer
from ddit_jax.pipelines.benchmarks import (
  image_features,
  planned_task,
  run_task,
  task_sampling,
)
from ddit_jax.pipelines.outputs import check_prompts
from ddit_jax.pipelines.pipeline import Pipeline
from ddit_jax.train.loop import Progress

_log = logging.getLogger(__name__)


class ValidationTasks:
  """Evaluates the EMA on the tasks of `benchmarks.at_validation`.

  The figures are those of `ddit evaluate --tasks` with as many items on a
  checkpoint of the same step. All draws follow from `benchmarks.seed`, so
  training goes on as it would without them.

  Args:
    config: of the run.
    pipeline: its programs; the weights come with each call.
    workdir: gets the newest outputs, in validation/TASK.

  Raises:
    InputError: a task cannot be run, or has no figure without other programs.
  """

  def __init__(self, config: Config, pipeline: Pipeline, workdir: pathlib.Path):
    self._pipeline, self._folder = pipeline, workdir / "validation"
    names = config.benchmarks.tasks_at_validation
    plan = dataclasses.replace(
      config.benchmarks, num_units=config.benchmarks.num_units_at_validation
    )
    config = dataclasses.replace(config, benchmarks=plan)
    tasks = [planned_task(config, name) for name in names]
    self._features = image_features(config, tasks, pipeline.mesh)
    for task in tasks:
      is_scored = self._features is not None and task.draws_own_images
      if task.protocol.kind == "image" and not is_scored:
        raise InputError(
          f"benchmarks.at_validation has {task.name}, whose images are scored "
          "by other programs: leave it to ddit evaluate (images:NAME of a "
          "source are scored by benchmarks.image_features)"
        )
    self._plans = [
      (task, task_sampling(task, pipeline, config)) for task in tasks
    ]
    for task, sampling in self._plans:
      check_prompts(pipeline, task, sampling)

  @classmethod
  def of(cls, trainer: Trainer) -> "ValidationTasks":
    """The tasks of a run that trains D-DiT."""
    config = trainer.config
    pipeline = Pipeline.of_run(
      config,
      trainer.tokenizer,
      trainer.model,
      {},
      mesh=trainer.mesh,
      step=0,
      instructions=trainer.data.instructions,
    )
    return cls(config, pipeline, trainer.folder.path)

  def __call__(self, progress: Progress) -> dict[str, float]:
    """The figures by their names in scalars.jsonl, on the first process."""
    state, step = progress.state, progress.step
    pipeline = self._pipeline.with_variables(state.variables(state.ema), step)
    scalars = {}
    for task, sampling in self._plans:
      if jax.process_index() == 0:
        # Of another step, or of this one before a restart.
        path = self._folder / task.folder_name / "outputs.jsonl"
        path.unlink(missing_ok=True)
      result = run_task(
        *(task, pipeline, sampling, self._folder),
        weights=f"EMA of step {step}",
        features=self._features,
      )
      if result is None:
        continue
      for sentence in result.failed:
        _log.warning("%s: %s", task.name, sentence)
      scalars |= {
        _scalar_name(name): value for name, value in result.figures().items()
      }
    return scalars


def _scalar_name(figure: str) -> str:
  """ "captions:mine/CIDEr" -> "evaluation/captions/mine/CIDEr"."""
  parts = figure.replace(":", "/").split("/")
  plain = (re.sub(r"\W", "_", part, flags=re.ASCII) for part in parts)
  return EVALUATION + "/".join(plain)
