"""`ddit score`, from files to a result."""

import json
import os
import subprocess
import sys

import pytest

from ddit_jax.cli.flags import write_out
from ddit_jax.cli.main import main
from ddit_jax.scoring.benchmarks import BENCHMARKS


@pytest.fixture
def files(tmp_path, monkeypatch):
  annotations = [
    {
      "question_id": key,
      "image_id": key,
      "answers": [
        {"answer": "red", "answer_id": number} for number in range(10)
      ],
    }
    for key in (1, 2)
  ]
  results = [
    {"question_id": 1, "answer": "red"},
    {"question_id": 2, "answer": ""},
  ]
  (tmp_path / "a.json").write_text(json.dumps({"annotations": annotations}))
  (tmp_path / "r.json").write_text(json.dumps(results))
  monkeypatch.chdir(tmp_path)
  return tmp_path


ARGUMENTS = [
  "score",
  "--benchmark=vqav2",
  "--predictions=r.json",
  "--references=a.json",
]


def test_the_result_has_figures_intervals_items_and_hashes(files, capsys):
  assert main([*ARGUMENTS, "--out=o.json"]) == 0
  out = capsys.readouterr().out
  assert "accuracy" in out and "50  [0, 100], 2 items" in out
  result = json.loads((files / "o.json").read_text())
  assert result["figures"] == {"accuracy": 50.0}
  assert result["headline"] == "accuracy"
  assert result["intervals"]["accuracy"]["n"] == 2
  assert result["items"]["accuracy"]["scores"] == [100.0, 0.0]
  assert len(result["references"]["a.json"]) == 32


@pytest.mark.parametrize(
  ("body", "message"),
  [
    ("[" * 100_000, "nests too deeply"),
    ("nonsense", "is not JSON"),
    ('[{"question_id": 1, "question_id": 2}]', "names 'question_id' twice"),
    ('[{"question_id": 1, "answer": "\\ud800"}]', "1 of 2 questions have no"),
    ("9" * 5000, "r.json"),
    ("", "is not JSON"),
  ],
)
def test_bad_json_is_one_line(files, capsys, body, message):
  (files / "r.json").write_text(body)
  assert main([*ARGUMENTS, "--out=o.json"]) == 2
  err = capsys.readouterr().err
  assert message in err and err.count("\n") == 1
  assert not (files / "o.json").exists()


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ([*ARGUMENTS[:2], "--predictions=r.json"], "given 0 references"),
    ([*ARGUMENTS, "--references=a.json"], "given 2 references"),
    ([*ARGUMENTS[:1], "--benchmark=vqa2", *ARGUMENTS[2:]], "mean 'vqav2'"),
    ([*ARGUMENTS, "--out=missing/o.json"], "there is no folder"),
    ([*ARGUMENTS, "--out=."], "--out=. is a folder: name a file in it"),
    ([*ARGUMENTS, "--out=gs://b/o.json"], "--out=gs://b/o.json is a bucket"),
    (
      [*ARGUMENTS[:2], "--predictions=x", "--references=a.json"],
      "No such file",
    ),
    (
      [*ARGUMENTS[:2], "--predictions=.", "--references=a.json"],
      "regular file",
    ),
  ],
)
def test_bad_flags_are_one_line(files, capsys, arguments, message):
  assert main(arguments) == 2
  err = capsys.readouterr().err
  assert message in err and err.count("\n") == 1


def test_the_path_that_was_checked_is_written(files, capsys, monkeypatch):
  monkeypatch.setenv("HOME", str(files))
  assert main([*ARGUMENTS, "--out=~/o.json"]) == 0
  assert (files / "o.json").exists()


def test_a_folder_that_cannot_be_written_is_refused_first(
  files, capsys, monkeypatch
):
  monkeypatch.setattr("os.access", lambda *_: False)
  assert main([*ARGUMENTS, "--out=o.json"]) == 2
  assert "--out=o.json cannot be written" in capsys.readouterr().err
  assert not (files / "o.json").exists()


@pytest.mark.parametrize("name", ["pipe", "link", "/dev/null"])
def test_only_a_regular_file_is_replaced(files, capsys, name):
  os.mkfifo(files / "pipe")
  (files / "link").symlink_to("r.json")
  before = os.lstat(name).st_ino
  assert main([*ARGUMENTS, f"--out={name}"]) == 2
  line = f"ddit: --out={name} is not a regular file: name a new file\n"
  assert capsys.readouterr().err == line
  assert os.lstat(name).st_ino == before


def test_it_runs_where_jax_cannot_be_imported(files):
  script = (
    "import sys\nsys.modules['jax'] = None\n"
    "from ddit_jax.cli.main import main\n"
    f"raise SystemExit(main({ARGUMENTS!r}))"
  )
  result = subprocess.run(
    [sys.executable, "-c", script], capture_output=True, text=True, check=False
  )
  assert result.returncode == 0, result.stderr


def test_the_table_names_a_figure_and_a_source_for_each_benchmark():
  for name, benchmark in BENCHMARKS.items():
    assert benchmark.headline and benchmark.source, name
    optional = [one.endswith("(optional)") for one in benchmark.references]
    assert optional == sorted(optional), name


def test_of_two_results_for_one_file_the_last_is_there_whole(files):
  """Each is written under a name of its own until it is complete."""
  first, second = ({"figures": {"a": number}} for number in (1, 2))
  real = os.replace

  def replaced_late(*names):
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(os, "replace", real)
      write_out(files / "o.json", second, indent=1)
    return real(*names)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(os, "replace", replaced_late)
    write_out(files / "o.json", first, indent=1)
  assert json.loads((files / "o.json").read_text()) == first
  assert not list(files.glob("*.partial"))
