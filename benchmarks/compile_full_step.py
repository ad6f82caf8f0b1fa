"""Compiles a whole training step for a TPU topology that is not attached.

The step is the one of `ddit train`: both tasks, T5 and autoencoder, gradients,
optimizer and EMA. Only shapes are needed, so a laptop can compile a step for
256 chips. The result is the compiler's plan for one device (memory by kind and
collectives), the model FLOPs, and the FLOPs of the traced step. Nothing is
executed: the ideal time is a lower bound, not a measurement.

  pip install '.[tpu]'
  python benchmarks/compile_full_step.py --mesh=8,8,1,1 > plan.json
  python benchmarks/compile_full_step.py --config=configs/ddit_sd3.py:stage3 \\
    --topology=v5p:4x4x4 --mesh=1,64,1,1 --config.train.has_task_norms=False

Prints one JSON object, and a table to stderr. If the step does not fit, the
object has the compiler's error message instead of memory and collectives.
"""

import argparse
import json
import os
import sys
import time
import typing

from ddit_jax.experiment.config import Config

# Before JAX starts: no TPU, no cloud metadata, and other processes may use
# libtpu at the same time.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")

import jax
from abstract_step import AbstractStep
from jax.experimental import topologies
from traced_flops import traced_flops

from ddit_jax.config.load import load_config, split_overrides
from ddit_jax.experiment.step_flops import training_flops
from ddit_jax.models.remat import Remat
from ddit_jax.planning.chips import CHIPS, peak_flops
from ddit_jax.planning.collectives import by_kind, collectives
from ddit_jax.planning.hlo import HloText
from ddit_jax.sharding.rules import MESH_AXES

GIB = 2**30
MEMORY_KINDS = ("argument", "output", "alias", "temp", "generated_code")


def flops_of(step: AbstractStep, mesh, traced) -> dict[str, float]:
  """FLOPs of one step, and the time they take at the devices' peak."""
  parts = training_flops(
    step.model,
    step.batch,
    is_mask_embedding_trained=step.is_mask_embedding_trained,
  )
  total = sum(parts.values())
  products = traced_flops(traced.jaxpr.jaxpr)
  peak = peak_flops(mesh.devices.flat[0].device_kind)
  return {
    "model_petaflop": {name: x / 1e15 for name, x in parts.items()},
    "model_teraflop_a_device": total / mesh.size / 1e12,
    "traced_teraflop_a_device": products / mesh.size / 1e12,
    "traced_by_model": products / total,
    "ideal_seconds": peak and total / mesh.size / peak,
  }


def memory_of(compiled, device_kind: str) -> dict[str, float | None]:
  """GiB of one device by kind, their sum, and the device's memory.

  Outputs that alias donated arguments are not counted twice.
  """
  analysis = compiled.memory_analysis()
  sizes = {
    kind: getattr(analysis, f"{kind}_size_in_bytes") / GIB
    for kind in MEMORY_KINDS
  }
  total = sum(sizes.values()) - 2 * sizes["alias"]
  return sizes | {
    "total": total,
    "hbm": getattr(CHIPS.get(device_kind), "hbm_gib", None),
  }


def collectives_of(compiled) -> dict[str, object]:
  """Collectives of one device and step by kind."""
  try:
    text = compiled.as_text()
  except jax.errors.JaxRuntimeError as error:
    # The v6e compiler cannot print every program that it compiles.
    return {"error": str(error).splitlines()[0]}
  program = HloText.parse(text)
  kinds = {
    kind: {
      "instructions": traffic.instructions,
      "runs": traffic.runs,
      "gib": traffic.bytes / GIB,
    }
    for kind, traffic in by_kind(collectives(program)).items()
  }
  return kinds | {"loops_of_unknown_length": program.unknown_loops}


def plan(config, topology: str) -> dict[str, object]:
  """Traces, lowers and compiles the step of a config."""
  devices = topologies.get_topology_desc(
    topology_name=topology, platform="tpu"
  ).devices
  mesh = config.mesh.make(devices)
  step = AbstractStep.of(config, mesh)
  start = time.perf_counter()
  traced = step.trace(mesh)
  lowered = traced.lower(lowering_platforms=("tpu",))
  lowered_at = time.perf_counter()
  kind = devices[0].device_kind
  found = {
    "config": config.name,
    "device": kind,
    "topology": topology,
    "mesh": dict(mesh.shape),
    "batch": {
      name: task.batch_size for name, task in config.data.tasks().items()
    },
    "remat": config.model.execution.remat,
    "parameters": step.model.network.num_parameters(),
    "flops": flops_of(step, mesh, traced),
    "seconds_to_lower": lowered_at - start,
  }
  try:
    start = time.perf_counter()
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    return found | {"does_not_compile": str(error)[:2000]}
  return found | {
    "seconds_to_compile": time.perf_counter() - start,
    "memory_gib": memory_of(compiled, kind),
    "collectives": collectives_of(compiled),
  }


def table(found: dict[str, object], indent: str = "") -> str:
  """The plan as lines of names and numbers."""
  lines = []
  for name, value in found.items():
    if isinstance(value, dict):
      lines += [f"{indent}{name}", table(value, indent + "  ")]
    else:
      text = f"{value:,.4g}" if isinstance(value, float) else f"{value}"
      lines.append(f"{indent}{name:<{32 - len(indent)}}{text}")
  return "\n".join(lines)


def parse_args(argv: list[str]) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    description=__doc__.splitlines()[0],
    epilog="Further --config.key=value change the config as in `ddit train`.",
  )
  parser.add_argument("--topology", default="v5e:8x8")
  parser.add_argument("--mesh", default="8,8,1,1", help=",".join(MESH_AXES))
  parser.add_argument("--config", default="configs/ddit_sd3.py:stage1")
  parser.add_argument("--batch", type=int, help="batch size of each task")
  parser.add_argument("--remat", choices=typing.get_args(Remat))
  return parser.parse_args(argv)


def main() -> None:
  rest, overrides = split_overrides(sys.argv[1:])
  args = parse_args(rest)
  sizes = dict(zip(MESH_AXES, args.mesh.split(","), strict=True))
  changes = {f"mesh.{axis}": size for axis, size in sizes.items()}
  if args.batch:
    for task in ("text_to_image", "image_to_text"):
      changes[f"data.{task}.batch_size"] = str(args.batch)
  if args.remat:
    changes["model.execution.remat"] = args.remat
  found = plan(
    load_config(Config, args.config, changes | overrides), args.topology
  )
  print(table(found), file=sys.stderr)
  print(json.dumps(found, indent=2))


if __name__ == "__main__":
  main()
