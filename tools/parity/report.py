"""The lines of a parity check."""

from collections.abc import Iterable

from parity.check import CaseChecks
from parity.comparison import Check


def case_lines(case: CaseChecks) -> list[str]:
  """A line for each array of a case."""
  lines = [f"{case.name}: not computed: {case.error}"] if case.error else []
  return lines + [check_line(check) for check in case.checks]


def check_line(check: Check) -> str:
  """Errors, tolerance, verdict and how much of the tolerance was used."""
  entry = check.entry
  name = f"{entry.case} {entry.name}"
  verdict = "pass" if check.is_passed else "FAIL"
  if check.note:
    label = f" [{check.label}]" if check.label else ""
    return f"{name:<68} {verdict} ({check.note}){label}"
  tolerance = f"atol {entry.atol:.1e} rtol {entry.rtol:.0e}"
  if entry.dtype.startswith("int"):
    tolerance = "exact".ljust(len(tolerance))
  line = (
    f"{name:<68} abs {check.max_abs:.1e} rel {check.max_rel:.1e} {tolerance} "
    f"used {100 * check.used:5.1f} % {verdict}"
  )
  if entry.strict_rel_l2 is not None:
    held = "kept" if check.is_strict else "over"
    line += f" l2 {check.rel_l2:.1e} of {entry.strict_rel_l2:.1e} {held}"
  if entry.max_mismatch_fraction:
    line += f" (leaving out {100 * entry.max_mismatch_fraction:g} %)"
  if check.label and not check.is_passed:
    line += f" [{check.label}]"
  return line


def summary_lines(cases: Iterable[CaseChecks]) -> list[str]:
  """How far below the tolerances ours stay; the last line counts."""
  checks = [check for case in cases for check in case.checks]
  measured = [check for check in checks if not check.note]
  lines = []
  if measured:
    worst = max(measured, key=lambda check: check.used)
    shares = sorted(check.used for check in measured)
    lines.append(
      f"share of the tolerance used: largest {100 * worst.used:.1f} % "
      f"({worst.entry.case} {worst.entry.name}), median "
      f"{100 * shares[len(shares) // 2]:.1f} %"
    )
  strict = [c for c in measured if c.is_strict is not None]
  if strict:
    over = [f"{c.entry.case} {c.entry.name}" for c in strict if not c.is_strict]
    lines.append(
      f"optional strict bounds: {len(strict) - len(over)} of {len(strict)} kept"
      + (f"; over: {', '.join(over)}" if over else "")
    )
  num_passed = sum(check.is_passed for check in checks)
  return [*lines, f"{num_passed} passed, {len(checks) - num_passed} failed"]
