"""A whole check and its lines: what is altered or unknown is named."""

import json
import shutil

import numpy as np
import pytest
from parity.check import (
  FAMILIES,
  CaseChecks,
  case_lines,
  check_line,
  check_set,
  summary_lines,
)
from parity.compare import compare, not_checked
from parity.golden_set import ArrayEntry, GoldenSetError, open_set

from tests.parity import golden_sets


@pytest.fixture
def times_folder(tmp_path):
  """A set of one small case that needs no checkpoint."""
  cases = {"d_text_loss": golden_sets.time_arrays()}
  golden_sets.write_cases(tmp_path, cases)
  return tmp_path


def failures(folder, wanted=None):
  """{"case array": note} of what failed."""
  return {
    f"{check.entry.case} {check.entry.name}": check.note
    for case in check_set(folder, wanted)
    for check in case.checks
    if not check.is_passed
  }


def test_every_array_of_pytorch_passes(golden_folder):
  cases = list(check_set(golden_folder))
  assert [case.name for case in cases] == [
    *("b_t5", "c_vae", "d_text_loss", "i_sd3_original"),
  ]
  checks = [check for case in cases for check in case.checks]
  assert all(check.is_passed for check in checks)
  outputs = [
    name
    for entries in open_set(golden_folder).entries.values()
    for name, entry in entries.items()
    if entry.role == "output"
  ]
  assert [check.entry.name for check in checks] == outputs
  # Measured: at most 9 % of atol 1e-4 and rtol 1e-4.
  assert max(check.used for check in checks) < 0.4
  assert summary_lines(cases)[-1] == f"{len(outputs)} passed, 0 failed"


def test_an_altered_weight_fails_what_depends_on_it(golden_folder, tmp_path):
  folder = tmp_path / "set"
  shutil.copytree(golden_folder, folder)
  path = folder / "ckpt/sd3_single_file/tiny.safetensors"
  data = bytearray(path.read_bytes())
  header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
  name = "first_stage_model.decoder.conv_out.bias"
  start = 8 + int.from_bytes(data[:8], "little")
  start += header[name]["data_offsets"][0]
  data[start : start + 2] = np.float16(3).tobytes()
  path.write_bytes(bytes(data))
  golden_sets.write_manifest(folder, golden_sets.read_manifest(folder))
  (case,) = check_set(folder, ["c"])
  failed = {c.entry.name: c.label for c in case.checks if not c.is_passed}
  # The folder holds the same weights unaltered.
  assert failed == {"vae1_0/decoded": "sd3_single"}


def test_an_altered_output_is_named(times_folder):
  assert failures(times_folder) == {}
  golden_sets.edit_array(
    times_folder, "d_text_loss", "sample_t/t", lambda a: a * np.float32(1.01)
  )
  assert list(failures(times_folder)) == ["d_text_loss sample_t/t"]


def test_an_altered_output_with_fitting_statistics_is_named(times_folder):
  golden_sets.edit_array(
    times_folder, "d_text_loss", "sample_t/t", lambda a: a[::-1].copy()
  )
  (note,) = failures(times_folder).values()
  assert note == ""


def test_an_altered_input_is_named(times_folder):
  golden_sets.edit_array(
    times_folder, "d_text_loss", "sample_t/u", lambda a: a + np.float32(1e-6)
  )
  notes = failures(times_folder)
  assert list(notes) == ["d_text_loss sample_t/u"]
  assert "altered: max_abs is 0.900" in notes["d_text_loss sample_t/u"]


def with_more_arrays(folder, case, arrays):
  """Adds arrays {name: (array, role)} to a case, in file and manifest."""
  path = folder / "cases" / f"{case}.npz"
  with np.load(path) as stored:
    old = {key: stored[key] for key in stored.files}
  new = {name: array for name, (array, _) in arrays.items()}
  np.savez(path, **old, **new)
  manifest = golden_sets.read_manifest(folder)
  manifest["arrays"] += [
    golden_sets.entry_of(case, name, array, role)
    for name, (array, role) in arrays.items()
  ]
  golden_sets.write_manifest(folder, manifest)


