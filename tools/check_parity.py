"""Compares ddit_jax with recorded arrays and checkpoints of a PyTorch run.

  check_parity.py --set=DIR [--cases=a,b,...]

DIR is a folder in the format of docs/parity.md. Prints one line per array and
`N passed, M failed`; exits with 1 if any failed or the set cannot be read.
"""

import argparse
import os
import pathlib
import sys

# The arrays are compared in float32 as a CPU computes it.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from parity.check import case_lines, check_set, summary_lines

from ddit_jax.errors import one_line


def main() -> int:
  """Runs the tool; 0 if every array passed, else 1."""
  args = _parser().parse_args()
  wanted = args.cases.split(",") if args.cases else None
  cases = []
  try:
    for case in check_set(args.set, wanted):
      cases.append(case)
      print("\n".join(case_lines(case)), flush=True)
  except ValueError as error:
    print(f"error: {one_line(error)}", file=sys.stderr)
    return 1
  print("\n".join(summary_lines(cases)))
  checks = [check for case in cases for check in case.checks]
  return 0 if checks and all(check.is_passed for check in checks) else 1


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument(
    "--set", type=pathlib.Path, required=True, metavar="DIR", help="golden set"
  )
  parser.add_argument(
    "--cases", metavar="a,b,...", help="letters or names of cases (default all)"
  )
  return parser


if __name__ == "__main__":
  sys.exit(main())
