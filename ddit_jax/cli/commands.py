"""The verbs `train`, `sample`, `evaluate` and `lora`.

Their imports are deferred until they run, so `--help` is fast.
"""

import argparse
import dataclasses
import pathlib
from typing import TYPE_CHECKING, Any

from ddit_jax.cli import cluster, compilation_cache
from ddit_jax.cli.flags import Flag, Verb
from ddit_jax.config.load import load_config, load_job, overridden
from ddit_jax.errors import InputError, preparing, suggest

if TYPE_CHECKING:
  from ddit_jax.experiment.trainer import Evaluation, Trainer

_CONFIG = Flag("config file, FILE.py[:variant]", is_path=True)
_WEIGHTS = Flag("ema (exponential moving average) or params", str, "ema")
_STEP = Flag("checkpoint's step; the newest if unset", int)


def _validation_tasks(trainer: "Trainer") -> "Evaluation":
  """What runs `benchmarks.at_validation`; imported where that names tasks."""
  from ddit_jax.pipelines.validation_tasks import ValidationTasks

  return ValidationTasks.of(trainer)


def _train(values: argparse.Namespace, overrides: dict[str, str]) -> int:
  from ddit_jax.experiment.config import Config

  job = load_job(Config, values.config, overrides)
  from ddit_jax.experiment import run_report, stages, trainer

  cluster.check_stop_code(values)
  configs = job.values() if isinstance(job, dict) else [job]
  timeouts = (config.train.peer_timeout_seconds for config in configs)
  cluster.join(values, peer_timeout_seconds=max(timeouts))
  compilation_cache.use(values)
  workdir = pathlib.Path(values.workdir)
  if isinstance(job, dict):
    is_done = stages.train_stages(
      job, values.workdir, evaluation_of=_validation_tasks
    )
    run_report.write_run_reports(workdir / name for name in job)
  else:
    is_done = trainer.train(
      job, values.workdir, evaluation_of=_validation_tasks
    )
    run_report.write_run_reports([workdir])
  return 0 if is_done else values.stop_code


