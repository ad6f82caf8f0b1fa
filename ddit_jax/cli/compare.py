"""`ddit compare`: a paired test of two results of `ddit score`."""

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ddit_jax.cli.flags import Flag, Verb, check_out, write_out
from ddit_jax.errors import preparing, printable
from ddit_jax.files import local_path

if TYPE_CHECKING:
  from ddit_jax.evaluation.paired import PairedDifference
  from ddit_jax.scoring.comparison import ScoreFile

_DESCRIPTION = """
Tests whether two runs differ, on the items of one benchmark that both were
scored on.

  ddit score --benchmark=vqav2 --predictions=a.json \\
    --references=annotations.json --out=first.json
  ddit score --benchmark=vqav2 --predictions=b.json \\
    --references=annotations.json --out=second.json
  ddit compare first.json second.json
  ddit compare --first=first.json --second=second.json --out=comparison.json

For every figure that is a mean of items it prints the difference, second minus
first, with the 95 % interval of a bootstrap over groups (the questions of an
image, the images of a prompt), the p-value of a sign-flip test over groups, and
how many items got better and worse. Where items are right or wrong, it adds
McNemar's exact p-value, which takes items for independent.
"""


def _run(values: argparse.Namespace, overrides: dict[str, str]) -> int:
  del overrides
  out = check_out(values.out)
  from ddit_jax.scoring.comparison import (
    compare,
    comparison_report,
    read_score_file,
  )

  with preparing():
    first, second = (
      read_score_file(local_path(path))
      for path in (values.first, values.second)
    )
    differences = compare(first, second)
    report = comparison_report(first, second, differences)
    write_out(out, report, indent=1)
  print(printable(_summary(first, second, differences)))
  return 0


def _summary(
  first: "ScoreFile",
  second: "ScoreFile",
  differences: Mapping[str, "PairedDifference"],
) -> str:
  """The differences, a few lines a figure."""
  lines = [f"{first.benchmark}: {second.path} minus {first.path}"]
  for name, one in differences.items():
    size = one.difference
    lines += [
      f"{name}: {first.figures.get(name)} to {second.figures.get(name)}",
      f"  difference {size.value:+.6g} [{size.low:+.6g}, {size.high:+.6g}], "
      f"p = {one.p_value:.4f}",
      f"  of {size.n:,} items {one.better:,} better, {one.worse:,} worse",
    ]
    if one.mcnemar_p_value is not None:
      lines.append(
        f"  McNemar's p = {one.mcnemar_p_value:.4f}, for independent items"
      )
  return "\n".join(lines)


VERB = Verb(
  name="compare",
  summary="test whether two results of ddit score differ",
  description=_DESCRIPTION,
  flags={
    "first": Flag("result of ddit score --out", is_path=True),
    "second": Flag("result of another run on the same items", is_path=True),
    "out": Flag("file for the comparison as JSON", is_path=True),
  },
  run=_run,
  required=("first", "second"),
  operands=("first", "second"),
  section="",
)
