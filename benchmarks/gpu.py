"""One part of `benchmarks/gpu.sh`, or the table of all parts.

Each part prints one JSON object, and runs in a process of its own, so that it
starts with an empty device. Weights and data are random; nothing is read.

  python benchmarks/gpu.py matmul --side=8192
  python benchmarks/gpu.py step --batch=64 \\
    --config=configs/ddit_sd3.py:stage1
  python benchmarks/gpu.py diffusers --batch=32
  python benchmarks/gpu.py table parts.jsonl --json=gpu.json

`step` is the training step of a config, from uint8 pixels and tokens to new
weights, as `ddit train` compiles it, at the largest batch that the compiler
finds room for, which --batch guesses; with --exact, at --batch. `diffusers` is
a training step of the image loss on diffusers' SD3Transformer2DModel under
torch.compile, from latents and features, in bfloat16 with float32 weights.
Overrides as of `ddit train` change the config of `step`.
"""

import argparse
import gzip
import json
import pathlib
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from diffusers_sd3 import image_step

from ddit_jax.config.load import load_config, split_overrides
from ddit_jax.experiment.abstract_step import AbstractStep
from ddit_jax.experiment.config import Config
from ddit_jax.json_files import write_json
from ddit_jax.models.config import MMDiTConfig, size
from ddit_jax.models.flops import mmdit_flops
from ddit_jax.planning.compiler_options import compiler_options
from ddit_jax.planning.memory import memory_by_kind, tree_bytes
from ddit_jax.train.state import init_state

# Of the device's memory, that a program may need beside what is allocated.
_USABLE = 0.97
_MAX_COMPILES = 3
_NUM_OPERATIONS = 10
_AROUND = ("", "while", "call", "conditional")
_TOKENS = 64


def seconds_of(run: Callable[[], object], num_runs: int) -> float:
  """Median of the runs after one that does not count."""
  times = []
  for _ in range(num_runs + 1):
    start = time.perf_counter()
    run()
    times.append(time.perf_counter() - start)
  return statistics.median(times[1:])


def matmul(side: int, num_runs: int) -> dict:
  """A large bfloat16 product: what the device really reaches."""
  a, b = jax.random.normal(jax.random.key(0), (2, side, side), jnp.bfloat16)
  product = jax.jit(lambda a, b: a @ b)
  # Several in a row, so that the launch does not count.
  num = 10

  def run():
    c = a
    for _ in range(num):
      c = product(c, b)
    c.block_until_ready()

  rate = num * 2 * side**3 / seconds_of(run, num_runs)
  device = jax.devices()[0].device_kind
  return {"device": device, "side": side, "flops_per_second": rate}


class Step:
  """The training step of a config with random weights and data, compiled.

  Args:
    path: of the config, FILE.py:variant.
    overrides: of its keys.
    batch: examples of each task that is on.
  """

  def __init__(self, path: str, overrides: dict[str, str], batch: int):
    on = load_config(Config, path, overrides).data.tasks_on()
    sizes = {f"data.{name}.batch_size": str(batch) for name in on}
    config = load_config(Config, path, overrides | sizes)
    kind = jax.devices()[0].device_kind
    self.config = config.for_chip(kind)
    self.mesh = self.config.make_mesh(jax.devices()[:1])
    self.abstract = AbstractStep.of(self.config, self.mesh, kind)
    options = compiler_options(self.config.train.compiler_options, kind)
    start = time.perf_counter()
    traced = self.abstract.trace(self.mesh)
    self.compiled = traced.lower().compile(compiler_options=options)
    self.compile_seconds = time.perf_counter() - start

  @property
  def state_bytes(self) -> int:
    """What does not depend on the batch, as far as arguments show it."""
    given = self.abstract.arguments
    return sum(tree_bytes(given[name]) for name in given if name != "batch")

  @property
  def planned_bytes(self) -> int:
    """Memory that the compiler plans, as `ddit plan` reports it."""
    return sum(memory_by_kind(self.compiled, {}).values())

  def arguments(self):
    """(state, batch, null tokens) on the device."""
    abstract, key = self.abstract, jax.random.key(0)
    model = abstract.model
    layout = jax.tree.map(lambda leaf: leaf.sharding, abstract.state)
    create = jax.jit(
      lambda key: init_state(model.network, abstract.step.chain, key),
      out_shardings=layout.replace(frozen={}),
    )
    frozen = {
      name: part.init_sharded(key, self.mesh)
      for name, part in model.parts().items()
      if name != "network"
    }
    state = create(key).replace(frozen=frozen)
    batch = jax.tree.map(_random, abstract.batch)
    return state, batch, abstract.null_tokens


