"""Converts SD3 and D-DiT checkpoints to ours, and ours back.

  convert_sd3_weights.py SRC DST                 import
  convert_sd3_weights.py SRC DST --export=a|c    export

SRC of an import is a diffusers folder of SD3-medium (a), Stability's single
file (b) or a released D-DiT folder (c); DST is a checkpoint that training
starts from and sampling loads. SRC of an export is such a checkpoint.
"""

import argparse
import pathlib
import sys
import time
from typing import NoReturn

import tqdm

from ddit_jax.conversion import convert, export
from ddit_jax.conversion.component_plan import TARGETS
from ddit_jax.conversion.dtypes import OUTPUT_DTYPES
from ddit_jax.conversion.peak_memory import GIB, memory_bound, peak_memory

BAD_INPUT = 2
# What shells expect of a program that Ctrl-C ended.
STOPPED = 130
IMPORT_FLAGS = ("layout", "target", "seed", "tokenizer", "vocab_size")
EXPORT_FLAGS = ("params",)


def main() -> int:
  """Runs the tool; 0 is success, 2 bad input, 130 an interrupt."""
  try:
    args = _parse()
    start = time.monotonic()
    outcome = _import(args) if args.export is None else _export(args)
  except (ValueError, OSError) as error:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return BAD_INPUT
  except KeyboardInterrupt:
    print("stopped: nothing was left behind", file=sys.stderr)
    return STOPPED
  seconds = time.monotonic() - start
  print("\n".join(outcome.lines))
  print(
    f"{outcome.nbytes:,} bytes in {seconds:.1f} s, "
    f"{outcome.nbytes / seconds / 1e6:.0f} MB/s"
  )
  print(
    f"peak memory {peak_memory() / GIB:.2f} GiB, bound "
    f"{memory_bound(outcome.largest_array) / GIB:.2f} GiB (2.5 x largest array "
    f"of {outcome.largest_array / GIB:.2f} GiB + 1 GiB)"
  )
  print(f"wrote {args.dst}")
  return 0


class _Parser(argparse.ArgumentParser):
  """Says in one line what is wrong with the flags."""

  def error(self, message: str) -> NoReturn:
    """Raises ValueError."""
    raise ValueError(f"{message}; --help lists what there is")


def _parser() -> _Parser:
  parser = _Parser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  add = parser.add_argument
  add("src", type=pathlib.Path, metavar="SRC")
  add("dst", type=pathlib.Path, metavar="DST")
  add("--export", metavar="a|c", help="go back, to this layout")
  add("--dtype", choices=OUTPUT_DTYPES, help="dtype of all arrays")
  add("--verify", action="store_true", help="re-read and compare both sides")
  add = parser.add_argument_group("of an import").add_argument
  add("--layout", metavar="a|b|c", help="insist on a layout of SRC")
  add("--target", choices=TARGETS, help="network to make (default: ddit)")
  add("--seed", type=int, help="of parameters that start fresh (default: 0)")
  add(
    "--tokenizer",
    type=pathlib.Path,
    help="T5's tokenizer, or a folder with SD3's three, if SRC has none",
  )
  add("--vocab_size", type=int, help="rows of a fresh text head")
  add = parser.add_argument_group("of an export").add_argument
  add("--params", type=pathlib.Path, help="export these network parameters")
  return parser


def _parse() -> argparse.Namespace:
  args = _parser().parse_args()
  unused = EXPORT_FLAGS if args.export is None else IMPORT_FLAGS
  if given := [f"--{f}" for f in unused if getattr(args, f) is not None]:
    kind = "an export" if args.export is None else "an import"
    raise ValueError(f"{', '.join(given)} is for {kind} only: leave it out")
  return args


def _import(args: argparse.Namespace) -> convert.Outcome:
  given = {flag: getattr(args, flag) for flag in IMPORT_FLAGS}
  options = convert.ConvertOptions(
    dtype=args.dtype,
    is_verified=args.verify,
    **{flag: value for flag, value in given.items() if value is not None},
  )
  plan = convert.plan_import(args.src, options)
  with _progress(convert.work_bytes(plan, options)) as bar:
    return convert.convert(plan, args.dst, options, bar.update)


def _export(args: argparse.Namespace) -> convert.Outcome:
  options = export.ExportOptions(
    layout=args.export,
    dtype=args.dtype,
    network_params=args.params,
    is_verified=args.verify,
  )
  parts = export.plan_export(args.src, options)
  with _progress(sum(part.nbytes() for part in parts)) as bar:
    return export.export(args.src, parts, args.dst, options, bar.update)


def _progress(total: int) -> tqdm.tqdm:
  return tqdm.tqdm(total=total, unit="B", unit_scale=True, mininterval=0.5)


if __name__ == "__main__":
  sys.exit(main())
