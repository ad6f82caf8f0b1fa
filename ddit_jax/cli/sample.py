"""`ddit sample`."""

from absl import flags

from ddit_jax.cli.verb_flags import Verb, require
from ddit_jax.errors import InputError, preparing, suggest

TASKS = ("t2i", "caption", "vqa")

DESCRIPTION = """
Runs one task of a trained checkpoint:
  t2i      draws images from prompts
  caption  describes images
  vqa      answers questions about images

  ddit sample --checkpoint=runs/digits --task=t2i \\
    --prompt="a picture of a red seven"
  ddit sample --checkpoint=runs/digits --task=caption --image=seven.png
  ddit sample --checkpoint=runs/digits --task=vqa \\
    --image=seven.png --question="what color is the number?"

Many at once: --inputs=FILE.jsonl, one JSON object a line with the keys
"prompt", "image" and "question" that the task needs. Images are written as
PNG files, texts to results.jsonl, both in --out.

--checkpoint also takes what tools/convert_sd3_weights.py wrote; weights of
plain SD3 (--target=sd3) only draw.
"""


def define(values: flags.FlagValues) -> None:
  def text(name, default, help_text):
    flags.DEFINE_string(name, default, help_text, flag_values=values)

  def many(name, help_text):
    flags.DEFINE_multi_string(name, None, help_text, flag_values=values)

  text(
    "checkpoint", None, "folder of a run, its checkpoints, or converted weights"
  )
  text("task", None, "t2i, caption or vqa")
  text("out", "samples", "folder for PNG files and results.jsonl")
  text("inputs", None, "JSONL file with prompts, images and questions")
  many("prompt", "what to draw")
  many("image", "an image file")
  many("question", "a question about the image")
  text("weights", "ema", "ema (averaged parameters) or params")
  flags.DEFINE_integer(
    "step", None, "checkpoint's step; the newest if unset", flag_values=values
  )
  flags.DEFINE_integer("seed", 0, "of the draws", flag_values=values)


def run(values: flags.FlagValues, overrides: dict[str, str]) -> int:
  del overrides
  require(values, "checkpoint", "task")
  if values.task not in TASKS:
    raise InputError(
      f"unknown task {values.task!r}: {suggest(values.task, TASKS)}"
    )
  from ddit_jax.pipelines import requests
  from ddit_jax.prng import check_seed

  with preparing():
    check_seed(values.seed)
  batch = requests.read(
    values.task,
    prompts=values.prompt or [],
    images=values.image or [],
    questions=values.question or [],
    inputs=values.inputs,
  )
  return requests.generate(
    values.checkpoint,
    batch,
    out=values.out,
    weights=values.weights,
    step=values.step,
    seed=values.seed,
  )


VERB = Verb(
  name="sample",
  summary="draw images, or caption and question them, with a checkpoint",
  description=DESCRIPTION,
  define=define,
  run=run,
  takes_config=False,
)
