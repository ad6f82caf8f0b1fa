"""A plan as text."""

from collections.abc import Mapping

from ddit_jax.monitor.device_stats import GIB
from ddit_jax.pipelines.plan import KERNEL_EFFICIENCY, StepPlan

_UNKNOWN = "not known"


def plan_text(plan: StepPlan) -> str:
  """The plan for a terminal."""
  lines = [_title(plan), "", *_memory(plan), "", *_flops(plan)]
  lines += ["", *_compute(plan), "", *_communication(plan)]
  lines += ["", *_prediction(plan)]
  if (repeated := plan.compiler_remat) and repeated.product_runs:
    lines.append(
      f"the compiler repeats {repeated.product_runs} products to save memory: "
      + ", ".join(repeated.sources)
    )
  if plan.largest_written:
    lines += ["", "largest arrays in memory, GiB (number alike):"]
    lines += [
      f"  {one.bytes / GIB:8.3f} {one.count:4d} x {one.type}  {one.source}"
      for one in plan.largest_written
    ]
  if plan.largest_collectives:
    lines += ["", "largest collectives, GiB in all their runs:"]
    lines += [
      f"  {one.runs * one.bytes / GIB:8.3f} {one.runs:4d} x {one.kind} "
      f"({'overlapped' if one.is_overlapped else 'exposed'})  {one.source}"
      for one in plan.largest_collectives
    ]
  lines += ["", *(f"note: {note}" for note in plan.notes)]
  libraries = ", ".join(f"{k} {v}" for k, v in plan.versions.items())
  lines.append(f"compile time {_seconds(plan.compile_seconds)}, {libraries}")
  return "\n".join(lines)


def _title(plan: StepPlan) -> str:
  slices = f"{plan.num_slices} x " if plan.num_slices > 1 else ""
  batch = ", ".join(f"{n} {name}" for name, n in plan.batch.items())
  mesh = " x ".join(f"{name} {n}" for name, n in plan.mesh.items())
  options = ", ".join(f"{k}={v}" for k, v in plan.compiler_options.items())
  return (
    f"{plan.config}, {plan.step}, on {slices}{plan.topology} "
    f"({plan.num_chips} chips, {plan.num_devices} devices {plan.device_kind})\n"
    f"mesh {mesh}; batch {batch}; {plan.num_parameters:,} parameters\n"
    f"compiler options: {options or 'none'}"
  )


def _memory(plan: StepPlan) -> list[str]:
  answer = {True: "it fits", False: "it does NOT fit", None: "does it fit?"}
  limit = _gib(plan.hbm_limit_bytes)
  head = f"memory of a device, GiB: {answer[plan.fits]}"
  head += f", {_gib(plan.hbm_peak_bytes)} of {limit}"
  return [head, *_rows(plan.hbm_bytes, GIB)]


def _flops(plan: StepPlan) -> list[str]:
  head = "model FLOPs of a step over all devices, TFLOP:"
  lines = [head, *_rows(plan.model_flops, 1e12)]
  if plan.compiled_flops is not None:
    compiled = plan.compiled_flops * plan.num_devices
    lines.append(f"  as compiled, with repeated work {compiled / 1e12:,.1f}")
  return [*lines, f"  ideal time: {_seconds(plan.ideal_seconds)}"]


def _compute(plan: StepPlan) -> list[str]:
  if plan.compute_seconds is None:
    return [f"compute time of a step: {_UNKNOWN}"]
  by_ideal = plan.compute_seconds / plan.ideal_seconds
  return [
    f"compute time of a step: {_seconds(plan.compute_seconds)}, "
    f"{by_ideal:.2f} x ideal; ms by kind:",
    *_rows(plan.compute_seconds_by_kind, 1e-3),
    f"  custom kernels {plan.kernel_seconds * 1e3:18.3f}  "
    f"(at {KERNEL_EFFICIENCY:.0%} of peak)",
  ]


def _communication(plan: StepPlan) -> list[str]:
  if plan.collective_bytes is None:
    return [f"collectives: {_UNKNOWN}"]
  total = sum(plan.collective_bytes.values())
  exposed = plan.exposed_collective_bytes
  share = exposed / total if total else 0
  return [
    f"collectives of a device and step, GiB: {_gib(total)}, of which "
    f"{_gib(exposed)} exposed ({share:.0%})",
    *_rows(plan.collective_bytes, GIB),
    f"  time one after the other {_seconds(plan.collective_seconds)}, exposed "
    f"{_seconds(plan.exposed_collective_seconds)}",
  ]


def _prediction(plan: StepPlan) -> list[str]:
  if plan.step_seconds is None:
    return [f"step time: {_UNKNOWN}"]
  low, high = plan.step_seconds
  lines = [
    f"step time predicted: {low:.4f} to {high:.4f} s",
    f"  MFU {plan.mfu[0]:.1%} to {plan.mfu[1]:.1%}",
    "  images a second {:,.0f} to {:,.0f}".format(*plan.images_per_second),
  ]
  if plan.stage_days is None:
    return lines
  return [
    *lines,
    "  the whole stage: {:.2f} to {:.2f} days".format(*plan.stage_days),
    "  chip-hours {:,.0f} to {:,.0f}".format(*plan.stage_chip_hours),
  ]


def _rows(values: Mapping[str, float] | None, unit: float) -> list[str]:
  return [
    f"  {name.replace('_', ' '):<22}{value / unit:11.3f}"
    for name, value in (values or {}).items()
  ]


def _gib(number: float | None) -> str:
  return _UNKNOWN if number is None else f"{number / GIB:.2f}"


def _seconds(value: float | None) -> str:
  return _UNKNOWN if value is None else f"{value:.4f} s"