TRAIN = Verb(
  name="train",
  summary="train a network, or resume the run in a folder",
  description="""
Trains one network on two tasks at once: generating images from text, and text
from images. Starts in an empty --workdir, or resumes exactly where an earlier
run in it stopped. Ctrl-C or SIGTERM saves a checkpoint and exits 0, or with
--stop_code, by which the scripts in launch/ know that the run must go on.

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
    "workdir": Flag("folder the run lives in", is_path=True),
    "stop_code": cluster.STOP_CODE,
    **cluster.FLAGS,
    **compilation_cache.FLAGS,
  },
  run=_train,
  required=("config", "workdir"),
)


def _sample(values: argparse.Namespace, overrides: dict[str, str]) -> int:
  from ddit_jax.pipelines import generating, requests

  if values.task not in requests.NEEDED:
    hint = suggest(values.task, requests.NEEDED)
    raise InputError(f"unknown task {values.task!r}: {hint}")
  with preparing():
    options = generating.Options(
      sample=_sample_changes(values, overrides),
      indices=_integers("indices", values.indices, ","),
      size=_integers("size", values.size, "x"),
      **{name: getattr(values, name) for name in _PLAIN_OPTIONS},
    )
  rows = requests.read(
    values.task,
    {
      key: getattr(values, key)
      for key in (
        "prompt",
        "negative_prompt",
        "image",
        "mask_image",
        "question",
      )
    },
    values.inputs,
  )
  if "strength" in values.given and not any("image" in row for row in rows):
    raise InputError(
      "--strength says how much an image is changed: give --image, or leave it "
      "out"
    )
  compilation_cache.use(values)
  return generating.generate(
    values.checkpoint,
    values.task,
    rows,
    out=values.out,
    weights=values.weights,
    step=values.step,
    options=options,
  )


# Flags of `ddit sample` that are fields of `generating.Options`.
_PLAIN_OPTIONS = (
  "seed",
  "num_images_per_prompt",
  "instruction",
  "step_cache",
)
# Flags that only one task takes.
_TASK_OF = {
  "size": "t2i",
  "num_images_per_prompt": "t2i",
  "step_cache": "t2i",
  "instruction": "vqa",
}


def _sample_changes(
  values: argparse.Namespace, overrides: dict[str, str]
) -> dict[str, str]:
  """Changes of the sampling config, after checking that the task uses them."""
  from ddit_jax.pipelines.generating import FLAG_FIELDS

  task = values.task
  for name, other in _TASK_OF.items():
    if name in values.given and task != other:
      raise InputError(f"--task={task} does not take --{name}")
  unused = "text" if task == "t2i" else "image"
  for key in overrides:
    if key.partition(".")[0] == unused:
      raise InputError(f"--task={task} does not use --sample.{key}")
  fields = {key.rpartition(".")[2]: key for key in FLAG_FIELDS[task]}
  changes = dict(overrides)
  for name in sorted(values.given & _FIELD_FLAGS.keys()):
    key = fields.get(name)
    if key is None:
      hint = suggest(name, fields)
      raise InputError(f"--task={task} does not take --{name}: {hint}")
    if key in changes:
      raise InputError(f"--{name} and --sample.{key} set the same: keep one")
    changes[key] = getattr(values, name)
  return changes


def _integers(
  name: str, text: str | None, separator: str
) -> tuple[int, ...] | None:
  """The integers of "16x24" or "0,2"; None if unset."""
  if text is None:
    return None
  try:
    return tuple(map(int, text.split(separator)))
  except ValueError:
    raise InputError(
      f"--{name} must be integers joined by {separator!r}, got {text!r}"
    ) from None


# Fields of the sampling config, see `generating.FLAG_FIELDS`; the flags have
# their types and defaults.
_FIELD_FLAGS = {
  "batch_size": Flag("images or texts at once; fewer take less memory"),
  "guidance_scale": Flag("t2i: of classifier-free guidance; 1 is none"),
  "num_inference_steps": Flag("t2i: steps of the solver"),
  "num_steps": Flag("caption, vqa: most steps of the text sampler"),
  "order": Flag("caption, vqa: in which order tokens are revealed"),
  "preset": Flag(
    "caption, vqa: named settings, such as exact, fast or turbo, in place of "
    "the checkpoint's"
  ),
  "shift": Flag("t2i: resolution shift of the times"),
  "solver": Flag("t2i: euler, euler_stochastic, heun or dpmpp_2m"),
  "strength": Flag("t2i with --image: share of the steps that it goes through"),
  "temperature": Flag("caption, vqa: of the draws; 0 is the most likely token"),
}

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
"prompt", "image" and "question" that the task needs; t2i also takes
"negative_prompt", "image" and "mask_image". Images are written as PNG files,
texts to results.jsonl, both in --out. A request that cannot be run
gets an "error" there in place of a result; the others are run, and the exit
code is 1.

--checkpoint also takes the output of tools/convert_sd3_weights.py; weights of
plain SD3 (--target=sd3) only generate images.

Results depend on the seed and on their number in the list, which is also the
name of the image file: --indices=7 draws the eighth image of the same call
again. The sampling config is the checkpoint's; flags change single fields:

  ddit sample --checkpoint=runs/digits --task=t2i --prompt="a red seven" \\
    --guidance_scale=2 --num_inference_steps=50 --num_images_per_prompt=4

An image is changed with --image, and only in the white parts of a --mask_image:

  ddit sample --checkpoint=runs/digits --task=t2i --prompt="a blue seven" \\
    --image=seven.png --strength=0.7
""",
  flags={
    "checkpoint": Flag(
      "folder of a run, its checkpoints, or converted weights", is_path=True
    ),
    "task": Flag("t2i, caption or vqa"),
    "out": Flag(
      "folder for PNG files and results.jsonl", str, "samples", is_path=True
    ),
    "inputs": Flag(
      "JSONL file with prompts, images and questions", is_path=True
    ),
    "prompt": Flag("what to draw", is_repeated=True),
    "negative_prompt": Flag("t2i: what not to draw", is_repeated=True),
    "image": Flag(
      "an image file; t2i changes it", is_repeated=True, is_path=True
    ),
    "mask_image": Flag(
      "t2i: an image file, white where --image is drawn anew",
      is_repeated=True,
      is_path=True,
    ),
    "question": Flag("a question about the image", is_repeated=True),
    "weights": _WEIGHTS,
    "step": _STEP,
    "seed": Flag("of the draws", int, 0),
    "indices": Flag("numbers of the results wanted, e.g. 0,7; all if unset"),
    "size": Flag("t2i: side of the images in pixels, or HEIGHTxWIDTH"),
    "num_images_per_prompt": Flag("t2i: images of each prompt", int, 1),
    "step_cache": Flag(
      "t2i: allowed error of steps that reuse the network's blocks, e.g. 0.06; "
      "faster, and approximate",
      float,
    ),
    "instruction": Flag(
      "vqa: what follows each question; as in training if unset"
    ),
    **_FIELD_FLAGS,
    **compilation_cache.FLAGS,
  },
  run=_sample,
  required=("checkpoint", "task"),
  section="sample",
)


