"""`ddit score`: figures of a benchmark from predictions and references."""

import argparse
from collections.abc import Mapping
from typing import Any

from ddit_jax.cli.flags import Flag, Verb, check_out, write_out
from ddit_jax.errors import preparing, printable
from ddit_jax.files import local_path

_DESCRIPTION = """
Scores predictions by the rules of a benchmark's official scorer, from official
files. Needs no model and no accelerator.

  ddit score --benchmark=vqav2 --predictions=results.json \\
    --references=v2_mscoco_val2014_annotations.json --out=vqav2.json
  ddit score --benchmark=gqa --predictions=predictions.json \\
    --references=val_balanced_questions.json --references=val_choices.json

Prints every figure, with a 95 % interval where it is a mean of items; --out
writes them as JSON together with the scores of all items and the hashes of the
files. docs/scoring.md lists the benchmarks, their files and their rules.
"""


def _run(values: argparse.Namespace, overrides: dict[str, str]) -> int:
  del overrides
  from ddit_jax.scoring.benchmarks import report, score_files

  predictions = local_path(values.predictions)
  references = [local_path(path) for path in values.references]
  out = check_out(values.out)
  with preparing():
    scored = score_files(values.benchmark, predictions, references)
    result = report(values.benchmark, scored, predictions, references)
    write_out(out, result, indent=1)
  print(printable(_summary(result)))
  return 0


def _summary(result: Mapping[str, Any]) -> str:
  """The figures of a result, one a line, and its notes."""
  lines = [f"{result['title']}, by {result['scorer']}"]
  for name, value in result["figures"].items():
    if isinstance(value, Mapping):
      lines += [_line(f"{name}/{part}", one) for part, one in value.items()]
    else:
      lines.append(_line(name, value, result["intervals"].get(name)))
  return "\n".join([*lines, *(f"note: {note}" for note in result["notes"])])


def _line(
  name: str, value: float, interval: Mapping[str, float] | None = None
) -> str:
  text = f"{name:<44}  {value:.10g}"
  if interval:
    text += (
      f"  [{interval['low']:.6g}, {interval['high']:.6g}], "
      f"{interval['n']:,} items"
    )
  return text


VERB = Verb(
  name="score",
  summary="score predictions by a benchmark's official rules, without a model",
  description=_DESCRIPTION,
  flags={
    "benchmark": Flag("name of the benchmark, e.g. vqav2"),
    "predictions": Flag("file or folder of predictions", is_path=True),
    "references": Flag(
      "file or folder of references; more than one where the benchmark takes "
      "them, in the order of docs/scoring.md",
      is_repeated=True,
      is_path=True,
    ),
    "out": Flag("file for the result as JSON", is_path=True),
  },
  run=_run,
  required=("benchmark", "predictions"),
  section="",
)
