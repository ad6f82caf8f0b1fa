"""`ddit evaluate --tasks`, end to end on a checkpoint of a tiny run."""

import collections
import errno
import json
import pathlib
import re
import shutil
import signal
import time
import types

import numpy as np
import pytest
from PIL import Image

from ddit_jax.cli.main import BAD_INPUT, main
from ddit_jax.config.load import load_config
from ddit_jax.experiment.config import Config
from ddit_jax.pipelines.load import load
from ddit_jax.pipelines.pipeline import Pipeline
from ddit_jax.pipelines.validation_tasks import ValidationTasks
from ddit_jax.protocols.protocol import PROTOCOLS
from tests import tiny_run
from tests.pipelines import sd3_files
from tests.protocols import official_files

CONFIG = tiny_run.ROOT / "configs" / "benchmarks.py"
COUNT = 4


def flags(checkpoint, root, out, tasks, **more) -> list[str]:
  """A command line; "__" in a name stands for a dot."""
  changes = {
    "benchmarks.folder": root,
    "sample.batch_size": 8,
    "sample.image.num_inference_steps": 2,
    "sample.text.num_steps": 3,
  } | {name.replace("__", "."): value for name, value in more.items()}
  return [
    "evaluate",
    f"--checkpoint={checkpoint}",
    f"--config={CONFIG}:own",
    f"--tasks={','.join(tasks)}",
    f"--out={out}",
    *(f"--config.{name}={value}" for name, value in changes.items()),
  ]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  folder = tmp_path_factory.mktemp("files")
  official_files.write_all(folder, COUNT)
  return folder


@pytest.fixture(scope="module")
def out(trained, root, tmp_path_factory):
  """The results of every benchmark."""
  folder = tmp_path_factory.mktemp("results")
  assert main(flags(trained, root, folder, PROTOCOLS)) == 0
  return folder


def journal(folder: pathlib.Path) -> list[dict]:
  """The outputs of a task; the first line is the header."""
  lines = (folder / "outputs.jsonl").read_text().splitlines()
  return [json.loads(line) for line in lines[1:]]


def test_every_benchmark_is_sampled_and_written(out):
  counts = {name: len(journal(out / name)) for name in PROTOCOLS}
  assert counts == {
    **dict.fromkeys(("vqav2", "textvqa", "vizwiz", "okvqa", "gqa"), COUNT),
    **dict.fromkeys(("coco_captions", "mjhq", "coco30k"), COUNT),
    **dict.fromkeys(("geneval", "dpg"), 4 * COUNT),
    "pope": 3 * COUNT,
    "mme": 28,
    "t2i_compbench": 30 * COUNT,
  }
  rows = json.loads((out / "vqav2" / "results.json").read_text())
  assert [row["question_id"] for row in rows] == [100, 101, 102, 103]
  line = (out / "mme" / "results" / "OCR.txt").read_text().splitlines()[0]
  assert line.split("\t")[:3] == ["0000.png", "is there a two?", "Yes"]
  image = Image.open(out / "geneval" / "00000" / "samples" / "00000.png")
  assert image.size == (16, 16)
  assert Image.open(out / "dpg" / "grids" / "p3.png").size == (32, 32)
  llava = (out / "gqa" / "answers.jsonl").read_text().splitlines()
  assert json.loads(llava[0])["prompt"] == "Q: what color is the number? A: "


def test_every_text_benchmark_is_scored_with_its_interval(out):
  metrics = json.loads((out / "metrics.json").read_text())["metrics"]
  rows = metrics["checkpoint"]
  for name, protocol in PROTOCOLS.items():
    if protocol.kind == "answer":
      figure = "perception" if name == "mme" else "accuracy"
      row = rows[f"{name}/{figure}"]
      low, high = row["interval"]
      assert low <= row["value"] <= high, name
  assert "vqav2/release/accuracy" in rows


def test_what_waits_for_another_program_is_said(out):
  manifest = json.loads((out / "manifest.json").read_text())
  notes = manifest["tasks"]["geneval"]["notes"]
  assert any("Mask2Former" in note for note in notes)
  assert any(
    "--config.benchmarks.files.geneval.detections=FILE" in note
    for note in notes
  )
  notes = manifest["tasks"]["mjhq"]["notes"]
  assert any("Inception" in note for note in notes)


def test_the_manifest_says_what_the_figures_depend_on(out, trained):
  manifest = json.loads((out / "manifest.json").read_text())
  checkpoint = manifest["checkpoint"]
  assert checkpoint["path"] == str(trained) and checkpoint["step"] == 6
  assert len(checkpoint["blake2b"]) == 32
  task = manifest["tasks"]["vqav2"]
  assert len(task["files"]["questions"]["blake2b"]) == 32
  assert task["settings"]["prompt"] == "Q: {question} A: "
  assert task["settings"]["sampler"]["num_steps"] == 3
  assert task["notes"][0] == "4 items, the published files have 214,354"
  assert manifest["config"]["benchmarks"]["seed"] == 0
  assert {"jax", "numpy"} <= manifest["libraries"].keys()
  assert len(manifest["devices"]) == 8 and manifest["command"]


