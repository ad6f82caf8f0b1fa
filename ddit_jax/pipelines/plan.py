"""`ddit plan`: what a step costs on devices that need not be attached."""

import dataclasses
import importlib.metadata
import time
from typing import Any

import jax
from jax.sharding import Mesh

from ddit_jax.errors import InputError, preparing
from ddit_jax.experiment.abstract_step import AbstractStep
from ddit_jax.experiment.config import Config
from ddit_jax.monitor.device_stats import GIB
from ddit_jax.pipelines.abstract_sampling import AbstractSampling
from ddit_jax.planning.breakdown import cycles_by_kind, num_kernels
from ddit_jax.planning.chips import Chip
from ddit_jax.planning.collectives import Collective, by_kind, collectives
from ddit_jax.planning.compiler_options import compiler_options
from ddit_jax.planning.compiler_remat import CompilerRemat, compiler_remat
from ddit_jax.planning.hlo import HloText
from ddit_jax.planning.links import link_times
from ddit_jax.planning.memory import (
  Written,
  bytes_needed,
  largest_written,
  memory_by_kind,
  tree_bytes,
)
from ddit_jax.planning.roofline import program_flops, with_cycles
from ddit_jax.planning.topology import Topology, open_topology
from ddit_jax.planning.tpu_program import in_own_process, tpu_program
from ddit_jax.planning.traced_flops import kernel_flops

_LIBRARIES = ("jax", "jaxlib", "libtpu")
# Of the peak, by custom kernels of attention. A head of 64 features fills half
# of a matrix unit of 128 x 128; of what is left FlashAttention-2 reaches 63 %
# (backward) to 73 % (forward): Dao 2023, arXiv 2307.08691, section 4.1.
KERNEL_EFFICIENCY = 0.34
_NUM_LARGEST = 10
# Of the model's FLOPs; those of padded pixels are counted but not computed.
_ALL_SEEN = 0.95
_QUICK = (
  "quick: memory lacks the machine code, and times are estimates from FLOPs "
  "and bytes, not the compiler's"
)
_Program = AbstractStep | AbstractSampling


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepPlan:
  """What one step costs; times are predictions, nothing was run.

  Bytes, seconds and collectives are those of one device and step. A value is
  None where the compiler's figures cannot be used; `notes` says why.

  Attributes:
    config: name of the config.
    step: what runs: "train", a training step; "t2i", a batch of prompts to
      images; "i2t", one network call on a batch of texts.
    topology: as given.
    num_slices: slices of TPUs.
    device_kind: as JAX names the devices.
    num_devices: JAX devices in all.
    num_chips: chips in all.
    mesh: axis -> size.
    batch: task -> examples of the global batch.
    num_parameters: of the trained network.
    compiler_options: that were passed.
    versions: of the libraries that compiled it.
    fits: whether the program compiles and its memory is below the limit; None
      if the limit is not known.
    hbm_limit_bytes: memory of a device.
    hbm_peak_bytes: what the program needs.
    hbm_bytes: the same by kind.
    model_flops: part -> FLOPs of the global batch, without rematerialisation.
    ideal_seconds: network (in training forward and backward) and text encoder,
      forward, at peak.
    compiled_flops: of the compiled products and custom kernels on one device,
      with rematerialisation; never much fewer than the model's.
    compute_seconds: compiled cycles and custom kernels.
    compute_seconds_by_kind: of the cycles, see `WORK_KINDS`.
    kernel_seconds: custom kernels, their FLOPs at `KERNEL_EFFICIENCY` of the
      peak.
    collective_bytes: kind -> bytes of whole arrays.
    exposed_collective_bytes: of these, what computations cannot hide.
    collective_seconds: one after the other.
    exposed_collective_seconds: what computations cannot hide.
    step_seconds: low, where all that may overlap does, and high, where no
      collective does.
    mfu: model FLOPs utilisation of all parts, low and high.
    images_per_second: of both tasks, low and high.
    stage_days: of the whole training, low and high.
    stage_chip_hours: likewise.
    is_quick: whether the compiler was stopped before it generated machine
      code: memory lacks the code, and cycles are those of a roofline.
    compile_seconds: on this machine; None if it failed.
    compiler_remat: what the compiler repeats to save memory.
    largest_written: the largest arrays in the device's memory.
    largest_collectives: by bytes of all their runs.
    notes: what is left out or uncertain.
  """

  config: str
  step: str
  topology: str
  num_slices: int
  device_kind: str
  num_devices: int
  num_chips: int
  mesh: dict[str, int]
  batch: dict[str, int]
  num_parameters: int
  versions: dict[str, str]
  hbm_limit_bytes: int | None
  model_flops: dict[str, int]
  ideal_seconds: float | None
  compiler_options: dict[str, Any] = dataclasses.field(default_factory=dict)
  fits: bool | None = None
  hbm_peak_bytes: int | None = None
  hbm_bytes: dict[str, int] | None = None
  compiled_flops: int | None = None
  compute_seconds: float | None = None
  compute_seconds_by_kind: dict[str, float] | None = None
  kernel_seconds: float | None = None
  collective_bytes: dict[str, int] | None = None
  exposed_collective_bytes: int | None = None
  collective_seconds: float | None = None
  exposed_collective_seconds: float | None = None
  step_seconds: tuple[float, float] | None = None
  mfu: tuple[float, float] | None = None
  images_per_second: tuple[float, float] | None = None
  stage_days: tuple[float, float] | None = None
  stage_chip_hours: tuple[float, float] | None = None
  is_quick: bool = False
  compile_seconds: float | None = None
  compiler_remat: CompilerRemat | None = None
  largest_written: tuple[Written, ...] = ()
  largest_collectives: tuple[Collective, ...] = ()
  notes: tuple[str, ...] = ()


