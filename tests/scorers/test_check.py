"""The check of scorers: what is right passes, what is altered is named."""

import copy
import json
import sys

import check_scorers
import pytest
from scorers import check

from tests.scorers import case_folders


def failures(root):
  found = list(check.check_folders(root))
  assert found
  return [figure for figure in found if not figure.is_passed]


@pytest.mark.parametrize("name", sorted(case_folders.FOLDERS))
def test_right_outputs_pass(tmp_path, name):
  case_folders.write(tmp_path, name)
  assert [figure.line() for figure in failures(tmp_path)] == []


def test_every_kind_of_folder_has_a_case():
  assert set(case_folders.FOLDERS) == set(check.FOLDERS)


def leaves(value, skipped, path=()):
  if isinstance(value, dict):
    for key, one in value.items():
      if key not in skipped:
        yield from leaves(one, skipped, (*path, key))
  elif isinstance(value, list):
    for place, one in enumerate(value):
      yield from leaves(one, skipped, (*path, place))
  else:
    yield path


def altered(value):
  if isinstance(value, bool):
    return not value
  return f"{value}x" if isinstance(value, str) else value + 0.01


@pytest.mark.parametrize("name", sorted(case_folders.FOLDERS))
def test_every_altered_value_fails(tmp_path, name):
  folder = case_folders.write(tmp_path, name)
  skipped = case_folders.INPUTS.get(name, ())
  for file in case_folders.compared_files(name):
    body = case_folders.FOLDERS[name][file]
    for path in leaves(body, skipped):
      wrong = copy.deepcopy(body)
      holder = wrong
      for key in path[:-1]:
        holder = holder[key]
      holder[path[-1]] = altered(holder[path[-1]])
      (folder / file).write_text(json.dumps(wrong))
      assert failures(tmp_path), (file, path)
    (folder / file).write_text(json.dumps(body))


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"more": 1.0}, "vqav2/expected.json/more: expected 1.0, got nothing"),
    ({"evalQA": {"1": 0.0}}, "evalQA/2: expected nothing, got 30.0"),
    ({"evalQA": {}}, "evalQA: expected {}, got"),
  ],
)
def test_more_or_fewer_figures_than_ours_fail(tmp_path, change, message):
  folder = case_folders.write(tmp_path, "vqav2")
  body = case_folders.FOLDERS["vqav2"]["expected.json"] | change
  (folder / "expected.json").write_text(json.dumps(body))
  assert message in "\n".join(figure.line() for figure in failures(tmp_path))


@pytest.mark.parametrize(
  "text", ["", "[]", "{", "[" * 5000, "3", '{"accuracy": null}', '{"a": NaN}']
)
def test_other_outputs_fail(tmp_path, text):
  folder = case_folders.write(tmp_path, "vqav2")
  (folder / "expected.json").write_text(text)
  assert failures(tmp_path)


def test_what_cannot_be_checked_fails(tmp_path):
  (tmp_path / "bleurt").mkdir()
  assert "unknown folder" in failures(tmp_path)[0].line()
  (tmp_path / "bleurt").rmdir()
  folder = case_folders.write(tmp_path, "t2i_compbench")
  (folder / "expected_more.json").write_text("{}")
  assert "left unchecked" in failures(tmp_path)[0].line()
  (folder / "expected_more.json").unlink()
  (folder / "probabilities.json").unlink()
  assert "0 files probabilities.json" in failures(tmp_path)[0].line()


def run(monkeypatch, capsys, *arguments):
  monkeypatch.setattr(sys, "argv", ["check_scorers.py", *arguments])
  code = check_scorers.main()
  return code, capsys.readouterr().out.splitlines()


def test_the_tools_exit_code_and_last_line(tmp_path, monkeypatch, capsys):
  case_folders.write(tmp_path, "t2i_compbench")
  (tmp_path / "README.md").write_text("")
  code, out = run(monkeypatch, capsys, f"--cases={tmp_path}")
  assert code == 0 and out[-1] == "3 passed, 0 failed"
  assert out[-2] == (
    "t2i_compbench/expected.json/blip_vqa_score: expected 0.25, got 0.25: pass"
  )
  case_folders.write(tmp_path, "fid")
  (tmp_path / "fid" / "frechet.json").write_text('{"cases": []}')
  code, out = run(monkeypatch, capsys, f"--cases={tmp_path}")
  assert code == 1 and out[-1] == "3 passed, 1 failed"


def test_nothing_to_check_fails(tmp_path, monkeypatch, capsys):
  for folder in (tmp_path, tmp_path / "missing"):
    assert run(monkeypatch, capsys, f"--cases={folder}")[0] == 1