def test_the_report_shows_the_worst_and_random_items(out):
  page = (out / "report.html").read_text().replace("<wbr>", "")
  assert "vqav2: lowest scores" in page
  assert "geneval: random, seed 0" in page
  assert 'src="http' not in page and "<link" not in page


def test_what_is_there_is_not_sampled_again(
  trained, root, out, tmp_path, monkeypatch
):
  """A journal that was cut in a line goes on, and ends as the whole one."""
  argv = flags(trained, root, tmp_path, ["textvqa", "mjhq"])
  assert main(argv) == 0
  path = tmp_path / "textvqa" / "outputs.jsonl"
  whole = path.read_bytes()
  path.write_bytes(whole[: whole.rindex(b"\n", 0, -1) - 3])
  asked = collections.Counter()
  complete = Pipeline.complete

  def counted(self, images, prompts, *, indices, **options):
    asked.update(indices)
    return complete(self, images, prompts, indices=indices, **options)

  monkeypatch.setattr(Pipeline, "complete", counted)
  monkeypatch.setattr(Pipeline, "text_to_image", None)
  assert main(argv) == 0
  assert set(asked) == {2, 3}
  assert path.read_bytes() == whole
  assert journal(tmp_path / "textvqa") == journal(out / "textvqa")


def test_other_settings_are_refused_in_the_same_folder(
  trained, root, out, capsys
):
  argv = flags(trained, root, out, ["gqa"], benchmarks__seed=1)
  assert main(argv) == BAD_INPUT
  assert "holds outputs of settings" in capsys.readouterr().err


def test_files_that_a_scorer_refuses_leave_the_report(
  trained, root, out, tmp_path, capsys
):
  for task in ("gqa", "mjhq"):
    shutil.copytree(out / task, tmp_path / "out" / task)
  np.save(tmp_path / "a.npy", np.ones((4, 3)))
  np.save(tmp_path / "b.npy", np.ones((4, 2)))
  files = {
    "features": str(tmp_path / "a.npy"),
    "reference_features": str(tmp_path / "b.npy"),
  }
  argv = flags(
    trained,
    root,
    tmp_path / "out",
    ["mjhq", "gqa"],
    benchmarks__files=json.dumps({"mjhq": files}),
  )
  assert main(argv) == BAD_INPUT
  assert "mjhq: not scored by fid: " in capsys.readouterr().err
  metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
  assert "gqa/accuracy" in metrics["metrics"]["checkpoint"]
  assert (tmp_path / "out" / "report.html").is_file()


def test_a_disk_that_fails_at_any_point_is_a_line(
  trained, root, out, capsys, monkeypatch
):
  def full(*_):
    raise OSError(errno.EDQUOT, "Disk quota exceeded", "metrics.json")

  monkeypatch.setattr("ddit_jax.pipelines.benchmarks.write_results", full)
  assert main(flags(trained, root, out, ["gqa"])) == BAD_INPUT
  error = capsys.readouterr().err
  assert "Disk quota exceeded: 'metrics.json': what was finished in" in error


def test_a_missing_image_stops_before_the_weights_are_read(
  trained, tmp_path, capsys, monkeypatch
):
  official_files.gqa(tmp_path / "gqa", 2)
  (tmp_path / "gqa" / "images" / "n1.jpg").unlink()
  monkeypatch.setattr("ddit_jax.pipelines.benchmarks.load", None)
  assert main(flags(trained, tmp_path, tmp_path / "out", ["gqa"])) == BAD_INPUT
  assert "1 of the images are missing" in capsys.readouterr().err
  assert not (tmp_path / "out").exists()


def test_the_checkpoint_comes_before_its_baseline(
  trained, tmp_path, capsys, monkeypatch
):
  official_files.gqa(tmp_path / "gqa", 2)
  loaded = []

  def load(path, **_):
    loaded.append(path)
    raise OSError(errno.EIO, "stop here")

  monkeypatch.setattr("ddit_jax.pipelines.benchmarks.load", load)
  other = shutil.copytree(trained, tmp_path / "other")
  argv = flags(trained, tmp_path, tmp_path / "out", ["gqa"])
  argv.append(f"--baseline={other}")
  assert main([*argv, "--weights=best"]) == BAD_INPUT
  assert "weights must be one of" in capsys.readouterr().err
  assert loaded == []
  assert main(argv) == BAD_INPUT
  assert loaded == [str(trained)]


def test_validation_of_training_finds_the_same_figures(
  trained, root, out, tmp_path
):
  names = ("gqa", "coco_captions")
  changes = {
    "benchmarks.folder": str(root),
    "benchmarks.at_validation": ", ".join(names),
    "sample.batch_size": "8",
    "sample.text.num_steps": "3",
  }
  config = load_config(Config, f"{CONFIG}:own", changes)
  weights = load(str(trained))
  pipeline = weights.with_variables({}, 0)
  tasks = ValidationTasks(config, pipeline, tmp_path)
  state = types.SimpleNamespace(
    variables=lambda ema: ema, ema=weights.variables
  )
  progress = types.SimpleNamespace(state=state, step=6)
  found = tasks(progress)
  rows = json.loads((out / "metrics.json").read_text())["metrics"]["checkpoint"]
  assert found == {
    f"evaluation/{re.sub('[^A-Za-z0-9_/]', '_', name)}": row["value"]
    for name, row in rows.items()
    if name.split("/")[0] in names
  }
  # Its weights are gone, and a step that comes again is sampled again.
  assert pipeline.variables == {} and tasks(progress) == found
  assert len(journal(tmp_path / "validation" / "gqa")) == COUNT


