"""`ddit evaluate --tasks`: benchmarks on a checkpoint, and on a baseline."""

import contextlib
import logging
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from ddit_jax.checkpoint.manifest import raising_on_all
from ddit_jax.errors import InputError, check_known, first_few, preparing
from ddit_jax.experiment.config import Config, SampleConfig
from ddit_jax.experiment.processes import of_first
from ddit_jax.experiment.workdir import output_folder
from ddit_jax.files import local_path
from ddit_jax.json_files import write_lines
from ddit_jax.pipelines import own_data, run_facts
from ddit_jax.pipelines.benchmark_report import write_results
from ddit_jax.pipelines.evaluation_task import (
  BASELINE,
  EvaluationTask,
  TaskResult,
  items_hash,
  scored_result,
)
from ddit_jax.pipelines.image_features import ImageFeatures
from ddit_jax.pipelines.inputs import sample_config
from ddit_jax.pipelines.load import (
  check_weights,
  load,
  refuse_captioner,
  refuse_sd3,
)
from ddit_jax.pipelines.outputs import (
  Sampling,
  check_prompts,
  estimate_likelihoods,
  estimate_pairs,
  sample_images,
  sample_texts,
)
from ddit_jax.pipelines.pipeline import Pipeline
from ddit_jax.pipelines.sd3 import Sd3Pipeline
from ddit_jax.protocols.config import BenchmarksConfig
from ddit_jax.protocols.item import check_images, check_keys, chosen
from ddit_jax.protocols.journal import Journal
from ddit_jax.protocols.layouts import llava_answers
from ddit_jax.protocols.protocol import (
  PROTOCOLS,
  file_notes,
  hashed_files,
  shown_prompt,
)

_log = logging.getLogger(__name__)
# Kinds of which nothing is sampled.
_ESTIMATES = {
  "likelihood": estimate_likelihoods,
  "retrieval": estimate_pairs,
}


def evaluate_benchmarks(
  config: Config,
  checkpoint: str,
  tasks: Sequence[str],
  *,
  out: str,
  weights: str,
  step: int | None,
  baseline: str | None = None,
) -> int:
  """Samples and scores benchmarks, and writes them down; returns 0.

  A run that was stopped goes on where it was when it is started again. With
  several processes all sample and the first one scores and writes.

  Args:
    config: its sections `benchmarks`, `sample` and `data`.
    checkpoint: see `load`.
    tasks: names of `protocols.protocol`, or of `own_data`.
    out: folder of the results.
    weights: see `load`.
    step: see `load`.
    baseline: a second checkpoint, for the same prompts and seeds.

  Raises:
    InputError: files, tasks or the checkpoint do not fit, or the folder holds
      outputs of other settings.
  """
  with preparing():
    planned = [planned_task(config, name) for name in tasks]
  check_weights(weights)
  _check_model(checkpoint, step, planned)
  if baseline is not None:
    _check_model(baseline, None, planned)
  features = image_features(config, planned, config.mesh.make())
  facts, results = run_facts.program_facts(config), {}
  with _writing(out) as folder:
    facts["checkpoint"], results["checkpoint"] = _evaluated(
      load(checkpoint, weights=weights, step=step, mesh=config.mesh.make()),
      checkpoint,
      planned,
      config,
      folder,
      features=features,
      weights=weights,
    )
    if baseline is not None:
      facts[BASELINE], results[BASELINE] = _evaluated(
        load(baseline, mesh=config.mesh.make()),
        baseline,
        planned,
        config,
        folder / BASELINE,
        features=features,
        is_baseline=True,
      )
    with raising_on_all("writing the results"):
      if jax.process_index() == 0:
        write_results(folder, facts, results, config)
        _check_scored(results.values(), out)
  return 0


def _check_model(
  path: str, step: int | None, planned: Sequence[EvaluationTask]
) -> None:
  """Raises InputError if a task is none that the checkpoint can do."""
  purpose = f"--tasks={','.join(task.name for task in planned)}"
  refuse_captioner(path, step, purpose)
  if any(task.protocol.kind != "image" for task in planned):
    refuse_sd3(path, purpose)


def _check_scored(results: Iterable[Sequence[TaskResult]], out: str) -> None:
  """Raises InputError if a part could not be scored."""
  failed = [
    f"{result.task.name}: {sentence}"
    for some in results
    for result in some
    for sentence in result.failed
  ]
  if failed:
    raise InputError(
      f"{first_few(failed, limit=1)}; all other figures are in {out}, and the "
      "same command scores again without sampling"
    )


def _evaluated(
  pipeline: Pipeline | Sd3Pipeline,
  path: str,
  planned: Sequence[EvaluationTask],
  config: Config,
  folder: pathlib.Path,
  *,
  features: ImageFeatures | None,
  weights: str = "ema",
  is_baseline: bool = False,
) -> tuple[dict[str, Any], list[TaskResult]]:
  """What was evaluated, and the result of every task."""
  facts = run_facts.checkpoint_facts(path, pipeline, weights)
  plans = [task_sampling(task, pipeline, config) for task in planned]
  for task, sampling in zip(planned, plans, strict=True):
    check_prompts(pipeline, task, sampling)
  results = [
    run_task(
      task,
      pipeline,
      sampling,
      folder,
      weights=facts["blake2b"],
      features=features,
      is_baseline=is_baseline,
    )
    for task, sampling in zip(planned, plans, strict=True)
  ]
  return facts, [result for result in results if result is not None]


def image_features(
  config: Config, planned: Sequence[EvaluationTask], mesh: Mesh
) -> ImageFeatures | None:
  """What scores drawn images of one's own, if tasks and config have that."""
  path = config.benchmarks.image_features
  if not path or not any(task.draws_own_images for task in planned):
    return None
  return ImageFeatures(path, config.data.text_to_image.square_crop, mesh)