def _evaluation_config(
  values: argparse.Namespace, overrides: dict[str, str]
) -> Any:
  """The config that is named, or else the one that the run was trained with."""
  from ddit_jax.experiment.config import Config

  if values.config is not None:
    return load_config(Config, values.config, overrides)
  from ddit_jax.pipelines.load import stored_config

  config = stored_config(values.checkpoint, values.step)
  if config is None:
    raise InputError(
      f"--config is missing: {values.checkpoint} holds converted weights, that "
      "no config has trained"
    )
  return overridden(config, overrides, "config")


def _evaluate(values: argparse.Namespace, overrides: dict[str, str]) -> int:
  tasks = [task.strip() for task in values.tasks.split(",") if task.strip()]
  is_exam = tasks == ["digits"]
  if is_exam and values.baseline is not None:
    raise InputError("--baseline needs --tasks: the digits exam has its own")
  if not is_exam and (
    "digits" in tasks or len(set(tasks)) < max(len(tasks), 1)
  ):
    raise InputError(
      f"--tasks={values.tasks}: name each benchmark once, and digits alone"
    )
  cluster.join(values)
  from ddit_jax.experiment import processes

  with processes.leaving_together():
    config = _evaluation_config(values, overrides)
    flags = ("checkpoint", "tasks", "baseline", "out", "weights", "step")
    processes.check_same_settings(
      dataclasses.asdict(config)
      | {name: getattr(values, name) for name in flags}
    )
    compilation_cache.use(values)
    options = {name: getattr(values, name) for name in flags[-3:]}
    if is_exam:
      from ddit_jax.pipelines import evaluate

      return evaluate.evaluate(config, values.checkpoint, **options)
    from ddit_jax.pipelines import benchmarks

    return benchmarks.evaluate_benchmarks(
      config, values.checkpoint, tasks, baseline=values.baseline, **options
    )


EVALUATE = Verb(
  name="evaluate",
  summary="score a checkpoint on benchmarks or your data, and write a report",
  description="""
Without --tasks, evaluates a checkpoint on unseen handwriting, in all three
tasks, and compares every score with that of an oracle on real scenes, a prior
baseline and controls, with bootstrap intervals. Without --config a run is
evaluated by the config that it was trained with.

  ddit evaluate --checkpoint=runs/digits --out=runs/digits/evaluation

Writes metrics.json, the generated images, captions and answers, and
report.html (one file that opens offline) to the folder --out.

With --tasks, runs published benchmarks by their official files and scorers, or
tasks on sources of the config ("captions:NAME"; docs/evaluation.md lists all):

  ddit evaluate --checkpoint=runs/mine --tasks=captions:mine \\
    --out=runs/mine/benchmarks

  ddit evaluate --checkpoint=runs/ddit/stage3 --config=configs/benchmarks.py \\
    --tasks=vqav2,pope,geneval --out=runs/ddit/stage3/benchmarks

A run that was stopped goes on where it was. Beside metrics.json lie
manifest.json, which says what the figures depend on, and a folder a task with
the outputs in the official layout.

On several machines each runs the same command, as with ddit train
(--distributed; docs/launch.md); all share every batch.
""",
  flags={
    "checkpoint": Flag(
      "folder of a run, its checkpoints, or converted weights", is_path=True
    ),
    "tasks": Flag("benchmarks, joined by commas", str, "digits"),
    "baseline": Flag(
      "a second checkpoint, such as SD3's, for the same prompts and seeds",
      is_path=True,
    ),
    "config": Flag(
      "config file, FILE.py[:variant]; the run's own if unset", is_path=True
    ),
    "out": Flag("folder for metrics, samples and the report", is_path=True),
    "weights": _WEIGHTS,
    "step": _STEP,
    **cluster.FLAGS,
    **compilation_cache.FLAGS,
  },
  run=_evaluate,
  required=("checkpoint", "out"),
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
    "checkpoint": Flag(
      "folder of a run with adapters, or its checkpoints", is_path=True
    ),
    "out": Flag(
      "new FILE.safetensors, or with --merge a new folder", is_path=True
    ),
    "weights": _WEIGHTS,
    "step": _STEP,
    "merge": Flag("write the network with the adapters merged in", bool, False),
  },
  run=_lora,
  required=("checkpoint", "out"),
  section="",
)
