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

import tqdm

from ddit_jax.conversion import convert, export
from ddit_jax.conversion.component_plan import TARGETS
from ddit_jax.conversion.dtypes import OUTPUT_DTYPES
from ddit_jax.conversion.peak_memory import GIB, memory_bound, peak_memory

BAD_INPUT = 2


def main() -> int:
  """Runs the tool; 0 is success, 2 bad input."""
  args = _parser().parse_args()
  try:
    start = time.monotonic()
    outcome = _export(args) if args.export else _import(args)
  except (ValueError, OSError) as error:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return BAD_INPUT
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


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  add = parser.add_argument
  add("src", type=pathlib.Path, metavar="SRC")
  add("dst", type=pathlib.Path, metavar="DST")
  add("--export", metavar="a|c", help="go back, to this layout")
  add("--layout", metavar="a|b|c", help="insist on a layout of SRC")
  add("--target", default="ddit", choices=TARGETS, help="network to make")
  add("--dtype", choices=OUTPUT_DTYPES, help="dtype of all arrays")
  add("--verify", action="store_true", help="re-read and compare both sides")
  add("--seed", type=int, default=0, help="of parameters that start fresh")
  add("--tokenizer", type=pathlib.Path, help="T5's tokenizer, if SRC has none")
  add("--vocab_size", type=int, help="rows of a fresh text head")
  add("--params", type=pathlib.Path, help="export these network parameters")
  return parser


def _import(args: argparse.Namespace) -> convert.Outcome:
  options = convert.ConvertOptions(
    layout=args.layout,
    target=args.target,
    dtype=args.dtype,
    seed=args.seed,
    tokenizer=args.tokenizer,
    vocab_size=args.vocab_size,
    is_verified=args.verify,
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
