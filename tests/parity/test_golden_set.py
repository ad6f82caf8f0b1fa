"""Reading a golden set: what is whole, and what is refused."""

import json

import numpy as np
import pytest
from parity.golden_set import GoldenSetError, open_set

from tests.parity import golden_sets


@pytest.fixture
def folder(tmp_path):
  arrays = {
    "0/x": (np.array([[3.0, -4.0]], np.float32), "input"),
    "1/x": (np.zeros((0, 2), np.float32), "input"),
    "ids": (np.array([1, 2], np.int32), "output"),
    "note": (np.float32(2.0), "aux"),
  }
  golden_sets.write_cases(tmp_path, {"a_first": arrays, "b_other": {}})
  return tmp_path


def change(folder, edit):
  manifest = golden_sets.read_manifest(folder)
  edit(manifest)
  (folder / "manifest.json").write_text(json.dumps(manifest))


def refused(folder, message):
  with pytest.raises(GoldenSetError, match=message) as caught:
    golden = open_set(folder)
    golden.load("a_first")
  assert "\n" not in str(caught.value)


def test_arrays_and_what_the_manifest_says(folder):
  golden = open_set(folder)
  case = golden.load("a_first")
  assert case["0/x"].tolist() == [[3.0, -4.0]]
  assert case.outputs() == ["ids"] and case.groups("x") == ["0", "1"]
  assert case.entries["0/x"].max_abs == 4 and case.entries["ids"].atol == 0
  assert case.altered() == {}
  assert golden.constant("cfg") == 2.5
  with pytest.raises(GoldenSetError, match="lacks the constant nothing"):
    golden.constant("nothing")


def test_only_inputs_are_given_to_computations(folder):
  case = open_set(folder).load("a_first")
  for name in ("ids", "note", "2/x"):
    with pytest.raises(GoldenSetError, match=f"no input array {name}"):
      case[name]


def test_cases_are_chosen_by_name_or_letter(folder):
  golden = open_set(folder)
  assert golden.selected(None) == ["a_first", "b_other"]
  assert golden.selected(["b", "a_first"]) == ["b_other", "a_first"]
  with pytest.raises(GoldenSetError, match=r"no case 'c'; there are \['a_f"):
    golden.selected(["c"])


def test_altered_statistics_are_named_with_both_numbers(folder):
  golden_sets.edit_array(
    folder, "a_first", "0/x", lambda a: a * np.float32([1, 2])
  )
  assert open_set(folder).load("a_first").altered() == {
    "0/x": "max_abs is 8, the manifest says 4"
  }


def test_a_folder_without_manifest_is_refused(tmp_path):
  refused(tmp_path, r"cannot be read \(No such file.*--set names a folder")
  refused(tmp_path / "nothing", "cannot be read")
  (tmp_path / "manifest.json").write_text("{")
  refused(tmp_path, "is not JSON")
  (tmp_path / "manifest.json").write_text("[]")
  refused(tmp_path, "format_version None, this program reads 1")


@pytest.mark.parametrize(
  ("edit", "message"),
  [
    (lambda m: m.update(format_version=2), "format_version 2"),
    (lambda m: m.pop("arrays"), "is incomplete: KeyError"),
    (lambda m: m.update(files=[]), r"no hash of \['cases/a_first\.npz"),
    (lambda m: m["arrays"][0].update(role="x"), "0/x of case a_first has role"),
    (lambda m: m["arrays"][2].pop("atol"), "output without atol"),
    (lambda m: m["arrays"][2].update(rtol=-1), "has rtol -1"),
    (lambda m: m["arrays"][2].update(atol=float("nan")), "has atol nan"),
    (lambda m: m["arrays"][0].pop("shape"), "is incomplete"),
    (lambda m: m["arrays"][0].update(case="q"), "is incomplete"),
    (lambda m: m["arrays"][0].update(shape=[2]), r"0/x is float32 \(1, 2\)"),
    (lambda m: m["arrays"][2].update(dtype="int64"), "array ids is int32"),
    (lambda m: m["arrays"].pop(0), r"same arrays: \['0/x'\]"),
    (lambda m: m["files"][0].update(path="../x"), r"lists \.\./x, outside"),
    (lambda m: m["files"][0].update(path="x"), "x cannot be read: No such"),
    (lambda m: m["files"][0].update(sha256="0"), "damaged or was altered"),
  ],
)
def test_what_does_not_fit_together_is_refused(folder, edit, message):
  change(folder, edit)
  refused(folder, message)


def test_damaged_arrays_are_refused(folder):
  path = folder / "cases/a_first.npz"
  path.write_bytes(path.read_bytes()[:-7])
  refused(folder, "a_first.npz is damaged or was altered")
  golden_sets.write_manifest(folder, golden_sets.read_manifest(folder))
  refused(folder, "a_first.npz cannot be read")


def test_pickled_arrays_are_never_loaded(folder):
  np.savez(folder / "cases/a_first.npz", ids=np.array([{}], object))
  golden_sets.write_manifest(folder, golden_sets.read_manifest(folder))
  refused(folder, "cannot be read: .*allow_pickle=False")
