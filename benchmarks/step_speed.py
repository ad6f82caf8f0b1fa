"""Our training step against diffusers' and PyTorch's, at small sizes on a CPU.

  python benchmarks/step_speed.py --rounds=5 --json=step_speed.json

A step of the image loss from latents and text features to new weights, in
float32, of equal shapes on each side: `ddit train`'s with cached features, and
that of diffusers' SD3Transformer2DModel, eager and under torch.compile. Our
blocks are unrolled, as theirs are, and attend in chunks for a CPU. Sizes go
from the quickstart's, 4 blocks of 96 on 4 x 4 patches, to 8 of 384 on 24 x 24
patches, those of 48 x 48 pixels. Weights and data are random.

The sides take turns, with a pause before each, as PyTorch's threads go on to
spin after a step and slow what follows; a ratio is the median of those within a
round.
"""

import argparse
import json
import pathlib
import statistics
import time
from typing import NamedTuple

import jax
import torch
from diffusers_sd3 import image_step
from gpu import Step

from ddit_jax.json_files import write_json

_CONFIG = str(pathlib.Path(__file__).parent.parent / "configs" / "ddit_sd3.py")
_TOKENS = 64
_PAUSE_SECONDS = 1.0
# What a step of `ddit train` has beside the image loss is switched off.
_SETTINGS = {
  "data.image_to_text.batch_size": "0",
  "data.text_to_image.cache": "random",
  "data.text_to_image.crop": "centre",
  "data.text_to_image.text_length": str(_TOKENS),
  "loss.condition_dropout": "0.0",
  "model.execution.attention_kernel": "chunked",
  "model.execution.dtype": "float32",
  "model.execution.remat": "none",
}


class Size(NamedTuple):
  """A network and a batch; `grid` patches along the side of an image."""

  depth: int
  width: int
  num_heads: int
  grid: int
  batch: int


SIZES = (
  Size(4, 96, 4, 4, 64),
  Size(4, 128, 4, 8, 32),
  Size(6, 192, 6, 8, 16),
  Size(6, 256, 8, 12, 16),
  Size(8, 384, 6, 12, 8),
  Size(8, 384, 6, 24, 4),
)


def ours(size: Size):
  """(a function that takes a step, its network, the side of its latents)."""
  overrides = _SETTINGS | {
    "model.depth": str(size.depth),
    "model.execution.scan_unroll": str(size.depth),
    "model.width": str(size.width),
    "model.num_heads": str(size.num_heads),
    "model.max_grid": str(size.grid),
  }
  # Pixels of the toy autoencoder for a patch of 2 x 2 latents.
  overrides["data.text_to_image.image_size"] = str(8 * size.grid)
  step = Step(f"{_CONFIG}:stage1_dry", overrides, size.batch)
  state, batch, null = step.arguments()

  def run() -> None:
    nonlocal state
    state, metrics = step.compiled(state, batch, null)
    jax.block_until_ready(metrics)

  latents = batch.text_to_image.images
  return run, step.abstract.model.network.config, latents.shape[1]


def measure(size: Size, rounds: int, is_compiled: bool) -> dict:
  """Seconds of a step by side, and the others' in ours."""
  run, network, side = ours(size)
  if side != network.patch_size * size.grid:
    raise SystemExit(f"latents of {side} do not make {size.grid} patches")
  sides = {"ours": run}
  for name, compiled in {"eager": False, "compiled": True}.items():
    if is_compiled or not compiled:
      sides[name] = image_step(
        network,
        side,
        size.batch,
        num_tokens=_TOKENS,
        device="cpu",
        dtype=torch.float32,
        is_compiled=compiled,
      )
  seconds = {name: [] for name in sides}
  for number in range(rounds + 1):
    for name, step in sides.items():
      time.sleep(_PAUSE_SECONDS)
      start = time.perf_counter()
      step()
      if number:  # The first compiles.
        seconds[name].append(time.perf_counter() - start)
  ratios = {
    name: statistics.median(
      theirs / mine for theirs, mine in zip(times, seconds["ours"], strict=True)
    )
    for name, times in seconds.items()
    if name != "ours"
  }
  return {
    **size._asdict(),
    "seconds": {name: statistics.median(x) for name, x in seconds.items()},
    "times_ours": ratios,
  }


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--sizes", type=int, default=len(SIZES), help="the first")
  parser.add_argument(
    "--eager", action="store_true", help="leave torch.compile out"
  )
  parser.add_argument("--json", help="file for all figures")
  options = parser.parse_args()
  rows = []
  for size in SIZES[: options.sizes]:
    rows.append(measure(size, options.rounds, not options.eager))
    print(json.dumps(rows[-1]), flush=True)
  versions = {"jax": jax.__version__, "torch": torch.__version__}
  if options.json:
    found = {"versions": versions, "sizes": rows}
    write_json(pathlib.Path(options.json), found, indent=2)


if __name__ == "__main__":
  main()
