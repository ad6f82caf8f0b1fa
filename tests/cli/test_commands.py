"""What `train`, `sample`, `evaluate` and `lora` check and hand on."""

import dataclasses
import functools
import json
import pathlib

import pytest

from ddit_jax.cli import commands
from ddit_jax.cli.main import main
from ddit_jax.config.load import split_overrides
from ddit_jax.errors import InputError
from ddit_jax.experiment.config import SampleConfig
from ddit_jax.pipelines import benchmarks, evaluate, generating, lora_export
from ddit_jax.pipelines.load import stored_config

CONFIG = "--config=configs/digits.py"


def train(*argv, **overrides):
  return commands.TRAIN.run(commands.TRAIN.parse(list(argv)), overrides)


def sample(*argv):
  rest, overrides = split_overrides(list(argv), commands.SAMPLE.section)
  return commands.SAMPLE.run(commands.SAMPLE.parse(rest), overrides)


def evaluated(*argv, **overrides):
  return commands.EVALUATE.run(commands.EVALUATE.parse(list(argv)), overrides)


def test_training_needs_config_and_workdir():
  with pytest.raises(InputError, match="--config is missing"):
    train("--workdir=w")
  with pytest.raises(InputError, match="--workdir is missing: folder the run"):
    train(CONFIG, "--workdir=")


def test_the_config_is_checked_before_the_workdir_is_touched(tmp_path):
  with pytest.raises(InputError, match="unknown config key sed"):
    train(CONFIG, f"--workdir={tmp_path / 'w'}", sed="1")
  assert list(tmp_path.iterdir()) == []


def use_trainer(monkeypatch, train, *, is_done=True):
  """In place of the trainer, `train` takes (settings, workdir)."""

  def taken(settings, workdir, **_):
    return train(settings, workdir) or is_done

  monkeypatch.setattr("ddit_jax.experiment.trainer.train", taken)


def log_one_step(settings, workdir):
  """What a run that was stopped after a step leaves."""
  folder = pathlib.Path(workdir)
  folder.mkdir(parents=True)
  text = json.dumps(dataclasses.asdict(settings))
  (folder / "config.json").write_text(text)
  line = {"step": 1, "time": 0.0, "loss/total": 2.0}
  (folder / "scalars.jsonl").write_text(json.dumps(line) + "\n")


def test_config_and_folder_are_handed_over(monkeypatch):
  calls = []
  use_trainer(monkeypatch, lambda *given: calls.append(given))
  assert train(CONFIG, "--workdir=w", seed="5") == 0
  [(settings, workdir)] = calls
  assert (settings.seed, workdir) == (5, "w")


@pytest.mark.parametrize(
  ("config", "folders"),
  [
    ("configs/digits.py", ["."]),
    (
      "configs/ddit_sd3.py:all_dry",
      ["stage1", "stage2", "stage2_highres", "stage3"],
    ),
  ],
)
def test_every_run_that_was_trained_gets_its_page(
  monkeypatch, tmp_path, config, folders
):
  use_trainer(monkeypatch, log_one_step)
  assert train(f"--config={config}", f"--workdir={tmp_path / 'w'}") == 0
  for folder in folders:
    page = (tmp_path / "w" / folder / "report.html").read_text()
    assert "1 of " in page and "Total loss" in page


@pytest.mark.parametrize("config", ["digits.py", "ddit_sd3.py:all_dry"])
@pytest.mark.parametrize(("flags", "code"), [([], 0), (["--stop_code=75"], 75)])
def test_a_stopped_run_ends_with_the_code_that_was_asked_for(
  monkeypatch, tmp_path, config, flags, code
):
  use_trainer(monkeypatch, lambda *_: None, is_done=False)
  argv = [f"--config=configs/{config}", f"--workdir={tmp_path}"]
  assert train(*argv, *flags) == code


def test_stop_codes_are_what_a_process_can_end_with(tmp_path):
  with pytest.raises(InputError, match="--stop_code must be in 0"):
    train(CONFIG, f"--workdir={tmp_path / 'w'}", "--stop_code=256")


