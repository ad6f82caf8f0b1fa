"""`ddit plan --sweep`: plans of neighbouring settings, and the best of them."""

import dataclasses
import typing
from collections.abc import Iterator, Mapping, Sequence

from ddit_jax.config.load import load_config
from ddit_jax.errors import InputError
from ddit_jax.experiment.config import Config
from ddit_jax.monitor.device_stats import GIB
from ddit_jax.pipelines.plan import StepPlan, make_plan
from ddit_jax.planning.topology import Topology
from ddit_jax.sharding.rules import MESH_AXES

# Fewer devices than this gain little from splitting weights among themselves.
_MIN_FSDP = 8
_TENSORS = (2, 4)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
  """One setting of a sweep.

  Attributes:
    changes: config key -> value, of what differs from the config.
    plan: None if the config refuses the changes.
    refusal: why, else "".
    is_best: True if no other needs less memory and less time.
  """

  changes: dict[str, str]
  plan: StepPlan | None
  refusal: str = ""
  is_best: bool = False


def sweep(
  path: str,
  overrides: Mapping[str, str],
  topology: Topology,
  step: str = "train",
  is_quick: bool = False,
) -> Iterator[Candidate]:
  """Plans the config and its neighbours, one setting changed at a time.

  Args:
    path: of the config, FILE.py[:variant].
    overrides: key -> value of the config.
    topology: the devices.
    step: see `StepPlan`.
    is_quick: see `StepPlan`.

  Raises:
    InputError: the config itself cannot be planned.
  """
  config = load_config(Config, path, overrides)
  plan = make_plan(config, topology, step, is_quick)
  yield Candidate(changes={}, plan=plan)
  config, kind = config.for_chip(topology.device_kind), topology.device_kind
  for changes in neighbours(config, len(topology.devices), kind, step):
    try:
      changed = load_config(Config, path, {**overrides, **changes})
      plan = make_plan(changed, topology, step, is_quick)
      yield Candidate(changes=changes, plan=plan)
    except InputError as error:
      yield Candidate(changes=changes, plan=None, refusal=str(error))


def neighbours(
  config: Config, num_devices: int, device_kind: str, step: str = "train"
) -> Iterator[dict[str, str]]:
  """Other meshes, micro-batches, remat policies and placements of weights.

  Samplers have neither micro-batches nor gradients: meshes and placements.
  """
  now = dict(zip(MESH_AXES, config.mesh.sizes(num_devices), strict=True))
  for replica, fsdp, tensor in _meshes(num_devices):
    sizes = dict.fromkeys(MESH_AXES, 1)
    sizes |= {"replica": replica, "fsdp": fsdp, "tensor": tensor}
    if sizes != now:
      yield {f"mesh.{axis}": str(size) for axis, size in sizes.items()}
  if step == "train":
    yield {"train.num_microbatches": str(2 * config.train.num_microbatches)}
    yield from _choices(config.model.execution, "model.execution", "remat")
    yield from _choices(config.train, "train", "weight_gathering")
  path = "model.encoder_placement"
  placement = config.model.encoder_placement.on(device_kind)
  for name in dataclasses.asdict(placement):
    yield from _choices(placement, path, name)


def _meshes(num_devices: int) -> Iterator[tuple[int, int, int]]:
  """(replica, fsdp, tensor)."""
  fsdp = num_devices
  while fsdp >= min(_MIN_FSDP, num_devices):
    yield num_devices // fsdp, fsdp, 1
    if fsdp % 2:
      break
    fsdp //= 2
  for tensor in _TENSORS:
    if num_devices % tensor == 0 and num_devices > tensor:
      yield 1, num_devices // tensor, tensor


def _choices(part, path: str, name: str) -> Iterator[dict[str, str]]:
  """The other choices of one setting of a part."""
  hint = typing.get_type_hints(type(part))[name]
  for choice in typing.get_args(hint):
    if choice not in ("chip", getattr(part, name)):
      yield {f"{path}.{name}": choice}


def mark_best(found: Sequence[Candidate]) -> list[Candidate]:
  """Marks those that fit and that no other beats in both memory and time.

  Where times are not known, the bytes of collectives take their place.
  """
  costs = [_cost(one.plan) for one in found]
  marked = []
  for candidate, cost in zip(found, costs, strict=True):
    is_best = cost is not None and not any(
      other is not None
      and other != cost
      and all(a <= b for a, b in zip(other, cost, strict=True))
      for other in costs
    )
    marked.append(dataclasses.replace(candidate, is_best=is_best))
  return marked


def _cost(plan: StepPlan | None) -> tuple[float, float] | None:
  """(memory, time) of a plan that fits."""
  if plan is None or plan.fits is False or plan.hbm_peak_bytes is None:
    return None
  if plan.step_seconds is not None:
    return plan.hbm_peak_bytes, sum(plan.step_seconds) / 2
  if plan.collective_bytes is None:
    return None
  return plan.hbm_peak_bytes, sum(plan.collective_bytes.values())


def candidate_line(candidate: Candidate) -> str:
  """A candidate as a row of the table under `HEADER`."""
  changes = " ".join(f"{k}={v}" for k, v in candidate.changes.items())
  mark = "*" if candidate.is_best else " "
  plan = candidate.plan
  if plan is None:
    return f"{mark} {changes}: refused, {candidate.refusal}"
  fits = {True: "fits", False: "too large", None: "?"}[plan.fits]
  cells = [fits, _number(plan.hbm_peak_bytes, GIB)]
  cells.append(_number(plan.compute_seconds, 1))
  low, high = plan.step_seconds or (None, None)
  cells += [_number(low, 1), _number(high, 1)]
  total = plan.collective_bytes and sum(plan.collective_bytes.values())
  cells += [_number(total, GIB), _number(plan.exposed_collective_bytes, GIB)]
  row = "".join(f"{cell:>10}" for cell in cells)
  return f"{mark}{row}  {changes or 'the config as it is'}"


HEADER = " " + "".join(
  f"{name:>10}"
  for name in (
    "",
    "peak GiB",
    "compute s",
    "step s",
    "to s",
    "coll. GiB",
    "exposed",
  )
)


def _number(value: float | None, unit: float) -> str:
  return "-" if value is None else f"{value / unit:.4g}"