def test_a_baseline_draws_the_same_prompts_with_the_same_seeds(
  trained, root, out, tmp_path
):
  """Even into a folder that is called as the baseline's own."""
  features = tmp_path / "features.npy"
  np.save(features, np.random.default_rng(0).normal(size=(8, 4)))
  files = {"features": str(features), "reference_features": str(features)}
  tmp_path = tmp_path / "baseline"
  argv = flags(
    trained,
    root,
    tmp_path,
    ["mjhq"],
    benchmarks__files=json.dumps({"mjhq": files}),
  )
  assert main([*argv, f"--baseline={trained}"]) == 0
  metrics = json.loads((tmp_path / "metrics.json").read_text())["metrics"]
  assert "mjhq/frechet_distance" in metrics["checkpoint"]
  assert metrics["baseline"] == {}
  pairs = [
    (tmp_path / part / "mjhq" / row["output"])
    for row in journal(tmp_path / "mjhq")
    for part in ("", "baseline")
  ]
  for ours, theirs in zip(pairs[::2], pairs[1::2], strict=True):
    assert ours.read_bytes() == theirs.read_bytes()
  page = (tmp_path / "report.html").read_text()
  assert "<small>generated</small>" in page
  assert "<small>baseline</small>" in page


@pytest.mark.parametrize(
  ("tasks", "message"),
  [
    (["vqa"], "unknown benchmark 'vqa': did you mean"),
    (["gqa", "gqa"], "name each benchmark once, and digits alone"),
    (["digits", "gqa"], "name each benchmark once, and digits alone"),
    ([""], "name each benchmark once"),
    (["captions:mine"], "the config has no data.sources"),
    (["captains:mine"], "unknown task 'captains:mine': did you mean 'captio"),
  ],
)
def test_unknown_tasks_are_refused(
  trained, root, tmp_path, capsys, tasks, message
):
  assert main(flags(trained, root, tmp_path / "o", tasks)) == BAD_INPUT
  assert message in capsys.readouterr().err


@pytest.mark.slow
def test_sd3_is_a_baseline(trained, root, tmp_path):
  """Its encoders truncate prompts and count what they do not know."""
  sd3 = sd3_files.write(tmp_path / "sd3")
  argv = flags(trained, root, tmp_path / "out", ["mjhq"])
  assert main([*argv, f"--baseline={sd3}"]) == 0
  for part in ("", "baseline"):
    images = (tmp_path / "out" / part / "mjhq").rglob("*.png")
    assert [Image.open(path).size for path in images] == [(16, 16)] * COUNT
  manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
  assert manifest["baseline"]["path"] == str(sd3)
  assert main([*flags(sd3, root, tmp_path / "x", ["gqa"])]) == BAD_INPUT


@pytest.mark.slow
def test_killed_runs_end_as_undisturbed_ones(trained, tmp_path):
  """20 items each; SIGKILL wherever some outputs are written."""
  official_files.write_all(tmp_path / "files", 20)
  tasks = ("vqav2", "pope", "mme", "geneval", "coco30k")
  argv = flags(trained, tmp_path / "files", tmp_path / "killed", tasks)
  num_kills = 0
  for least in (3, 30, 90, 130):
    process = tiny_run.ddit(*argv)
    while process.poll() is None:
      lines = sum(
        path.read_bytes().count(b"\n")
        for path in (tmp_path / "killed").rglob("outputs.jsonl")
      )
      if lines >= least:
        process.send_signal(signal.SIGKILL)
      time.sleep(0.05)
    num_kills += process.wait() == -signal.SIGKILL
    process.communicate()
  assert num_kills >= 3
  process = tiny_run.ddit(*argv)
  _, errors = process.communicate()
  assert process.returncode == 0, errors
  whole = flags(trained, tmp_path / "files", tmp_path / "whole", tasks)
  process = tiny_run.ddit(*whole)
  _, errors = process.communicate()
  assert process.returncode == 0, errors
  for task in tasks:
    killed, undisturbed = (
      journal(tmp_path / x / task) for x in ("killed", "whole")
    )
    assert len({row["key"] for row in killed}) == len(killed)
    assert killed == undisturbed
    for row in killed:
      if task in ("geneval", "coco30k"):
        images = [
          np.asarray(Image.open(tmp_path / x / task / row["output"]))
          for x in ("killed", "whole")
        ]
        np.testing.assert_array_equal(*images)
  metrics = [
    (tmp_path / x / "metrics.json").read_text() for x in ("killed", "whole")
  ]
  assert metrics[0] == metrics[1]
