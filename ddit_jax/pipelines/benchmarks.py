"""`ddit evaluate --tasks`: benchmarks on a checkpoint, and on a baseline."""

import contextlib
import logging
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ddit_jax.errors import InputError, first_few, preparing
from ddit_jax.experiment.config import Config, SampleConfig
from ddit_jax.experiment.workdir import output_folder
from ddit_jax.files import take_lock
from ddit_jax.pipelines import own_data, run_facts
from ddit_jax.pipelines.benchmark_report import write_results
from ddit_jax.pipelines.inputs import sample_config
from ddit_jax.pipelines.job import (
  BASELINE,
  Job,
  Result,
  items_hash,
  scored_result,
)
from ddit_jax.pipelines.load import load, refuse_sd3
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
from ddit_jax.protocols.config import BenchmarksConfig, check_names
from ddit_jax.protocols.item import check_images, check_keys, chosen
from ddit_jax.protocols.journal import Journal
from ddit_jax.protocols.layouts import llava_answers, write_lines
from ddit_jax.protocols.protocol import PROTOCOLS, file_notes, shown_prompt

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

  A run that was stopped goes on where it was when it is started again.

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
    jobs = [_planned(config, task) for task in tasks]
  for path in filter(None, (checkpoint, baseline)):
    if any(job.protocol.kind != "image" for job in jobs):
      refuse_sd3(path, f"--tasks={','.join(tasks)}")
  facts, results = run_facts.run_facts(config), {}
  with output_folder(out) as folder, _locked(folder):
    if baseline is not None:
      facts[BASELINE], results[BASELINE] = _evaluated(
        load(baseline, mesh=config.mesh.make()),
        baseline,
        jobs,
        config,
        folder / BASELINE,
        is_baseline=True,
      )
    pipeline = load(
      checkpoint, weights=weights, step=step, mesh=config.mesh.make()
    )
    facts["checkpoint"], results["checkpoint"] = _evaluated(
      pipeline, checkpoint, jobs, config, folder, weights=weights
    )
    write_results(folder, facts, results, config)
  _check_scored(results.values(), out)
  return 0


def _check_scored(results: Iterable[Sequence[Result]], out: str) -> None:
  """Raises InputError if a part could not be scored."""
  failed = [
    f"{result.job.name}: {sentence}"
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
  jobs: Sequence[Job],
  config: Config,
  folder: pathlib.Path,
  *,
  weights: str = "ema",
  is_baseline: bool = False,
) -> tuple[dict[str, Any], list[Result]]:
  """What was evaluated, and the result of every job."""
  facts = run_facts.checkpoint_facts(path, pipeline, weights)
  plans = [_sampling(job, pipeline, config) for job in jobs]
  for job, sampling in zip(jobs, plans, strict=True):
    check_prompts(pipeline, job, sampling)
  return facts, [
    _run(
      job,
      pipeline,
      sampling,
      folder,
      weights_hash=facts["blake2b"],
      is_baseline=is_baseline,
    )
    for job, sampling in zip(jobs, plans, strict=True)
  ]


def _planned(config: Config, task: str) -> Job:
  """The items of a task, read and checked before any weights."""
  plan = config.benchmarks
  if own_data.is_own(task):
    return own_data.planned(config, task)
  check_names([task])
  protocol = PROTOCOLS[task]
  files = plan.paths(task, protocol)
  items = protocol.items(files)
  check_keys(items, task)
  notes = file_notes(task, files, len(items))
  some = chosen(items, plan.num_units)
  if len(some) < len(items):
    notes.append(f"{len(some):,} of {len(items):,} items")
  check_images(some)
  return Job(
    name=task,
    protocol=protocol,
    files=files,
    items=some,
    items_hash=items_hash(items),
    is_subset=len(some) < len(items),
    notes=tuple(notes),
  )


@contextlib.contextmanager
def _locked(folder: pathlib.Path) -> Iterator[None]:
  try:
    lock = take_lock(folder / ".lock")
  except BlockingIOError as error:
    raise InputError(
      f"another process is evaluating into {folder}: wait for it, or choose "
      "another --out"
    ) from error
  with lock:
    yield


def _run(
  job: Job,
  pipeline: Pipeline | Sd3Pipeline,
  sampling: Sampling,
  folder: pathlib.Path,
  *,
  weights_hash: str,
  is_baseline: bool,
) -> Result:
  """Samples what is missing of one task, and scores it."""
  folder = folder / job.folder_name
  folder.mkdir(parents=True, exist_ok=True)
  settings = sampling.facts(job)
  journal = Journal(
    folder / "outputs.jsonl",
    {
      "task": job.name,
      "weights": weights_hash,
      "items": job.items_hash,
      "settings": settings,
    },
  )
  _log.info("%s: %d items", job.name, len(job.items))
  if job.protocol.kind == "image":
    sample_images(pipeline, job.items, journal, sampling, folder)
    predictions = job.protocol.write(folder, job.items)
  elif job.protocol.kind in _ESTIMATES:
    _ESTIMATES[job.protocol.kind](pipeline, job, journal, sampling)
    predictions = folder
  else:
    sample_texts(pipeline, job, journal, sampling)
    predictions = job.protocol.write(folder, job.items, journal.outputs)
    rows = llava_answers(
      job.items, journal.outputs, sampling.prompts, pipeline.config.name
    )
    write_lines(folder / "answers.jsonl", rows)
  return scored_result(
    job,
    folder=folder,
    outputs=journal.outputs,
    prompts=sampling.prompts,
    settings=settings,
    predictions=predictions,
    is_baseline=is_baseline,
  )


def _sampling(
  job: Job, pipeline: Pipeline | Sd3Pipeline, config: Config
) -> Sampling:
  """How a task is sampled, by the published settings or by the config."""
  plan, protocol = config.benchmarks, job.protocol
  sample, length, size = config.sample, None, None
  if plan.sampling == "published" and protocol.sampling:
    plain = SampleConfig(batch_size=sample.batch_size)
    sample = sample_config(plain, protocol.sampling)
    size, length = protocol.image_size or None, protocol.text_length or None
  longest = getattr(pipeline, "longest_text", None)
  if length and longest and length > longest:
    _log.warning(
      "%s: the model's longest text has %d tokens, published numbers have %d",
      job.name,
      longest,
      length,
    )
    length = longest
  template, prompts = _prompts(job, pipeline, plan)
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
  job: Job, pipeline: Pipeline | Sd3Pipeline, plan: BenchmarksConfig
) -> tuple[str, dict[str, str]]:
  """A template, and what the model is given by key of the item."""
  keys = [item.key for item in job.items]
  template = "{question}"
  texts = [item.text for item in job.items]
  if plan.prompt == "trained" and job.protocol.kind == "answer":
    template, *texts = pipeline.prompts([template, *texts])
  elif plan.prompt == "published" and job.protocol.template:
    template = job.protocol.template
    texts = [shown_prompt(job.protocol, item) for item in job.items]
  return template, dict(zip(keys, texts, strict=True))