def planned_task(config: Config, name: str) -> EvaluationTask:
  """The items of a task, read and checked before any weights."""
  plan = config.benchmarks
  if own_data.is_own(name):
    return own_data.planned(config, name)
  check_known([name], PROTOCOLS, what="unknown benchmark")
  protocol = PROTOCOLS[name]
  files = plan.paths(name, protocol)
  hashes = hashed_files(files)
  items = protocol.items(files)
  check_keys(items, name)
  notes = file_notes(name, files, hashes, len(items))
  some = chosen(items, plan.num_units)
  if len(some) < len(items):
    notes.append(f"{len(some):,} of {len(items):,} items")
  check_images(some)
  return EvaluationTask(
    name=name,
    protocol=protocol,
    files=files,
    hashes=hashes,
    items=some,
    items_hash=items_hash(items),
    is_subset=len(some) < len(items),
    notes=tuple(notes),
  )


@contextlib.contextmanager
def _writing(out: str) -> Iterator[pathlib.Path]:
  """The folder of the results, to which the first process alone writes."""
  if jax.process_index() != 0:
    yield local_path(out)
    return
  with output_folder(out) as folder:
    yield folder


def run_task(
  task: EvaluationTask,
  pipeline: Pipeline | Sd3Pipeline,
  sampling: Sampling,
  folder: pathlib.Path,
  *,
  weights: str,
  features: ImageFeatures | None = None,
  is_baseline: bool = False,
) -> TaskResult | None:
  """Samples what is missing of one task, and scores it.

  Args:
    task: the benchmark.
    pipeline: the model.
    sampling: see `task_sampling`.
    folder: of all results; a folder of the task's own below it keeps outputs.
    weights: what tells them apart; outputs of others are refused.
    features: makes what drawn images of one's own are scored by.
    is_baseline: see `scored_result`.

  Returns:
    The result on the first process, None on others.
  """
  folder = folder / task.folder_name
  settings = sampling.facts(task)
  facts = {
    "task": task.name,
    "weights": weights,
    "items": task.items_hash,
    "settings": settings,
  }
  journal = _shared_journal(folder / "outputs.jsonl", facts)
  _log.info("%s: %d items", task.name, len(task.items))
  if task.protocol.kind == "image":
    sample_images(pipeline, task.items, journal, sampling, folder)
  else:
    sample = _ESTIMATES.get(task.protocol.kind, sample_texts)
    sample(pipeline, task, journal, sampling)
  if jax.process_index() != 0:
    return None
  if features is not None and task.draws_own_images:
    task = features.with_files(task, folder, is_baseline=is_baseline)
  return scored_result(
    task,
    folder=folder,
    outputs=journal.outputs,
    prompts=sampling.prompts,
    settings=settings,
    predictions=_predictions(task, pipeline, sampling, journal, folder),
    is_baseline=is_baseline,
  )


def _predictions(
  task: EvaluationTask,
  pipeline: Pipeline | Sd3Pipeline,
  sampling: Sampling,
  journal: Journal,
  folder: pathlib.Path,
) -> pathlib.Path:
  """What is scored of the outputs, written in the official form."""
  if task.protocol.kind == "image":
    return task.protocol.write(folder, task.items)
  if task.protocol.kind in _ESTIMATES:
    return folder
  rows = llava_answers(
    task.items, journal.outputs, sampling.prompts, pipeline.config.name
  )
  write_lines(folder / "answers.jsonl", rows)
  return task.protocol.write(folder, task.items, journal.outputs)


def _shared_journal(path: pathlib.Path, facts: dict[str, Any]) -> Journal:
  """The outputs so far, on all processes; the first one keeps the file."""
  if jax.process_index() == 0:
    path.parent.mkdir(parents=True, exist_ok=True)
    journal = Journal(path, facts)
  else:
    journal = Journal(None, facts)
  journal.outputs = of_first(journal.outputs)
  return journal


def task_sampling(
  task: EvaluationTask, pipeline: Pipeline | Sd3Pipeline, config: Config
) -> Sampling:
  """How a task is sampled, by the published settings or by the config."""
  plan, protocol = config.benchmarks, task.protocol
  sample, length, size = config.sample, None, None
  if plan.sampling == "published" and protocol.sampling:
    plain = SampleConfig(batch_size=sample.batch_size)
    sample = sample_config(plain, protocol.sampling)
    size, length = protocol.image_size or None, protocol.text_length or None
  longest = getattr(pipeline, "longest_text", None)
  if length and longest and length > longest:
    _log.warning(
      "%s: the model's longest text has %d tokens, published numbers have %d",
      task.name,
      longest,
      length,
    )
    length = longest
  template, prompts = _prompts(task, pipeline, plan)
  return Sampling(
    sample=sample,
    likelihood=config.evaluate.likelihood,
    seed=plan.seed,
    text_length=length,
    image_size=size,
    template=template,
    prompts=prompts,
  )


def _prompts(
  task: EvaluationTask, pipeline: Pipeline | Sd3Pipeline, plan: BenchmarksConfig
) -> tuple[str, dict[str, str]]:
  """A template, and what the model is given by key of the item."""
  keys = [item.key for item in task.items]
  template = "{question}"
  texts = [item.text for item in task.items]
  if plan.prompt == "trained" and task.protocol.kind == "answer":
    template, *texts = pipeline.prompts([template, *texts])
  elif plan.prompt == "published" and task.protocol.template:
    template = task.protocol.template
    texts = [shown_prompt(task.protocol, item) for item in task.items]
  return template, dict(zip(keys, texts, strict=True))
