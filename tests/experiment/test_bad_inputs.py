"""Bad input, as a user gives it: one line, exit code 2, nothing compiled."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from ddit_jax.checkpoint.manifest import write_manifest
from ddit_jax.cli.main import main
from ddit_jax.experiment.workdir import RunFolder
from tests import tiny_run


@pytest.fixture
def place(trained, tmp_path):
  """A folder with a run, an image and a few things that are wrong."""
  shutil.copytree(trained, tmp_path / "run")
  (tmp_path / "file").write_text("not an image")
  (tmp_path / "empty.jsonl").touch()
  pixels = np.zeros((16, 16, 4), np.uint8)
  Image.fromarray(pixels[:, :, :3]).save(tmp_path / "black.png")
  (tmp_path / "drawing.png").write_text("%!PS-Adobe-3.0 EPSF-3.0")
  return tmp_path


@pytest.fixture
def refused(place, capfd, monkeypatch):
  """Runs `ddit`, with {} for the folder; gives the one line it prints."""

  def compiled(*_, **__):
    raise AssertionError("compiled something")

  def run(command: str, *more: str) -> str:
    argv = [word.replace("{}", str(place)) for word in command.split()]
    capfd.readouterr()
    with monkeypatch.context() as patch:
      patch.setattr(jax.stages.Lowered, "compile", compiled)
      patch.setattr("jax._src.compiler.compile_or_get_cached", compiled)
      # The weights that are loaded are looked through for NaN.
      patch.setattr("ddit_jax.pipelines.load.check_finite", lambda *_: None)
      code = main([*argv, *more])
    out, err = capfd.readouterr()
    assert (code, out) == (2, "")
    assert err.startswith("ddit: ") and err.count("\n") == 1
    return err.removeprefix("ddit: ").rstrip().replace(str(place), "{}")

  return run


def train(*overrides: str) -> list[str]:
  """Flags of the tiny run, then `overrides`, without giving a key twice."""
  given = dict(pair.split("=", 1) for pair in overrides)
  known = {key: given.pop(key, x) for key, x in tiny_run.OVERRIDES.items()}
  return [
    f"--config={tiny_run.CONFIG}",
    *(f"--config.{key}={value}" for key, value in (known | given).items()),
  ]


def future(place: pathlib.Path) -> None:
  step = place / "run" / "checkpoints" / tiny_run.LAST_STEP
  path = step / "plain" / "config.json"
  config = json.loads(path.read_text()) | {"schema_version": 4, "new": {}}
  path.write_text(json.dumps(config))
  write_manifest(step, extra={"step": tiny_run.NUM_STEPS})


def damage(place: pathlib.Path) -> str:
  """Flips one bit of the newest checkpoint's largest file; gives its name."""
  step = place / "run" / "checkpoints" / tiny_run.LAST_STEP
  files = [path for path in (step / "ema").rglob("*") if path.is_file()]
  largest = max(files, key=lambda path: path.stat().st_size)
  content = bytearray(largest.read_bytes())
  content[len(content) // 2] ^= 1
  largest.write_bytes(content)
  return largest.relative_to(step).as_posix()


NEW, OLD = "train --workdir={}/new", "train --workdir={}/run"
SAMPLE = "sample --checkpoint={}/run --out={}/out"
EVALUATE = "evaluate --checkpoint={}/run --out={}/out"
VERSION = (
  "has schema_version 4, this ddit_jax reads version 3: install the release "
  "that wrote it"
)


def test_a_misspelt_key(refused):
  assert refused(NEW, *train("train.num_step=5")) == (
    "unknown config key train.num_step: did you mean 'num_steps'?"
  )


def test_a_wrong_type(refused):
  assert refused(NEW, *train("train.num_steps=2.5")) == (
    "train.num_steps must be int, got 2.5 of type float"
  )


def test_a_batch_that_the_mesh_does_not_divide(refused):
  assert refused(NEW, *train("data.text_to_image.batch_size=12")) == (
    "data.text_to_image.batch_size = 12 is not divisible by replica x fsdp = "
    "8 of the mesh; use a multiple of 8"
  )


def test_a_checkpoint_of_another_model(refused):
  assert refused(OLD, *train("model.size=small")) == (
    "{}/run holds a run with other settings (model.size was 'tiny' and is "
    "'small'): restore them, accept them with "
    "--config.resume_changes=model.size, or choose another --workdir"
  )
  assert refused(EVALUATE, *train("data.world=scenes_48")) == (
    "the checkpoint was trained on data.world 'one_digit', the config has "
    "'scenes_48': give the config it was trained with"
  )


def test_a_damaged_checkpoint(place, refused):
  name = damage(place)
  line = (
    f"{{}}/run/checkpoints/6 is damaged: {name} is altered (its hash differs). "
    "Use another checkpoint, or copy this one again from its source"
  )
  assert refused(f"{SAMPLE} --task=t2i --prompt=a") == line
  assert refused(EVALUATE, *train()) == line


def test_a_workdir_that_cannot_be_written(refused):
  assert refused("train --workdir={}/file/run", *train()) == (
    "the workdir {}/file/run cannot be written (Not a directory): choose "
    "another --workdir"
  )
  assert refused("train --workdir={}/file", *train()) == (
    "the workdir {}/file cannot be written (File exists): choose another "
    "--workdir"
  )


def test_an_unknown_task(refused):
  assert refused(f"{SAMPLE} --task=captoin") == (
    "unknown task 'captoin': did you mean 'caption'?"
  )


def test_an_empty_prompt_file(refused):
  assert refused(f"{SAMPLE} --task=t2i --inputs={{}}/empty.jsonl") == (
    "{}/empty.jsonl is empty: write one JSON object per line"
  )


def test_a_file_that_is_no_image(refused):
  assert refused(f"{SAMPLE} --task=caption --image={{}}/file") == (
    "{}/file cannot be used: JPEG, PNG or WebP expected, not b'not an i' "
    "(not_an_image)"
  )


def test_a_config_of_the_future(place, refused):
  assert refused(NEW, *train("schema_version=4")) == f"this config {VERSION}"
  future(place)
  assert refused(OLD, *train()) == f"the run in {{}}/run {VERSION}"
  line = f"the checkpoint of step 6 {VERSION}"
  assert refused(f"{SAMPLE} --task=t2i --prompt=a") == line
  assert refused(EVALUATE, *train()) == line


def test_a_wrong_verb(refused):
  assert (
    refused("evalute") == "unknown verb 'evalute': did you mean 'evaluate'?"
  )


def test_a_missing_flag(refused):
  assert refused("sample --task=t2i") == (
    "--checkpoint is missing: folder of a run, its checkpoints, or "
    "converted weights"
  )


def test_an_unknown_variant(refused):
  assert refused(f"{NEW} --config=configs/digits.py:gqu") == (
    "configs/digits.py has no variant 'gqu'; it has cpu, gpu, and each with "
    "_dry"
  )


def test_a_prompt_too_long_for_the_text(refused):
  prompt = "a red seven " * 4
  assert refused(f"{SAMPLE} --task=t2i", f"--prompt={prompt}") == (
    f"the caption {prompt!r} has 12 tokens but the text length is 10: shorten "
    "it, or train with a larger text_length of the task"
  )
  question = "is it red and is it blue and is it green?"
  line = refused(
    f"{SAMPLE} --task=vqa --image={{}}/black.png", f"--question={question}"
  )
  assert line == (
    f"the prompt 'Q: {question} A: ' has 14 tokens, which leaves no room in a "
    "text of 10: shorten it, or train with a larger text_length of the task"
  )


def test_words_outside_the_vocabulary(refused):
  line = "the tokenizer of this checkpoint does not know 'dog' in"
  prompt = "a picture of a red dog"
  assert refused(f"{SAMPLE} --task=t2i", f"--prompt={prompt}") == (
    f"{line} {prompt!r}: use the words of its training texts"
  )
  assert refused(
    f"{SAMPLE} --task=vqa --image={{}}/black.png", "--question=is it a dog?"
  ).startswith(line)


def test_a_drawing_that_ghostscript_would_run(refused):
  assert refused(f"{SAMPLE} --task=caption --image={{}}/drawing.png") == (
    "{}/drawing.png cannot be used: JPEG, PNG or WebP expected, not PostScript "
    "(not_an_image)"
  )


def test_an_override_given_twice(refused):
  assert refused(NEW, *train(), "--config.seed=1", "--config.seed=1") == (
    "--config.seed is given twice"
  )


def test_a_second_process_on_the_same_workdir(place, refused):
  with RunFolder(place / "run"):
    assert refused(OLD, *train()) == (
      "another process is training in {}/run: wait for it or choose another "
      "--workdir"
    )
