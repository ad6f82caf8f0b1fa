"""Converts checkpoints of SD3, D-DiT, GPT-2 and CLIP to ours, and ours back.

  convert_sd3_weights.py SRC DST                 import
  convert_sd3_weights.py SRC DST --export=a|c|g|v   export

SRC of an import is a diffusers folder of SD3-medium (a), Stability's single
file (b), a released D-DiT folder (c), or transformers' folder of GPT-2 (g) or
of CLIP with its image encoder (v); DST is a checkpoint that training
starts from and sampling loads. SRC of an export is such a checkpoint.
"""

import argparse
import pathlib
import re
import resource
import sys
import time
from typing import NoReturn

import tqdm

from ddit_jax.conversion import convert, export
from ddit_jax.conversion.dtypes import OUTPUT_DTYPES
from ddit_jax.conversion.plan import TARGETS
from ddit_jax.errors import one_line, printable
from ddit_jax.files import check_is_new, local_path

_BAD_INPUT = 2
# Exit code that shells expect after Ctrl-C.
_STOPPED = 130
_IMPORT_FLAGS = (
  "format",
  "target",
  "seed",
  "tokenizer",
  "vocab_size",
  "lora",
)
_EXPORT_FLAGS = ("params",)
_GIB = 2**30


def main() -> int:
  """Runs the tool; 0 is success, 2 bad input, 130 an interrupt."""
  try:
    args = _parse()
    start = time.monotonic()
    outcome = _import(args) if args.export is None else _export(args)
  except (ValueError, OSError) as error:
    print(f"error: {one_line(error)}", file=sys.stderr)
    return _BAD_INPUT
  except KeyboardInterrupt:
    print("stopped: nothing was left behind", file=sys.stderr)
    return _STOPPED
  seconds = time.monotonic() - start
  print(printable("\n".join(outcome.lines)))
  print(
    f"{outcome.nbytes:,} bytes in {seconds:.1f} s, "
    f"{outcome.nbytes / seconds / 1e6:.0f} MB/s"
  )
  print(
    f"peak memory {_peak_memory() / _GIB:.2f} GiB, bound "
    f"{2.5 * outcome.largest_array / _GIB + 1:.2f} GiB (2.5 x largest array "
    f"of {outcome.largest_array / _GIB:.2f} GiB + 1 GiB)"
  )
  if args.verify:
    print(
      "verified: all arrays were read back, and every value equals its source, "
      "bit for bit"
    )
  print(f"wrote {args.dst}")
  return 0


class _Parser(argparse.ArgumentParser):
  """Reports errors in flags as one line."""

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
  add("--export", metavar="a|c|g|v", help="export to this format")
  add("--dtype", choices=OUTPUT_DTYPES, help="dtype of all arrays")
  add("--verify", action="store_true", help="re-read and compare both sides")
  add = parser.add_argument_group("of an import").add_argument
  add("--format", metavar="a|b|c|g|v", help="the format that SRC must have")
  add("--target", choices=TARGETS, help="network to make (default: ddit)")
  add("--seed", type=int, help="of newly initialised parameters (default: 0)")
  add(
    "--tokenizer",
    type=pathlib.Path,
    help="T5's tokenizer, or a folder with SD3's three, if SRC has none",
  )
  add("--vocab_size", type=int, help="rows of a new text head")
  add(
    "--lora",
    type=pathlib.Path,
    help="merge these adapters into the network; files of diffusers, PEFT,\n"
    "kohya, ComfyUI",
  )
  add = parser.add_argument_group("of an export").add_argument
  add("--params", type=pathlib.Path, help="export these network parameters")
  return parser


def _parse() -> argparse.Namespace:
  args = _parser().parse_args()
  for name in ("src", "dst", "tokenizer", "lora", "params"):
    if (path := getattr(args, name)) is not None:
      setattr(args, name, local_path(path, what=name))
  unused = _EXPORT_FLAGS if args.export is None else _IMPORT_FLAGS
  if given := [f"--{f}" for f in unused if getattr(args, f) is not None]:
    kind = "an export" if args.export is None else "an import"
    raise ValueError(f"{', '.join(given)} is for {kind} only: leave it out")
  # Before SRC is read, which may take minutes.
  check_is_new(args.dst)
  return args


def _import(args: argparse.Namespace) -> convert.Outcome:
  given = {flag: getattr(args, flag) for flag in _IMPORT_FLAGS}
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
    format=args.export,
    dtype=args.dtype,
    network_params=args.params,
    is_verified=args.verify,
  )
  networks = export.plan_export(args.src, options)
  with _progress(export.export_bytes(networks)) as bar:
    return export.export(args.src, networks, args.dst, options, bar.update)


def _peak_memory() -> int:
  """Peak physical memory in bytes, including mapped files.

  Linux's own record of this program is used where there is one: `getrusage`
  also counts the program that started it.
  """
  status = pathlib.Path("/proc/self/status")
  if status.is_file():
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
    if found:
      return int(found[1]) * 1024
  unit = 1 if sys.platform == "darwin" else 1024
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _progress(total: int) -> tqdm.tqdm:
  return tqdm.tqdm(total=total, unit="B", unit_scale=True, mininterval=0.5)


if __name__ == "__main__":
  sys.exit(main())
