"""`ddit plan`: memory and time of a step, before there are chips."""

import argparse
import pathlib
from dataclasses import asdict

from ddit_jax.cli.flags import Flag, Verb, check_out, write_out
from ddit_jax.config.load import load_config
from ddit_jax.errors import InputError, preparing, suggest

_DESCRIPTION = """
Compiles the training step of a config ahead of time, for devices that need not
be attached, and prints what the compiler plans: whether it fits, memory by
kind, FLOPs, time by kind of work, collectives (exposed or overlapped), and a
predicted range for the time of a step. Nothing is run or downloaded.

  ddit plan --config=configs/ddit_sd3.py:stage1_dry --topology=cpu:8
  ddit plan --config=configs/ddit_sd3.py:stage1 --topology=v5p:4x4x4 \\
    --json=plan.json
  ddit plan --config=configs/ddit_sd3.py:stage1 --topology=v5e:8x8 --mesh=8,8
  ddit plan --config=configs/ddit_sd3.py:stage1_dry --topology=cpu:8 --sweep

A topology is a chip and the sides of a slice in chips: v4, v5e, v5p, v6e and
tpu7x with the TPU compiler (pip install 'ddit_jax[tpu]'); cpu:N, N virtual
devices of this machine; or h100 and h200, nodes x GPUs, with the figures that
follow from shapes alone. A full-size step takes eight minutes or more of one
core, nearly all of it in the TPU compiler's code generation, and 5 GiB. --quick
stops before that, after half a minute: collectives are the same, memory lacks
the machine code, and times are estimated from FLOPs and bytes.
"""

_STEPS = ("train", "t2i", "i2t")
_AXES = ("replica", "fsdp", "tensor", "context")


def _run(values: argparse.Namespace, overrides: dict[str, str]) -> int:
  _set_mesh(values.mesh, overrides)
  if values.step not in _STEPS:
    raise InputError(f"--step={values.step}: {suggest(values.step, _STEPS)}")
  json_path = check_out(values.json, "--json")
  import jax

  # The machine's own accelerators are left to others.
  jax.config.update("jax_platforms", "cpu")
  from ddit_jax.planning.topology import open_topology

  topology = open_topology(values.topology, values.slices)
  if values.sweep and topology.stands_for:
    raise InputError(
      f"--sweep compares memory and time, and of {topology.device_kind} there "
      "are only figures of shapes: leave it out, or take TPUs"
    )
  if values.quick and topology.devices[0].platform != "tpu":
    raise InputError(
      f"--quick stops the compiler of TPUs, and {values.topology} has none: "
      "leave it out"
    )
  run = _sweep if values.sweep else _plan
  run(values, overrides, topology, json_path)
  return 0


def _plan(
  values: argparse.Namespace,
  overrides: dict[str, str],
  topology,
  json_path: pathlib.Path | None,
) -> None:
  from ddit_jax.experiment.config import Config
  from ddit_jax.pipelines.plan import make_plan
  from ddit_jax.pipelines.plan_text import plan_text

  config = load_config(Config, values.config, overrides)
  plan = make_plan(config, topology, values.step, values.quick)
  print(plan_text(plan))
  _write(asdict(plan), json_path)


def _sweep(
  values: argparse.Namespace,
  overrides: dict[str, str],
  topology,
  json_path: pathlib.Path | None,
) -> None:
  from ddit_jax.pipelines import plan_sweep

  def show(candidate: plan_sweep.Candidate) -> None:
    print(plan_sweep.candidate_line(candidate), flush=True)

  found = []
  print(plan_sweep.HEADER)
  for candidate in plan_sweep.sweep(
    values.config, overrides, topology, values.step, values.quick
  ):
    show(candidate)
    found = plan_sweep.mark_best([*found, candidate])
    # A sweep takes long, and may be stopped.
    _write([asdict(one) for one in found], json_path)
  print("\nThose that no other beats in both memory and time:")
  for candidate in found:
    if candidate.is_best:
      show(candidate)


def _write(found, path: pathlib.Path | None) -> None:
  """Writes plans as JSON, if a file was named."""
  with preparing():
    write_out(path, found, indent=2)


def _set_mesh(mesh: str | None, overrides: dict[str, str]) -> None:
  """Writes the sizes of --mesh into the overrides."""
  if mesh is None:
    return
  sizes = mesh.split(",")
  if len(sizes) > len(_AXES) or not all(
    size.removeprefix("-").isdecimal() for size in sizes
  ):
    raise InputError(
      f"--mesh={mesh}: write sizes of {','.join(_AXES)}, e.g. 8,8 or 1,-1,4"
    )
  for axis, size in zip(_AXES, sizes, strict=False):
    if f"mesh.{axis}" in overrides:
      raise InputError(
        f"--mesh and --config.mesh.{axis} set the same: keep one"
      )
    overrides[f"mesh.{axis}"] = size


VERB = Verb(
  name="plan",
  summary="memory and time of a step on chips that are not there",
  description=_DESCRIPTION,
  flags={
    "config": Flag("config file, FILE.py[:variant]", is_path=True),
    "topology": Flag("chip and sides of a slice, e.g. v5p:4x4x4 or cpu:8"),
    "slices": Flag("slices of TPUs, joined by the network", int, 1),
    "step": Flag(
      "train, t2i (prompts to images, all steps) or i2t (one network call on "
      "texts)",
      str,
      "train",
    ),
    "mesh": Flag(
      "sizes of replica,fsdp,tensor,context; the config's where unset"
    ),
    "sweep": Flag(
      "also plan other meshes, micro-batches, remat policies and placements of "
      "the encoders, one changed at a time",
      bool,
      False,
    ),
    "quick": Flag(
      "stop the compiler of TPUs before it generates machine code, and "
      "estimate times",
      bool,
      False,
    ),
    "json": Flag("file for the plan as JSON", is_path=True),
  },
  run=_run,
  required=("config", "topology"),
)
