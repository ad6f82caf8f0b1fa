"""The printed lines: verdicts, numbers, and the count at the end."""

import numpy as np
from parity.check import CaseChecks
from parity.comparison import compare, not_checked
from parity.golden_set import ArrayEntry
from parity.report import case_lines, check_line, summary_lines


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
    "share of the tolerance used: largest 500.0 % (a far), median 50.0 %",
    "optional strict bounds: 1 of 2 kept; over: a over",
    "3 passed, 2 failed",
  ]


def test_a_case_without_results_says_why():
  failed = not_checked(entry("x"), "not computed, see above")
  case = CaseChecks("a", [failed], "no checkpoint")
  assert case_lines(case)[0] == "a: not computed: no checkpoint"
  assert summary_lines([case]) == ["0 passed, 1 failed"]