def make_plan(
  config: Config,
  topology: Topology,
  step: str = "train",
  is_quick: bool = False,
) -> StepPlan:
  """Compiles a step of a config ahead of time.

  Args:
    config: of a run.
    topology: the devices.
    step: see `StepPlan`.
    is_quick: see `StepPlan`. The compiler then runs in a process of its own,
      because it cannot be stopped.

  Raises:
    InputError: mesh, batches and devices do not fit together.
  """
  if is_quick:
    where = topology.name, topology.num_slices
    return in_own_process(_quick_plan, config, where, step)
  return _compiled_plan(config, topology, step, is_quick=False)


def _quick_plan(config: Config, where: tuple[str, int], step: str) -> StepPlan:
  # The machine's own accelerators are left to others.
  jax.config.update("jax_platforms", "cpu")
  return _compiled_plan(config, open_topology(*where), step, is_quick=True)


def _compiled_plan(
  config: Config, topology: Topology, step: str, *, is_quick: bool
) -> StepPlan:
  kind = topology.device_kind
  config = config.for_chip(kind)
  with preparing():
    if step == "train":
      mesh = config.make_mesh(topology.devices)
      program = AbstractStep.of(config, mesh, kind)
    else:
      mesh = config.mesh.make(topology.devices)
      program = AbstractSampling.of(config, mesh, step)
  plan = _before_compiling(config, topology, mesh, program, step)
  if topology.stands_for:
    return _from_shapes(plan, program)
  options = compiler_options(config.train.compiler_options, kind)
  platform = topology.devices[0].platform
  traced = program.trace(mesh)
  lowered = traced.lower(lowering_platforms=(platform,))
  plan = dataclasses.replace(plan, compiler_options=options, is_quick=is_quick)
  start = time.perf_counter()
  try:
    if platform == "tpu":
      compiled = tpu_program(lowered, options, is_quick=is_quick)
    else:
      compiled = lowered.compile(compiler_options=options)
  except jax.errors.JaxRuntimeError as error:
    return _too_large(plan, str(error))
  plan = dataclasses.replace(plan, compile_seconds=time.perf_counter() - start)
  plan = _with_memory(plan, compiled, program)
  text = HloText.parse(compiled.as_text())
  if is_quick:
    plan = _noted(plan, _QUICK)
    text = with_cycles(text, topology.chip)
  plan = _with_collectives(plan, text, topology)
  plan = _with_compute(plan, traced, text, topology.chip)
  return _with_step_time(plan, config, topology.chip)


def _before_compiling(
  config: Config,
  topology: Topology,
  mesh: Mesh,
  program: _Program,
  step: str,
) -> StepPlan:
  """What follows from shapes alone."""
  chip, batch = topology.chip, {step: config.sample.batch_size}
  if step == "train":
    tasks = config.data.tasks_on()
    batch = {name: task.batch_size for name, task in tasks.items()}
  return StepPlan(
    config=config.name,
    step=step,
    topology=topology.name,
    num_slices=topology.num_slices,
    device_kind=topology.device_kind,
    num_devices=mesh.size,
    num_chips=topology.num_chips,
    mesh=dict(mesh.shape),
    batch=batch,
    num_parameters=program.model.network.num_parameters(),
    versions=_versions(),
    hbm_limit_bytes=chip and chip.hbm_gib and int(chip.hbm_gib * GIB),
    model_flops=program.model_flops(),
    ideal_seconds=chip and program.ideal_flops() / mesh.size / chip.peak_flops,
  )


def _from_shapes(plan: StepPlan, program: _Program) -> StepPlan:
  """The plan of devices that are not compiled for."""
  memory = _argument_bytes(program)
  limit, held = plan.hbm_limit_bytes, sum(memory.values())
  plan = dataclasses.replace(
    plan,
    fits=False if limit is not None and held > limit else None,
    hbm_bytes=memory,
  )
  return _noted(
    plan,
    "memory of arguments alone, no times and no collectives: the compiler of "
    "GPUs estimates no cycles, and tunes its products on a GPU",
  )


def _argument_bytes(program: _Program) -> dict[str, int]:
  return {k: tree_bytes(tree) for k, tree in program.arguments.items()}


