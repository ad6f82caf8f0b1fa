"""Compares the scorers with recorded outputs of the published ones.

  check_scorers.py --cases=DIR

DIR holds folders of cases in the format of docs/scoring.md. Prints one line
per figure, and last `N passed, M failed`; exits with 1 if any failed, or if
there was nothing to check.
"""

import argparse
import pathlib
import sys

from scorers.check import check_folders, lines


def main() -> int:
  """Runs the tool; 0 if every figure passed, and there was one."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument(
    "--cases",
    type=pathlib.Path,
    required=True,
    metavar="DIR",
    help="folder of folders of cases",
  )
  last = ""
  for last in lines(check_folders(parser.parse_args().cases)):
    print(last, flush=True)
  return 0 if last.endswith(" 0 failed") and not last.startswith("0 ") else 1


if __name__ == "__main__":
  sys.exit(main())
