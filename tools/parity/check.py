"""Runs the cases of a golden set, judges the outputs, formats the report."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Iterator

import flax.errors
import jax

from parity import cases_forward, cases_sampling, cases_training
from parity.checkpoints import Checkpoints, converted
from parity.compare import Check, compare, not_checked
from parity.golden_set import Case, GoldenSet, open_set

FAMILIES: dict[str, Callable] = {
  "a_ddit_forward": cases_forward.ddit_forward,
  "b_t5": cases_forward.t5_features,
  "c_vae": cases_forward.autoencoders,
  "d_text_loss": cases_training.text_loss,
  "e_image_loss": cases_training.image_loss,
  "f_t2i": cases_sampling.text_to_image,
  "g_text_sampling": cases_sampling.text_sampling,
  "h_train_step": cases_training.train_step,
  "i_sd3_original": cases_sampling.sd3_base,
  "k_tokenizer": cases_forward.tokenizer_ids,
}
# Possible exceptions for recorded arrays that are inconsistent.
_MISFIT = (ValueError, TypeError, KeyError, IndexError, flax.errors.FlaxError)


@dataclasses.dataclass(frozen=True)
class CaseChecks:
  """One case after the check.

  Attributes:
    name: of the case.
    checks: one for every output array, and for every other array that differs
      from its description in the manifest.
    error: why the case could not be computed, or "".
  """

  name: str
  checks: list[Check]
  error: str = ""


def check_set(
  folder: pathlib.Path, wanted: list[str] | None = None
) -> Iterator[CaseChecks]:
  """Checks one case after the other, in float32 at full precision.

  Args:
    folder: a set in the format of `docs/parity.md`.
    wanted: names or letters of cases, or None for all.

  Raises:
    GoldenSetError: the set cannot be read.
  """
  golden = open_set(folder)
  names = golden.selected(wanted)
  with (
    converted(folder) as checkpoints,
    jax.default_matmul_precision("highest"),
  ):
    for name in names:
      yield _check_case(golden, golden.load(name), checkpoints)


def _check_case(
  golden: GoldenSet, case: Case, checkpoints: Checkpoints
) -> CaseChecks:
  altered = case.altered()
  error, results = "", {}
  if case.name in FAMILIES:
    try:
      results = FAMILIES[case.name](golden, case, checkpoints)
    except _MISFIT as caught:
      error = " ".join(str(caught).split()) or repr(caught)
  checks = []
  for name, entry in case.entries.items():
    if name in altered:
      checks.append(not_checked(entry, f"altered: {altered[name]}"))
    elif entry.role == "output" and name in results:
      checks.append(compare(entry, case.arrays[name], results[name]))
    elif entry.role == "output":
      note = "not computed, see above" if error else "not checked by ddit_jax"
      checks.append(not_checked(entry, note))
  return CaseChecks(case.name, checks, error)


def case_lines(case: CaseChecks) -> list[str]:
  """One line for each array of a case."""
  lines = [f"{case.name}: not computed: {case.error}"] if case.error else []
  return lines + [check_line(check) for check in case.checks]


def check_line(check: Check) -> str:
  """Errors, tolerance, verdict and the used fraction of the tolerance."""
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
  """Used fractions of the tolerances; the last line counts."""
  checks = [check for case in cases for check in case.checks]
  measured = [check for check in checks if not check.note]
  lines = []
  if measured:
    worst = max(measured, key=lambda check: check.used)
    fractions = sorted(check.used for check in measured)
    lines.append(
      f"fraction of the tolerance used: largest {100 * worst.used:.1f} % "
      f"({worst.entry.case} {worst.entry.name}), median "
      f"{100 * fractions[len(fractions) // 2]:.1f} %"
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
