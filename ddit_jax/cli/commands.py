"""The verbs `train`, `sample`, `evaluate` and `lora`.

Their imports are deferred until they run, so `--help` is fast.
"""

import argparse
import pathlib

from ddit_jax.cli.flags import Flag, Verb
from ddit_jax.config.load import load_config, load_job
from ddit_jax.errors import InputError, preparing, suggest

_CONFIG = Flag("config file, FILE.py[:variant]")
_WEIGHTS = Flag("ema (exponential moving average) or params", str, "ema")
_STEP = Flag("checkpoint's step; the newest if unset", int)


def _train(values: argparse.Namespace, overrides: dict[str, str]) -> int:
  from ddit_jax.experiment.config import Config

  job = load_job(Config, values.config, overrides)
  from ddit_jax.experiment import run_report, stages, trainer

  if values.distributed:
    join_cluster()
  workdir = pathlib.Path(values.workdir)
  if isinstance(job, dict):
    stages.train_stages(job, values.workdir)
    run_report.write_run_reports(workdir / name for name in job)
  else:
    trainer.train(job, values.workdir)
    run_report.write_run_reports([workdir])
  return 0


def join_cluster() -> None:
  """Joins the other processes of a cluster job; InputError without one."""
  import jax

  try:
    jax.distributed.initialize()
  except (ValueError, RuntimeError) as error:
    raise InputError(
      f"--distributed found no cluster job to join ({error}): leave it out on "
      "one machine, or start through the cluster's launcher"
    ) from error


TRAIN = Verb(
  name="train",
  summary="train a network, or resume the run in a folder",
  description="""
Trains one network on two tasks at once: generating images from text, and text
from images. Starts in an empty --workdir, or resumes exactly where an earlier
run in it stopped. Ctrl-C or SIGTERM saves a checkpoint and exits 0.

  ddit train --config=configs/digits.py --workdir=runs/digits

A config of several stages (configs/ddit_sd3.py:all) trains them in order, each
in a folder of its name; the same command resumes the right one.

Writes checkpoints/, scalars.jsonl, TensorBoard files, sample grids and
config.json to the workdir; at its end and at a stop also report.html, which
shows curves, samples and config (training.html where an evaluation lies in the
same folder).
""",
  flags={
    "config": _CONFIG,
    "workdir": Flag("folder the run lives in"),
    "distributed": Flag(
      "join the other processes of a cluster job before starting", bool, False
    ),
  },
  run=_train,
  required=("config", "workdir"),
)


def _sample(values: argparse.Namespace, overrides: dict[str, str]) -> int:
  del overrides
  from ddit_jax.pipelines import requests
  from ddit_jax.prng import check_seed

  if values.task not in requests.NEEDED:
    hint = suggest(values.task, requests.NEEDED)
    raise InputError(f"unknown task {values.task!r}: {hint}")
  with preparing():
    check_seed(values.seed)
  rows = requests.read(
    values.task,
    prompts=values.prompt,
    images=values.image,
    questions=values.question,
    inputs=values.inputs,
  )
  return requests.generate(
    values.checkpoint,
    values.task,
    rows,
    out=values.out,
    weights=values.weights,
    step=values.step,
    seed=values.seed,
  )


SAMPLE = Verb(
  name="sample",
  summary="generate images, or caption and question them",
  description="""
Runs one task of a trained checkpoint:
  t2i      generates images from prompts
  caption  describes images
  vqa      answers questions about images

  ddit sample --checkpoint=runs/digits --task=t2i \\
    --prompt="a picture of a red seven"
  ddit sample --checkpoint=runs/digits --task=caption --image=seven.png
  ddit sample --checkpoint=runs/digits --task=vqa \\
    --image=seven.png --question="what color is the number?"

Many at once: --inputs=FILE.jsonl, one JSON object per line with the keys
"prompt", "image" and "question" that the task needs. Images are written as
PNG files, texts to results.jsonl, both in --out.

--checkpoint also takes the output of tools/convert_sd3_weights.py; weights of
plain SD3 (--target=sd3) only generate images.
""",
  flags={
    "checkpoint": Flag(
      "folder of a run, its checkpoints, or converted weights"
    ),
    "task": Flag("t2i, caption or vqa"),
    "out": Flag("folder for PNG files and results.jsonl", str, "samples"),
    "inputs": Flag("JSONL file with prompts, images and questions"),
    "prompt": Flag("what to draw", is_repeated=True),
    "image": Flag("an image file", is_repeated=True),
    "question": Flag("a question about the image", is_repeated=True),
    "weights": _WEIGHTS,
    "step": _STEP,
    "seed": Flag("of the draws", int, 0),
  },
  run=_sample,
  required=("checkpoint", "task"),
  takes_config=False,
)


def _evaluate(values: argparse.Namespace, overrides: dict[str, str]) -> int:
  from ddit_jax.experiment.config import Config

  config = load_config(Config, values.config, overrides)
  from ddit_jax.pipelines import evaluate

  return evaluate.evaluate(
    config,
    values.checkpoint,
    out=values.out,
    weights=values.weights,
    step=values.step,
  )


EVALUATE = Verb(
  name="evaluate",
  summary="score a checkpoint on all three tasks and write a report",
  description="""
Evaluates a checkpoint on unseen handwriting, in all three tasks, and compares
every score with that of an oracle on real scenes, a prior baseline and
controls, with bootstrap intervals.

  ddit evaluate --checkpoint=runs/digits --config=configs/digits.py \\
    --out=runs/digits/evaluation

Writes metrics.json, the generated images, captions and answers, and
report.html (one file that opens offline) to the folder --out.
""",
  flags={
    "checkpoint": Flag("folder of a run, or its checkpoints"),
    "config": _CONFIG,
    "out": Flag("folder for metrics, samples and the report"),
    "weights": _WEIGHTS,
    "step": _STEP,
  },
  run=_evaluate,
  required=("checkpoint", "config", "out"),
)


def _lora(values: argparse.Namespace, overrides: dict[str, str]) -> int:
  del overrides
  from ddit_jax.pipelines import lora_export
  from ddit_jax.pipelines.load import WEIGHTS

  if values.weights not in WEIGHTS:
    hint = suggest(values.weights, WEIGHTS)
    raise InputError(f"unknown weights {values.weights!r}: {hint}")
  export = lora_export.export_adapter
  if values.merge:
    export = lora_export.export_merged
  return export(
    values.checkpoint, values.out, weights=values.weights, step=values.step
  )


LORA = Verb(
  name="lora",
  summary="take a run's adapters out as a file, or merge them",
  description="""
Extracts the adapters of a run that was trained with lora.rank set: as one file
that diffusers and PEFT load, or merged into the network.

  ddit lora --checkpoint=runs/lora --out=adapter.safetensors
  ddit lora --checkpoint=runs/lora --merge --out=runs/merged

A merged folder is a checkpoint: ddit sample and init_from accept it, and
tools/convert_sd3_weights.py exports its weights with --params.
""",
  flags={
    "checkpoint": Flag("folder of a run with adapters, or its checkpoints"),
    "out": Flag("new FILE.safetensors, or with --merge a new folder"),
    "weights": _WEIGHTS,
    "step": _STEP,
    "merge": Flag("write the network with the adapters merged in", bool, False),
  },
  run=_lora,
  required=("checkpoint", "out"),
  takes_config=False,
)