@pytest.mark.parametrize(
  ("argv", "message"),
  [
    (["--task=t2i"], "--checkpoint is missing: folder of a run"),
    (["--checkpoint=c"], "--task is missing: t2i, caption or vqa"),
    (["--checkpoint=c", "--task=captoin"], "unknown task 'captoin': did you "),
    (["--checkpoint=c", "--task=x"], "there are caption, t2i, vqa"),
    (["--checkpoint=c", "--task=t2i", "--seed=-1"], "seed must be in 0"),
    (["--checkpoint=c", "--task=t2i", "--seed=4294967296"], "seed must"),
  ],
)
def test_wrong_requests_are_named(argv, message):
  with pytest.raises(InputError, match=message):
    sample(*argv)


def test_there_is_something_to_do_before_the_checkpoint_is_opened():
  with pytest.raises(InputError, match="nothing to do: give --prompt, or"):
    sample("--checkpoint=nowhere", "--task=t2i")


def test_requests_and_options_are_handed_over(monkeypatch):
  calls = []
  monkeypatch.setattr(
    generating, "generate", lambda *args, **named: calls.append((args, named))
  )
  sample(
    *("--checkpoint=c", "--task=vqa", "--image=a.png", "--image=b.png"),
    *("--question=is it red?", "--seed=4294967295", "--step=3"),
    *("--num_steps=5", "--sample.text.temperature=0", "--indices=1"),
  )
  [((checkpoint, task, rows), named)] = calls
  assert (checkpoint, task) == ("c", "vqa")
  assert rows == [
    {"image": "a.png", "question": "is it red?"},
    {"image": "b.png", "question": "is it red?"},
  ]
  assert named == {
    "out": "samples",
    "weights": "ema",
    "step": 3,
    "options": generating.Options(
      seed=2**32 - 1,
      sample={"text.num_steps": "5", "text.temperature": "0"},
      indices=(1,),
    ),
  }


def test_every_sampling_field_can_be_set(monkeypatch):
  """By its dotted name, and most by a short one."""
  calls = []
  monkeypatch.setattr(
    generating, "generate", lambda *_, **named: calls.append(named["options"])
  )
  fields = dataclasses.asdict(SampleConfig())
  for section, rows in (("image", "t2i"), ("text", "caption")):
    what = "--prompt=" if rows == "t2i" else "--image=a.png"
    for name, value in fields[section].items():
      flag = f"--sample.{section}.{name}={value}"
      sample("--checkpoint=c", f"--task={rows}", what, flag)
      assert calls.pop().sample == {f"{section}.{name}": str(value)}
  for task, keys in generating.FLAG_FIELDS.items():
    for key in keys:
      *sections, last = key.split(".")
      part = functools.reduce(getattr, sections, SampleConfig())
      rows = {
        "t2i": ["--prompt=", "--image=a"],
        "caption": ["--image=a"],
        "vqa": ["--image=a", "--question=b"],
      }[task]
      value = str(getattr(part, last))
      sample("--checkpoint=c", f"--task={task}", *rows, f"--{last}={value}")
      assert calls.pop().sample == {key: value}


@pytest.mark.parametrize(
  ("argv", "message"),
  [
    (
      ["--task=caption", "--guidance_scale=2"],
      "--task=caption does not take --guid",
    ),
    (["--task=caption", "--size=8"], "--task=caption does not take --size"),
    (["--task=t2i", "--num_steps=2"], "did you mean 'num_inference_steps'"),
    (["--task=t2i", "--strength=0.5"], "--strength says .* give --image"),
    (["--task=t2i", "--temperature=0"], "--task=t2i does not take --temperat"),
    (["--task=t2i", "--instruction=a"], "--task=t2i does not take --instruct"),
    (["--task=t2i", "--sample.text.order=x"], "does not use --sample.text.or"),
    (
      ["--task=t2i", "--guidance_scale=x"],
      "guidance_scale must be float, got 'x'",
    ),
    (["--task=t2i", "--guidence=2"], "no flag --guidence: did you mean 'guid"),
    (
      ["--task=t2i", "--num_inference_steps=0"],
      "num_inference_steps must be positive",
    ),
    (["--task=t2i", "--size=axb"], "--size must be integers joined by 'x'"),
    (["--task=t2i", "--indices=1;2"], "--indices must be integers joined by"),
    (["--task=t2i", "--preset=fast"], "--task=t2i does not take --preset"),
    (
      [
        "--task=t2i",
        "--num_inference_steps=2",
        "--sample.image.num_inference_steps=3",
      ],
      "--sample.image.num_inference_steps set the same: keep one",
    ),
  ],
)
def test_settings_are_checked_before_the_checkpoint_is_opened(argv, message):
  with pytest.raises(InputError, match=message):
    sample("--checkpoint=nowhere", "--prompt=a", *argv)


