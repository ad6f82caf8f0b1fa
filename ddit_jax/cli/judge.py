"""`ddit judge`: questions that a language model answers from captions."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ddit_jax.cli.flags import Flag, Verb
from ddit_jax.config.load import load_config
from ddit_jax.errors import InputError, check_known, preparing
from ddit_jax.files import local_path
from ddit_jax.json_files import write_lines

if TYPE_CHECKING:
  from ddit_jax.protocols.item import Item

_DESCRIPTION = """
Judges captions by the questions that can be answered from them, as in the
paper's Table 4. First it writes a prompt for each question of a benchmark
(with --inputs=FILE.jsonl ddit sample captions all images):

  ddit sample --checkpoint=runs/clip --task=caption --image=photo.png \\
    --out=captions
  ddit judge --config=configs/benchmarks.py --task=vqav2 \\
    --captions=captions/results.jsonl --out=judge
  ddit judge --config=configs/benchmarks.py --task=vqav2 \\
    --captions=captions/results.jsonl --out=judge --shots=32 \\
    --examples=answered.jsonl

judge/prompts_0_shot.jsonl and prompts_32_shot.jsonl have {"key", "prompt"} on
each line; the answered questions of --examples, {"caption", "question",
"answer"}, stand before the one that is asked. Any language model may answer, in
a file with {"key", "answer"} on each line. It becomes the official file, which
is what ddit score takes:

  ddit judge --config=configs/benchmarks.py --task=vqav2 \\
    --answers=answers.jsonl --out=judge

Of a subset, benchmarks.num_units, the references of its questions are written
beside it: ddit score takes them in place of the official ones.
"""


def _run(values: argparse.Namespace, overrides: dict[str, str]) -> int:
  from ddit_jax.experiment.config import Config

  config = load_config(Config, values.config, overrides)
  from ddit_jax.experiment.workdir import output_folder
  from ddit_jax.protocols import caption_prompts
  from ddit_jax.protocols.item import check_keys, chosen
  from ddit_jax.protocols.protocol import PROTOCOLS

  with preparing():
    _check_flags(values)
    check_known([values.task], PROTOCOLS, what="--task has no")
    protocol = PROTOCOLS[values.task]
    if protocol.kind != "answer":
      raise InputError(f"--task={values.task} asks no questions: take vqav2")
    files = config.benchmarks.paths(values.task, protocol)
    items = protocol.items(files)
    check_keys(items, values.task)
    some = chosen(items, config.benchmarks.num_units)
    is_subset = len(some) < len(items)
    if values.answers:
      path = local_path(values.answers, what="answers")
      answers = caption_prompts.read_judge_answers(path, some)
    else:
      rows = _prompts(values, some)
  with output_folder(values.out) as out:
    if not values.answers:
      print(write_lines(out / f"prompts_{values.shots}_shot.jsonl", rows))
      return 0
    print(protocol.write(out, some, answers))
    if is_subset and protocol.subset is not None:
      with preparing():
        cut = protocol.subset(files, some, out)
      print(*(path for path in cut.values() if path not in files.values()))
  return 0


def _prompts(
  values: argparse.Namespace, items: Sequence["Item"]
) -> list[dict[str, str]]:
  """A row for each question, see `caption_prompts.judge_prompts`."""
  from ddit_jax.protocols import caption_prompts

  examples = []
  if values.shots:
    path = local_path(values.examples, what="examples")
    examples = caption_prompts.read_examples(path, values.shots)
  captions = caption_prompts.read_generated_captions(
    local_path(values.captions, what="captions")
  )
  return caption_prompts.judge_prompts(items, captions, examples)


def _check_flags(values: argparse.Namespace) -> None:
  """Raises InputError for flags that do not belong together."""
  if bool(values.captions) == bool(values.answers):
    raise InputError(
      "give --captions to write prompts, or --answers to read what a language "
      "model said to them"
    )
  if values.answers and (values.shots or values.examples):
    raise InputError(
      "--shots and --examples are of prompts: leave them out with --answers"
    )
  if values.shots < 0 or bool(values.shots) != bool(values.examples):
    raise InputError(
      f"--shots={values.shots} and --examples={values.examples!r} do not fit: "
      "give a number of answered questions and the file that holds them"
    )


VERB = Verb(
  name="judge",
  summary="ask a language model questions about captions, through files",
  description=_DESCRIPTION,
  flags={
    "config": Flag("its section benchmarks", is_path=True),
    "task": Flag("a benchmark of questions, e.g. vqav2"),
    "out": Flag("folder of what is written", is_path=True),
    "captions": Flag("results.jsonl of ddit sample", is_path=True),
    "shots": Flag("answered questions before each", int, 0),
    "examples": Flag("file of answered questions", is_path=True),
    "answers": Flag("what the language model answered", is_path=True),
  },
  run=_run,
  required=("config", "task", "out"),
)