def _random(leaf: jax.ShapeDtypeStruct) -> jax.Array:
  """Pixels, token ids, masks or features of this shape."""
  draw, dtype = np.random.default_rng(0), np.dtype(leaf.dtype)
  if dtype == np.uint8:
    array = draw.integers(0, 256, leaf.shape, np.uint8)
  elif dtype == np.int32:
    array = draw.integers(2, 30, leaf.shape, np.int32)
  elif dtype == np.bool_:
    array = np.ones(leaf.shape, bool)
  else:
    array = draw.normal(size=leaf.shape).astype(np.float32).astype(dtype)
  return jax.device_put(array, leaf.sharding)


def largest_step(path: str, overrides: dict[str, str], batch: int) -> Step:
  """The step at the largest multiple of 4 examples that fits, at least 4."""
  limit = (jax.devices()[0].memory_stats() or {}).get("bytes_limit")
  best = None
  for _ in range(_MAX_COMPILES):
    step = Step(path, overrides, batch)
    if limit is None:
      return step
    fixed, needed = step.state_bytes, step.planned_bytes
    room = (_USABLE * limit - fixed) * batch / (needed - fixed)
    fits = needed <= _USABLE * limit
    if fits:
      best = step
    next_batch = max(int(room) // 4 * 4, 4)
    # Compiling takes longer than what the last few examples would show.
    if fits and next_batch < 1.25 * batch:
      break
    if next_batch == batch:
      break
    batch = next_batch
  if best is None:
    raise SystemExit(f"not even {batch} examples fit")
  return best


def step(
  path: str,
  overrides: dict[str, str],
  batch: int,
  num_runs: int,
  *,
  is_exact: bool,
) -> dict:
  """Times the step of a config, and lists its longest operations."""
  make = Step if is_exact else largest_step
  found = make(path, overrides, batch)
  state, data, null = found.arguments()

  def run():
    nonlocal state
    state, metrics = found.compiled(state, data, null)
    jax.block_until_ready(metrics)

  seconds = seconds_of(run, num_runs)
  stats = jax.devices()[0].memory_stats() or {}
  sizes = {n: t.batch_size for n, t in found.config.data.tasks_on().items()}
  return {
    "attention": found.config.model.execution.attention_kernel,
    "batch": sizes,
    "seconds": seconds,
    "examples_per_second": sum(sizes.values()) / seconds,
    "model_flops_per_second": sum(found.abstract.model_flops().values())
    / seconds,
    "compile_seconds": found.compile_seconds,
    "planned_bytes": found.planned_bytes,
    "peak_bytes": stats.get("peak_bytes_in_use"),
    "longest_operations": longest_operations(run),
  }


def longest_operations(run: Callable[[], None]) -> dict[str, float]:
  """Share of the device's time by operation, of the longest ones."""
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      run()
    (path,) = pathlib.Path(folder).rglob("*.trace.json.gz")
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
  processes = {
    event["pid"]: event["args"]["name"]
    for event in events
    if event.get("name") == "process_name"
  }
  names = {p for p, name in processes.items() if "/device:" in name}
  names = names or set(processes)  # A CPU is its own host.
  total = Counter()
  for event in events:
    # Operations of XLA, not the modules and loops around them.
    operation = event.get("args", {}).get("hlo_op", "")
    if event.get("pid") in names and operation.split(".")[0] not in _AROUND:
      total[event["name"].rstrip("0123456789").rstrip("._")] += event["dur"]
  whole = sum(total.values())
  return {name: us / whole for name, us in total.most_common(_NUM_OPERATIONS)}


def diffusers(network: MMDiTConfig, side: int, batch: int, num_runs: int):
  """A training step of the image loss by diffusers and PyTorch."""
  import diffusers as library
  import torch

  device = "cuda" if torch.cuda.is_available() else "cpu"
  run = image_step(
    network,
    side,
    batch,
    num_tokens=_TOKENS,
    device=device,
    dtype=torch.bfloat16,
    is_compiled=True,
  )
  seconds = seconds_of(run, num_runs)
  grid = side // network.patch_size
  one = mmdit_flops(
    network, grid=(grid, grid), text_length=_TOKENS, heads=("image",)
  )
  return {
    "batch": {"text_to_image": batch},
    "seconds": seconds,
    "examples_per_second": batch / seconds,
    "model_flops_per_second": batch * one.trained / seconds,
    "versions": {"torch": torch.__version__, "diffusers": library.__version__},
  }


def table(parts: list[dict]) -> str:
  """Markdown of all parts, with utilisation against the product's rate."""
  rates = [p["flops_per_second"] for p in parts if "flops_per_second" in p]
  lines = [f"Matrix product: {rates[0] / 1e12:.1f} TFLOP/s" if rates else ""]
  lines += [
    "",
    "| part | batch | ms | examples/s | TFLOP/s | MFU | memory / plan |",
    "|---|---|---|---|---|---|---|",
  ]
  for part in parts:
    if "error" in part:
      lines.append(f"| {part['part']} | {part['error']} | | | | | |")
    if "model_flops_per_second" not in part:
      continue
    rate = part["model_flops_per_second"]
    mfu = f"{rate / rates[0]:.1%}" if rates else "-"
    memory = "-"
    if part.get("peak_bytes"):
      memory = f"{part['peak_bytes'] / part['planned_bytes']:.2f}"
    batch = " + ".join(map(str, part["batch"].values()))
    lines.append(
      f"| {part['part']} | {batch} | {1e3 * part['seconds']:.1f} | "
      f"{part['examples_per_second']:.1f} | {rate / 1e12:.1f} | {mfu} | "
      f"{memory} |"
    )
  speeds = {p["part"]: p.get("examples_per_second") for p in parts}
  if speeds.get("images") and speeds.get("images_diffusers"):
    ratio = speeds["images"] / speeds["images_diffusers"]
    lines += ["", f"Image loss against diffusers: {ratio:.2f} x"]
  for part in parts:
    for name, ratio in part.get("times_over_ours", {}).items():
      lines.append(f"{name}: {ratio:.2f} x our time")
    if operations := part.get("longest_operations"):
      shares = ", ".join(f"{k} {v:.1%}" for k, v in operations.items())
      lines.append(f"Longest in {part['part']}: {shares}")
  return "\n".join(lines)


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__,
    formatter_class=argparse.RawTextHelpFormatter,
    allow_abbrev=False,
  )
  parser.add_argument("what", choices=("matmul", "step", "diffusers", "table"))
  parser.add_argument("files", nargs="*", help="of table: one object a line")
  parser.add_argument("--config", help="of step: FILE.py:variant")
  parser.add_argument("--batch", type=int, default=32)
  parser.add_argument(
    "--exact", action="store_true", help="of step: take --batch as it is"
  )
  parser.add_argument("--side", type=int, default=8192, help="of matmul")
  parser.add_argument("--size", default="sd3_medium", help="of diffusers")
  parser.add_argument("--latent_side", type=int, default=32)
  parser.add_argument("--runs", type=int, default=10)
  parser.add_argument("--json", help="of table: file for all parts")
  flags, rest = parser.parse_known_args()
  unknown, overrides = split_overrides(rest)
  if flags.what != "step":
    unknown = rest
  if flags.what != "table":
    unknown += flags.files
  if unknown:
    parser.error(f"{flags.what} does not know {' '.join(unknown)}")
  if flags.what == "step" and not flags.config:
    parser.error("step needs --config=FILE.py:variant")
  if flags.what == "table" and len(flags.files) != 1:
    parser.error("table needs one file of parts")
  if flags.what == "table":
    lines = pathlib.Path(flags.files[0]).read_text().splitlines()
    parts = [json.loads(line) for line in lines]
    if flags.json:
      write_json(pathlib.Path(flags.json), parts, indent=2)
    print(table(parts))
    return
  if flags.what == "matmul":
    result = matmul(flags.side, flags.runs)
  elif flags.what == "step":
    result = step(
      flags.config, overrides, flags.batch, flags.runs, is_exact=flags.exact
    )
  else:
    result = diffusers(
      size(flags.size), flags.latent_side, flags.batch, flags.runs
    )
  print(json.dumps(result))


if __name__ == "__main__":
  main()
