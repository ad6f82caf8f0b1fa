"""The commands that README, docs and docstrings print, as a reader runs them.

Each is taken as written, in another folder than the repository, up to where
its work would begin; those that toy data and weights allow also to their end.
"""

import json
import pathlib
import re
import runpy
import shlex
import shutil
import sys

import pytest
from PIL import Image

from ddit_jax.cli.main import VERBS, main
from tests import tiny_run

ROOT = pathlib.Path(__file__).parents[2]
TOOL = "tools/convert_sd3_weights.py"
DOCUMENTS = [
  ROOT / "README.md",
  *sorted(ROOT.glob("docs/*.md")),
  *sorted(ROOT.glob("configs/*.py")),
  *sorted(ROOT.glob("ddit_jax/cli/*.py")),
]
# Where the work of a command begins.
BEGINNINGS = (
  "ddit_jax.experiment.trainer.train",
  "ddit_jax.experiment.stages.train_stages",
  "ddit_jax.experiment.write_cache.write_caches",
  "ddit_jax.data.sources.registry.open_source",
  "ddit_jax.pipelines.generating.generate",
  "ddit_jax.scoring.benchmarks.score_files",
  "ddit_jax.scoring.comparison.read_score_file",
  "ddit_jax.pipelines.evaluate.evaluate",
  "ddit_jax.pipelines.benchmarks.evaluate_benchmarks",
  "ddit_jax.planning.topology.open_topology",
  "ddit_jax.pipelines.load.load",
  "ddit_jax.pipelines.load.stored_config",
  "ddit_jax.protocols.config.BenchmarksConfig.paths",
  "ddit_jax.pipelines.lora_export.export_adapter",
  "ddit_jax.pipelines.lora_export.export_merged",
  "ddit_jax.conversion.convert.plan_import",
  "ddit_jax.conversion.export.plan_export",
)


class Started(BaseException):
  """The command was accepted."""


def commands_in(path: pathlib.Path) -> list[list[str]]:
  """The words of every command of a document, without comments."""
  text = path.read_text()
  if path.suffix == ".py":
    # A docstring writes a backslash twice.
    text = text.replace("\\\\\n", "\\\n")
  lines = re.sub(r"\\\n\s*", " ", text).splitlines()
  starts = ("ddit ", f"python {TOOL} ")
  found = [line.strip() for line in lines if line.strip().startswith(starts)]
  return [
    words
    for line in found
    if (words := shlex.split(line, comments=True))[1] in (*VERBS, TOOL)
    and "..." not in line
  ]


COMMANDS = {
  f"{path.name}:{' '.join(words)}"[:120]: words
  for path in DOCUMENTS
  for words in commands_in(path)
}


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
  """A folder with links to what the commands name by a relative path."""
  for name in ("benchmarks", "configs", "tools"):
    (tmp_path / name).symlink_to(ROOT / name)
  (tmp_path / "vqa.json").write_text('{"kind": "image_folder", "path": "x"}')
  monkeypatch.chdir(tmp_path)
  return tmp_path


def test_there_are_commands_of_every_verb():
  assert {words[1] for words in COMMANDS.values()} == {*VERBS, TOOL}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_accepted_as_written(name, elsewhere, monkeypatch):
  def start(*_, **__):
    raise Started

  # What an extra brings need not be installed.
  monkeypatch.setattr("ddit_jax.cli.serve.check_modules", lambda *_: None)
  for place in BEGINNINGS:
    if "conversion" not in place or COMMANDS[name][1] == TOOL:
      monkeypatch.setattr(place, start)
  program, *argv = COMMANDS[name]
  with pytest.raises(Started):
    if program == "ddit":
      assert main(argv) == 0
    else:
      monkeypatch.setattr(sys, "argv", argv)
      runpy.run_path(argv[0], run_name="__main__")
  left = {path.name for path in elsewhere.iterdir()}
  assert left == {"benchmarks", "configs", "tools", "vqa.json"}


def run_as_written(commands, capsys, *, toy=(), swap=None):
  """Runs commands one after the other.

  Args:
    commands: their words.
    capsys: holds what they print.
    toy: added to training and evaluation, which are then small.
    swap: words that are replaced.
  """
  for program, *argv in commands:
    argv = [(swap or {}).get(word, word) for word in argv]
    if argv[0] in ("train", "evaluate"):
      argv += toy
    if program == "ddit":
      assert main(argv) == 0, capsys.readouterr().err
      continue
    with (
      pytest.MonkeyPatch.context() as patch,
      pytest.raises(SystemExit) as end,
    ):
      patch.setattr(sys, "argv", argv)
      runpy.run_path(argv[0], run_name="__main__")
    assert end.value.code == 0, capsys.readouterr().err