@pytest.mark.parametrize("missing", ["checkpoint", "out"])
def test_evaluation_needs_two_flags(missing):
  argv = {"checkpoint": "c", "out": "o"}
  del argv[missing]
  with pytest.raises(InputError, match=f"--{missing} is missing: "):
    evaluated(*(f"--{name}={value}" for name, value in argv.items()))


def test_the_config_is_checked_before_the_checkpoint_is_opened():
  with pytest.raises(InputError, match=r"evaluate.split must be one of"):
    evaluated(
      CONFIG, "--checkpoint=c", "--out=o", **{"evaluate.split": "validaton"}
    )


def test_without_a_config_a_run_is_evaluated_by_its_own(
  trained, tmp_path, monkeypatch
):
  calls = []
  monkeypatch.setattr(
    evaluate, "evaluate", lambda *args, **_: calls.append(args)
  )
  flags = f"--checkpoint={trained}", "--out=o"
  evaluated(*flags)
  evaluated(*flags, **{"evaluate.num_captions": "3"})
  (own, _), (changed, _) = calls
  assert own == stored_config(str(trained), None)
  assert own.data.pool_size == 64 and own.evaluate.num_captions == 8
  assert changed.evaluate.num_captions == 3 and changed.data == own.data
  with pytest.raises(InputError, match="has no checkpoints"):
    evaluated(f"--checkpoint={tmp_path}", "--out=o")


def test_config_and_options_are_handed_over(monkeypatch):
  calls = []
  monkeypatch.setattr(
    evaluate, "evaluate", lambda *args, **named: calls.append((args, named))
  )
  argv = (CONFIG, "--checkpoint=c", "--out=o", "--weights=params", "--step=2")
  evaluated(*argv, **{"evaluate.split": "validation"})
  [((settings, checkpoint), named)] = calls
  assert settings.evaluate.split == "validation" and checkpoint == "c"
  assert named == {"out": "o", "weights": "params", "step": 2}


def test_benchmarks_keep_what_is_compiled_too(monkeypatch):
  used = []
  monkeypatch.setattr(benchmarks, "evaluate_benchmarks", lambda *_, **__: 0)
  monkeypatch.setattr(
    commands.compilation_cache,
    "use",
    lambda values: used.append(values.compilation_cache),
  )
  flags = (CONFIG, "--checkpoint=c", "--out=o", "--compilation_cache=off")
  assert evaluated(*flags, "--tasks=pope") == 0
  assert used == ["off"]
  with pytest.raises(InputError, match="name each benchmark once"):
    evaluated(*flags, "--tasks=pope,pope")
  assert used == ["off"]


@pytest.fixture
def exports(monkeypatch):
  """(name of the export, arguments) of what the verb calls."""
  seen = []
  for name in ("export_adapter", "export_merged"):

    def record(checkpoint, out, *, name=name, **options):
      seen.append((name, checkpoint, out, options))
      return 0

    monkeypatch.setattr(lora_export, name, record)
  return seen


@pytest.mark.parametrize(
  ("flags", "name", "options"),
  [
    ([], "export_adapter", {"weights": "ema", "step": None}),
    (
      ["--merge", "--weights=params", "--step=4"],
      "export_merged",
      {"weights": "params", "step": 4},
    ),
  ],
)
def test_flags_reach_the_export(exports, flags, name, options):
  assert main(["lora", "--checkpoint=run", "--out=there", *flags]) == 0
  assert exports == [(name, "run", "there", options)]


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--out=a.safetensors"], "--checkpoint is missing"),
    (["--checkpoint=run"], "--out is missing"),
    (
      ["--checkpoint=run", "--out=there", "--weights=mean"],
      "unknown weights 'mean'",
    ),
    (
      ["--checkpoint=nowhere", "--out=a.safetensors"],
      "nowhere has no checkpoints",
    ),
  ],
)
def test_bad_export_flags_are_one_line(
  capsys, tmp_path, monkeypatch, flags, message
):
  monkeypatch.chdir(tmp_path)
  assert main(["lora", *flags]) == 2
  err = capsys.readouterr().err
  assert message in err and err.count("\n") == 1
