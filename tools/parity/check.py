"""Runs the case families over a golden set and judges every output array."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator

import flax.errors
import jax

from parity import (
  autoencoding,
  ddit_forward,
  image_loss,
  sd3_base,
  t5_features,
  text_loss,
  text_sampling,
  text_to_image,
  tokenizer_ids,
  train_step,
)
from parity.checkpoints import Checkpoints, converted
from parity.comparison import Check, compare, not_checked
from parity.golden_set import Case, GoldenSet, open_set

FAMILIES: dict[str, Callable] = {
  "a_ddit_forward": ddit_forward.outputs,
  "b_t5": t5_features.outputs,
  "c_vae": autoencoding.outputs,
  "d_text_loss": text_loss.outputs,
  "e_image_loss": image_loss.outputs,
  "f_t2i": text_to_image.outputs,
  "g_text_sampling": text_sampling.outputs,
  "h_train_step": train_step.outputs,
  "i_sd3_original": sd3_base.outputs,
  "k_tokenizer": tokenizer_ids.outputs,
}
# What recorded arrays that do not fit together can make of a computation.
_UNFIT = (ValueError, TypeError, KeyError, IndexError, flax.errors.FlaxError)


@dataclasses.dataclass(frozen=True)
class CaseChecks:
  """One case after the check.

  Attributes:
    name: of the case.
    checks: one of every output array, and of every other array that is not as
      the manifest says.
    error: why nothing could be computed, or "".
  """

  name: str
  checks: list[Check]
  error: str = ""


def check_set(
  folder: pathlib.Path, wanted: list[str] | None = None
) -> Iterator[CaseChecks]:
  """Checks case after case, in float32 with full-precision products.

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
    except _UNFIT as caught:
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