def _too_large(plan: StepPlan, message: str) -> StepPlan:
  """The plan of a program that the compiler cannot place in memory.

  Raises:
    InputError: the message says something else.
  """
  line = message.splitlines()[0]
  if "RESOURCE_EXHAUSTED" not in message:
    raise InputError(f"the compiler of {plan.device_kind} fails: {line}")
  plan = dataclasses.replace(
    plan, fits=False, hbm_peak_bytes=bytes_needed(message)
  )
  return _noted(plan, f"the compiler says: {line}")


def _with_memory(
  plan: StepPlan, compiled: jax.stages.Compiled, program: _Program
) -> StepPlan:
  memory = memory_by_kind(compiled, _argument_bytes(program))
  if memory is None:
    return _noted(plan, "no memory: the compiler does not report it")
  peak, limit = sum(memory.values()), plan.hbm_limit_bytes
  return dataclasses.replace(
    plan,
    fits=None if limit is None else peak <= limit,
    hbm_peak_bytes=peak,
    hbm_bytes=memory,
  )


def _with_collectives(
  plan: StepPlan, program: HloText, topology: Topology
) -> StepPlan:
  """The plan with the program's communication and largest arrays."""
  found = collectives(program)
  kinds, chip = by_kind(found), topology.chip
  ranked = sorted(found, key=lambda one: one.runs * one.bytes, reverse=True)
  plan = dataclasses.replace(
    plan,
    collective_bytes={kind: traffic.bytes for kind, traffic in kinds.items()},
    exposed_collective_bytes=sum(x.exposed_bytes for x in kinds.values()),
    compiler_remat=compiler_remat(program),
    largest_written=tuple(largest_written(program)),
    largest_collectives=tuple(ranked[:_NUM_LARGEST]),
  )
  if program.unknown_loops:
    plan = _noted(
      plan, f"{program.unknown_loops} loops of unknown length count once"
    )
  if plan.num_slices > 1:
    plan = _noted(plan, "transfers between slices count no time")
  times = chip and link_times(found, chip, topology.shape)
  if times is None:
    return _noted(
      plan, f"no time of collectives: no link rates of {plan.device_kind}"
    )
  return dataclasses.replace(
    plan,
    exposed_collective_bytes=round(times.exposed_bytes),
    collective_seconds=times.total,
    exposed_collective_seconds=times.exposed,
  )


def _with_compute(
  plan: StepPlan,
  traced: jax.stages.Traced,
  program: HloText,
  chip: Chip | None,
) -> StepPlan:
  """The plan with the time of computations."""
  cycles = cycles_by_kind(program)
  if cycles is None or chip is None or chip.clock_hz is None:
    return _noted(
      plan,
      f"no compute time: the compiler of {plan.device_kind} estimates no "
      "cycles, or the clock is not known",
    )
  flops = _known_kernel_flops(traced)
  if num_kernels(program) and not flops:
    plan = _noted(plan, "custom kernels of unknown FLOPs count no time")
  compiled = program_flops(program) + flops
  share = compiled * plan.num_devices / sum(plan.model_flops.values())
  if share < _ALL_SEEN:
    plan = _noted(
      plan,
      f"products of {share:.0%} of the model's FLOPs are seen in the program: "
      "its times are too low",
    )
  kernel = flops / (chip.peak_flops * KERNEL_EFFICIENCY)
  seconds = {kind: number / chip.clock_hz for kind, number in cycles.items()}
  return dataclasses.replace(
    plan,
    compiled_flops=compiled,
    compute_seconds=sum(seconds.values()) + kernel,
    compute_seconds_by_kind=seconds,
    kernel_seconds=kernel,
  )


def _known_kernel_flops(traced: jax.stages.Traced) -> int:
  """FLOPs of a device's kernels; 0 if a loop hides their number."""
  try:
    return kernel_flops(traced.jaxpr.jaxpr)
  except ValueError:
    return 0


def _with_step_time(
  plan: StepPlan, config: Config, chip: Chip | None
) -> StepPlan:
  """The plan with the time of a step and what follows from it."""
  if plan.compute_seconds is None or plan.collective_seconds is None:
    return plan
  low = plan.compute_seconds + plan.exposed_collective_seconds
  high = plan.compute_seconds + plan.collective_seconds
  model = sum(plan.model_flops.values()) / plan.num_devices / chip.peak_flops
  images = sum(plan.batch.values())
  days = None
  if plan.step == "train":
    days = tuple(config.train.num_steps * x / 86400 for x in (low, high))
  return dataclasses.replace(
    plan,
    step_seconds=(low, high),
    mfu=(model / high, model / low),
    images_per_second=(images / high, images / low),
    stage_days=days,
    stage_chip_hours=days and tuple(24 * x * plan.num_chips for x in days),
  )


def _noted(plan: StepPlan, note: str) -> StepPlan:
  return dataclasses.replace(plan, notes=(*plan.notes, note))


def _versions() -> dict[str, str]:
  found = {}
  for name in _LIBRARIES:
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return found
