"""Tasks of `ddit evaluate` at the validations of a training run."""

import json
import re
import shutil

import pytest

from ddit_jax.cli.main import BAD_INPUT, main
from ddit_jax.errors import InputError
from ddit_jax.experiment import trainer
from tests import tiny_run
from tests.protocols import official_files


def train(workdir, folder, **changes):
  settings = {
    "benchmarks__folder": str(folder),
    "benchmarks__at_validation": "gqa",
    "benchmarks__prompt": "trained",
    "benchmarks__sampling": "config",
  }
  flags = tiny_run.flags(**settings | changes)
  return main(["train", f"--workdir={workdir}", *flags])


@pytest.mark.parametrize(
  ("tasks", "message"),
  [
    ("captions:mine", "the config has no data.sources"),
    ("mjhq", "whose images are scored by other programs"),
    ("gqe", "did you mean 'gqa'"),
    ("gqa,gqa", "at_validation names a task twice"),
  ],
)
def test_tasks_are_checked_before_the_first_step(
  tasks, message, tmp_path, capsys
):
  official_files.gqa(tmp_path / "gqa", 2)
  official_files.mjhq(tmp_path / "mjhq", 2)
  workdir = tmp_path / "run"
  code = train(workdir, tmp_path, benchmarks__at_validation=tasks)
  assert code == BAD_INPUT
  assert message in capsys.readouterr().err
  assert not (workdir / "checkpoints").exists()


def test_a_library_call_says_what_runs_them(tmp_path):
  settings = tiny_run.settings(benchmarks__at_validation="gqa")
  with pytest.raises(InputError, match="pass evaluation_of="):
    trainer.train(settings, str(tmp_path / "run"))


@pytest.mark.slow
def test_a_resumed_run_goes_on_as_without_them(
  trained, on_one_device, tmp_path
):
  official_files.gqa(tmp_path / "gqa", 4)
  workdir = shutil.copytree(trained, tmp_path / "run")
  for step in (4, 6):
    shutil.rmtree(workdir / "checkpoints" / str(step))
  assert train(workdir, tmp_path) == 0
  tiny_run.assert_bit_identical(workdir, trained, tiny_run.NUM_STEPS)
  lines = (workdir / "scalars.jsonl").read_text().splitlines()
  found = {
    row["step"]: {k: v for k, v in row.items() if k.startswith("evaluation/")}
    for row in map(json.loads, lines)
    if "evaluation/gqa/accuracy" in row
  }
  assert found.keys() == {4, 6}
  assert "evaluation/gqa/accuracy" in (workdir / "report.html").read_text()
  out = tmp_path / "out"
  argv = [
    "evaluate",
    f"--checkpoint={workdir}",
    "--tasks=gqa",
    f"--out={out}",
    "--config.benchmarks.num_units=64",
  ]
  assert main(argv) == 0
  rows = json.loads((out / "metrics.json").read_text())["metrics"]["checkpoint"]
  assert found[6] == {
    f"evaluation/{re.sub('[^A-Za-z0-9_/]', '_', name)}": row["value"]
    for name, row in rows.items()
  }
