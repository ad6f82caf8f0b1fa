"""Weights of sources as a function of the step, as written in configs."""

import bisect
import dataclasses
import fractions
import itertools
import math
import numbers
from collections.abc import Collection, Mapping

from ddit_jax.errors import check_known

# Cycles are tabulated; longer ones would only cost time and memory.
MAX_CYCLE = 1_000_000
_SUGGESTED_TOTAL = 1000

# {"0": {"web": 3, "art": 1}, "60000": {"web": 1, "art": 1}}
_ScheduleConfig = Mapping[str | int, Mapping[str, float]]


@dataclasses.dataclass(frozen=True)
class Phase:
  """Constant weights from one step on.

  Attributes:
    start: the first step.
    parts: name to a positive integer, sorted by name, without a common
      divisor; sources of weight zero are omitted.
  """

  start: int
  parts: tuple[tuple[str, int], ...]


@dataclasses.dataclass(frozen=True)
class WeightSchedule:
  """Weights as a function of the step.

  Attributes:
    phases: in order of their starts; the first starts at 0; neighbours
      differ.
  """

  phases: tuple[Phase, ...]

  def at(self, step: int) -> Phase:
    """The phase that holds at `step`, 0 or more."""
    starts = [phase.start for phase in self.phases]
    return self.phases[bisect.bisect_right(starts, step) - 1]

  def names(self) -> set[str]:
    """Sources with a positive weight at some step."""
    return {name for phase in self.phases for name, _ in phase.parts}


def parse_schedule(
  config: _ScheduleConfig, known_names: Collection[str] | None = None
) -> WeightSchedule:
  """Checks a schedule's config form.

  Args:
    config: step to weights, e.g. {"0": {"a": 3, "b": 1}, "60000": {"a": 1}}; a
      source that a step does not name has weight zero from there on.
    known_names: of sources; None accepts any. All must appear somewhere, even
      if with weight zero.

  Raises:
    ValueError: a step, name or weight is invalid.
  """
  weights = {_step(key): table for key, table in config.items()}
  if 0 not in weights or len(weights) != len(config):
    raise ValueError(
      f"the steps of the weights are {[str(key) for key in config]}: name "
      'each once, and begin with "0"'
    )
  if known_names is not None:
    _check_names(weights, known_names)
  phases = [
    Phase(step, _parts(step, table)) for step, table in sorted(weights.items())
  ]
  changes = [
    phase
    for before, phase in itertools.pairwise([None, *phases])
    if before is None or phase.parts != before.parts
  ]
  return WeightSchedule(tuple(changes))


def check_schedule_edit(
  saved: _ScheduleConfig, new: _ScheduleConfig, step: int
) -> None:
  """Raises if the weights of steps already trained have changed.

  A change would alter which records those steps have read, and hence each
  source's current position.

  Args:
    saved: config that the run was trained with.
    new: config to continue with.
    step: number of steps trained so far.

  Raises:
    ValueError: the weights of a step below `step` differ.
  """
  old, edited = parse_schedule(saved), parse_schedule(new)
  starts = {p.start for p in (*old.phases, *edited.phases) if p.start < step}
  for start in sorted(starts):
    before, after = old.at(start), edited.at(start)
    # The cycle restarts with each phase.
    if before != after:
      raise ValueError(
        f"the weights from step {start} are {_shown(after)}, but this run has "
        f"trained {step} steps, these with {_shown(before)}: leave the past as "
        f'it was and add weights from "{step}" or later, or start a new run'
      )


def _step(key: str | int) -> int:
  """A phase's first step."""
  is_text = isinstance(key, str) and key.isascii() and key.isdigit()
  is_whole = isinstance(key, int) and not isinstance(key, bool) and key >= 0
  if not (is_text or is_whole):
    raise ValueError(
      f"the weights name the step {key!r}: give a whole number, 0 or more"
    )
  return int(key)


def _check_names(
  weights: Mapping[int, Mapping[str, float]], known_names: Collection[str]
) -> None:
  for step, table in weights.items():
    check_known(table, known_names, what=f"the weights from step {step} name")
  named = {name for table in weights.values() for name in table}
  if forgotten := sorted(set(known_names) - named):
    raise ValueError(
      f"the weights name {sorted(named)} and never {forgotten}: give each a "
      "weight, 0 to leave it out"
    )


def _parts(
  step: int, table: Mapping[str, float]
) -> tuple[tuple[str, int], ...]:
  """Positive weights as whole numbers without a common divisor."""
  for name, weight in table.items():
    is_number = isinstance(weight, numbers.Real) and not isinstance(
      weight, bool
    )
    if not is_number or not math.isfinite(weight) or weight < 0:
      raise ValueError(
        f"from step {step} the weight of {name!r} is {weight!r}: give a finite "
        "number, 0 or more"
      )
  # 0.1 means a tenth, not the nearest binary fraction.
  weights = {
    name: fractions.Fraction(str(weight))
    for name, weight in sorted(table.items())
    if weight > 0
  }
  if not weights:
    raise ValueError(
      f"from step {step} no source has a positive weight: give one to some"
    )
  scale = math.lcm(*(weight.denominator for weight in weights.values()))
  whole = {name: int(weight * scale) for name, weight in weights.items()}
  divisor = math.gcd(*whole.values())
  if sum(whole.values()) // divisor > MAX_CYCLE:
    total = sum(weights.values())
    rounded = {
      name: max(1, round(weight * _SUGGESTED_TOTAL / total))
      for name, weight in weights.items()
    }
    raise ValueError(
      f"the weights from step {step} are {dict(table)}, whose proportions take "
      f"a cycle of more than {MAX_CYCLE} records: round them, for example to "
      f"{rounded}"
    )
  return tuple((name, part // divisor) for name, part in whole.items())


def _shown(phase: Phase) -> str:
  return f"{dict(phase.parts)} since step {phase.start}"