TOY = tiny_run.flags()[1:]


def write_images(folder: pathlib.Path, count: int) -> None:
  """Squares of three colours with their captions beside them."""
  folder.mkdir(parents=True)
  for number in range(count):
    color = ("red", "green", "blue")[number % 3]
    Image.new("RGB", (300, 300), color).save(folder / f"{number}.png")
    (folder / f"{number}.txt").write_text(f"a {color} square")


@pytest.mark.slow
def test_readme_runs_from_another_folder(
  elsewhere, trained, on_one_device, capsys
):
  """Every command of README's first list, with the tiny run's settings."""
  shutil.copytree(trained, elsewhere / "runs" / "digits")
  write_images(elsewhere / "images", 1)
  base = ["--config=configs/digits.py", *TOY, "--config.lora.rank=2"]
  adapters = ["--config.init_from=runs/digits", "--workdir=runs/lora"]
  assert main(["train", *base, *adapters]) == 0
  text = (ROOT / "README.md").read_text()
  block = text.split("## Command line")[1].split("```")[1]
  lines = re.sub(r"\\\n\s*", " ", block).strip().splitlines()
  run_as_written(map(shlex.split, lines), capsys, toy=TOY)
  assert (elsewhere / "adapter.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["README.md", "docs/conversion.md"])
def test_weights_are_converted_as_written(elsewhere, capsys, name):
  pytest.importorskip("diffusers")
  from tests.conversion import checkpoints

  checkpoints.save_sd3_folder(elsewhere / "SRC")
  taken, exported, *_ = [
    words
    for words in commands_in(ROOT / name)
    if words[1] == TOOL and not any("target" in word for word in words)
  ]
  run_as_written([taken, exported], capsys)
  assert (elsewhere / "FOLDER" / "transformer" / "config.json").is_file()


@pytest.mark.slow
def test_sd3_is_sampled_as_written(elsewhere, capsys):
  pytest.importorskip("transformers")
  from tests.pipelines import sd3_files

  [command] = [
    words
    for words in commands_in(ROOT / "README.md")
    if "--checkpoint=weights/sd3_base" in words
  ]
  sd3_files.write(elsewhere / "weights" / "sd3_base")
  small = ["--size=16", "--num_inference_steps=2"]
  run_as_written([[*command, *small]], capsys)
  assert (elsewhere / "samples" / "00000.png").is_file()


@pytest.mark.slow
def test_own_images_are_evaluated_as_written(elsewhere, on_one_device, capsys):
  """The section on one's own data of docs/evaluation.md, for six steps."""
  write_images(elsewhere / "path" / "to" / "images", 40)
  rows = [
    {
      "id": str(number),
      "image": f"{number}.png",
      "conversations": [
        {"from": "human", "value": "what color is it?"},
        {"from": "gpt", "value": ("red", "green", "blue")[number % 3]},
        {"from": "human", "value": "is it a square?"},
        {"from": "gpt", "value": "yes"},
      ],
    }
    for number in range(40)
  ]
  path = elsewhere / "path" / "to" / "questions.json"
  path.write_text(json.dumps(rows))
  commands = [
    words
    for words in commands_in(ROOT / "docs" / "evaluation.md")
    if "runs/mine" in " ".join(words)
  ]
  assert [words[1] for words in commands] == ["train", "evaluate"]
  toy = [*TOY, "--config.evaluate.likelihood.ode_steps=2"]
  run_as_written(commands, capsys, toy=toy)
  printed = capsys.readouterr().out
  assert "captions:mine/cider" in printed
  assert "answers:asked/own/yes_no_accuracy" in printed
  assert "likelihoods:mine/image_nats_per_dimension" in printed
  path = elsewhere / "runs" / "mine" / "benchmarks" / "report.html"
  assert "<dt>record</dt><dd>" in path.read_text()


@pytest.mark.slow
def test_the_papers_stages_run_in_a_relative_workdir(elsewhere):
  argv = [
    "train",
    "--config=configs/ddit_sd3.py:all_dry",
    "--workdir=runs/ddit",
  ]
  assert main(argv) == 0
  stages = sorted(path.name for path in (elsewhere / "runs/ddit").iterdir())
  assert len(stages) == 4