def test_an_output_that_nothing_checks_fails(times_folder):
  with_more_arrays(
    times_folder, "d_text_loss", {"new": (np.ones(2, "f4"), "output")}
  )
  assert failures(times_folder) == {
    "d_text_loss new": "not checked by ddit_jax"
  }


def test_a_case_that_nothing_checks_fails(times_folder):
  manifest = golden_sets.read_manifest(times_folder)
  np.savez(times_folder / "cases/z_new.npz", x=np.ones(2, "f4"))
  manifest["cases"]["z_new"] = {"title": "", "file": "cases/z_new.npz"}
  manifest["arrays"].append(
    golden_sets.entry_of("z_new", "x", np.ones(2, "f4"), "output")
  )
  golden_sets.write_manifest(times_folder, manifest)
  assert failures(times_folder) == {"z_new x": "not checked by ddit_jax"}
  assert failures(times_folder, ["d"]) == {}


def test_aux_arrays_are_not_compared(times_folder):
  with_more_arrays(
    times_folder, "d_text_loss", {"gap": (np.ones(2, "f4"), "aux")}
  )
  assert failures(times_folder) == {}


def test_a_case_that_cannot_be_computed_fails_with_the_reason(times_folder):
  with_more_arrays(
    times_folder,
    "d_text_loss",
    {
      "x0": (np.ones((1, 2), "i4"), "input"),
      "loss": (np.ones((), "f4"), "output"),
    },
  )
  (case,) = check_set(times_folder)
  assert "ckpt/ddit" in case.error
  assert [check.is_passed for check in case.checks] == [False, False]
  assert "not computed: " in case_lines(case)[0]


def test_unknown_cases_are_refused(times_folder):
  with pytest.raises(GoldenSetError, match="has no case 'q'; there are"):
    list(check_set(times_folder, ["q"]))


def test_every_family_has_a_letter_of_its_own():
  letters = [name.split("_")[0] for name in FAMILIES]
  assert len(set(letters)) == len(letters) == 10


def entry(name, dtype="float32", **fields):
  return ArrayEntry(
    case="a", name=name, shape=(), dtype=dtype, role="output", **fields
  )


def checks():
  reference = np.array([1.0, 2.0])
  near, far = np.array([1.0, 2.05]), np.array([1.0, 2.5])
  return [
    compare(entry("near", atol=0.1, strict_rel_l2=0.1), reference, near),
    compare(entry("over", atol=0.1, strict_rel_l2=0.01), reference, near),
    compare(entry("far", atol=0.1), reference, {"folder": far}),
    compare(entry("ids", "int32"), np.arange(2), np.arange(2)),
    not_checked(entry("odd"), "not checked by ddit_jax"),
  ]


def test_a_line_holds_errors_tolerance_and_verdict():
  near, over, far, ids, odd = (
    " ".join(check_line(c).split()) for c in checks()
  )
  assert near == (
    "a near abs 5.0e-02 rel 2.5e-02 atol 1.0e-01 rtol 0e+00 used 50.0 % pass "
    "l2 2.2e-02 of 1.0e-01 kept"
  )
  assert over.endswith("pass l2 2.2e-02 of 1.0e-02 over")
  assert far.endswith("used 500.0 % FAIL [folder]")
  assert ids == "a ids abs 0.0e+00 rel 0.0e+00 exact used 0.0 % pass"
  assert odd == "a odd FAIL (not checked by ddit_jax)"


def test_an_allowed_share_is_said():
  loose = entry("x", atol=0.1, max_mismatch_fraction=0.01)
  line = check_line(compare(loose, np.zeros(2), np.zeros(2)))
  assert line.endswith("pass (leaving out 1 %)")


def test_the_summary_counts_and_names_the_worst():
  case = CaseChecks("a", checks())
  assert len(case_lines(case)) == 5
  assert summary_lines([case]) == [
    "fraction of the tolerance used: largest 500.0 % (a far), median 50.0 %",
    "optional strict bounds: 1 of 2 kept; over: a over",
    "3 passed, 2 failed",
  ]


def test_a_case_without_results_says_why():
  failed = not_checked(entry("x"), "not computed, see above")
  case = CaseChecks("a", [failed], "no checkpoint")
  assert case_lines(case)[0] == "a: not computed: no checkpoint"
  assert summary_lines([case]) == ["0 passed, 1 failed"]
