"""`ddit evaluate` examines all three tasks and writes them down."""

import dataclasses
import json
import math

import pytest
from PIL import Image

from ddit_jax.data.config import DataConfig
from ddit_jax.errors import InputError
from ddit_jax.pipelines import evaluate as evaluating
from tests import tiny_run

# What every run of the embedded default must report.
NAMES = (
  "generation/digit_and_color",
  "generation/digit_and_color_heldout_pairs",
  "caption/digit_and_color",
  "vqa/what_number",
  "vqa/what_color",
  "vqa/color_yes_no",
)


def evaluate(trained, out, **overrides):
  settings = tiny_run.settings(evaluate__split="validation", **overrides)
  return evaluating.evaluate(
    settings, str(trained), out=str(out), weights="ema", step=None
  )


@pytest.fixture(scope="module")
def out(trained, tmp_path_factory):
  folder = tmp_path_factory.mktemp("evaluation")
  assert evaluate(trained, folder, evaluate__is_full="True") == 0
  return folder


@pytest.fixture(scope="module")
def record(out):
  return json.loads((out / "metrics.json").read_text())


def test_every_metric_has_all_its_figures(record):
  assert set(NAMES) <= set(record["metrics"])
  for name, row in record["metrics"].items():
    assert set(row) >= {"value", "n", "interval", "oracle", "prior_baseline"}, (
      name
    )
    low, high = row["interval"]
    assert low <= row["value"] <= high and row["n"] > 0, name
    most = 10 if name == "caption/cider" else 1
    assert 0 <= low and high <= most, name
    for other in (row["oracle"], row["prior_baseline"]):
      assert other is None or 0 <= other <= most, name


def test_oracles_are_on_real_scenes(record):
  """Real scenes are drawn and described as asked, up to the checker."""
  oracle = record["metrics"]["generation/digit_and_color"]["oracle"]
  assert oracle > 0.9


def test_what_was_examined_is_recorded(record):
  assert record["checkpoint"] == {"step": 6, "weights": "ema", "seed": 0}
  assert record["writers"] == "validation"
  assert record["config"]["evaluate"]["num_captions"] == 8
  seconds = record["seconds"]
  tasks = {"generation", "captions", "answers", "pope", "tables"}
  assert set(seconds) == {"train", *tasks}
  assert all(math.isfinite(x) and x > 0 for x in seconds.values())


def test_samples_are_written_beside_their_scores(out, record):
  lines = {
    name: [
      json.loads(line)
      for line in (out / f"{name}.jsonl").read_text().splitlines()
    ]
    for name in ("generation", "captions", "answers")
  }
  assert len(lines["captions"]) == 8
  first = lines["generation"][0]
  assert Image.open(out / first["image"]).size == (16, 16)
  correct = sum(row["is_correct"] for row in lines["generation"])
  assert 0 <= correct <= len(lines["generation"])
  kinds = {row["kind"] for row in lines["answers"]}
  for kind in kinds:
    assert sum(row["kind"] == kind for row in lines["answers"]) == 4


def test_the_tables_have_a_cell_for_what_was_measured(out, record):
  text = (out / "tables.md").read_text()
  rows = [line.split(" | ") for line in text.splitlines() if line[:2] == "| "]
  head = rows[0][1:]
  assert head[:2] == ["single object", "colors"] and head[-1] == "soft tifa |"
  value = record["metrics"]["mme/existence"]["value"]
  column = next(row for row in rows if "MME existence" in row)
  row = next(row for row in rows if row[0] == "| checkpoint")
  cell = row[column.index("MME existence")]
  assert cell.startswith(f"{200 * value:.1f} [")
  assert {
    "vqa/accuracy_heldout_pairs_train_writers",
    "caption/digit_and_color_seen_pairs_train_writers",
    "gqa/consistency",
    "generation/soft_tifa/2",
  } <= record["metrics"].keys()


def test_the_report_stands_alone(out):
  page = (out / "report.html").read_text().replace("<wbr>", "")
  assert "generation/digit_and_color" in page
  assert 'src="http' not in page and "<link" not in page


def test_pope_can_be_left_out(trained, tmp_path, capsys):
  evaluate(trained, tmp_path, evaluate__num_pope_images="0")
  record = json.loads((tmp_path / "metrics.json").read_text())
  assert not any(n.startswith(("pope", "mme")) for n in record["metrics"])
  assert "pope" not in record["seconds"]
  printed = capsys.readouterr().out
  assert f"report:  {tmp_path / 'report.html'}" in printed
  assert all(name in printed for name in NAMES)


def test_a_checkpoint_of_another_world_is_refused(trained, tmp_path):
  with pytest.raises(InputError) as caught:
    evaluate(trained, tmp_path, data__world="scenes_32")
  assert str(caught.value) == (
    "the checkpoint was trained on data.world 'one_digit', the config has "
    "'scenes_32': give the config it was trained with"
  )


def test_other_data_are_refused_before_the_weights_are_read(
  trained, tmp_path, monkeypatch
):
  monkeypatch.setattr(evaluating, "load", None)
  only = (
    "but without --tasks ddit evaluate is an exam of the digit world: for "
    "other data, give --tasks, e.g. captions:NAME"
  )
  other = dataclasses.replace(
    tiny_run.settings(),
    data=DataConfig(sources={"mine": {"kind": "image_folder", "path": "x"}}),
  )
  with pytest.raises(InputError) as caught:
    evaluating.evaluate(
      other, str(trained), out=str(tmp_path), weights="ema", step=None
    )
  assert str(caught.value) == f"the config has data.sources (mine), {only}"
  monkeypatch.setattr(evaluating, "stored_config", lambda *_: other)
  with pytest.raises(InputError) as caught:
    evaluate(trained, tmp_path)
  assert str(caught.value) == (
    f"{trained} was trained on data.sources (mine), {only}"
  )
  monkeypatch.setattr(evaluating, "stored_config", lambda *_: None)
  with pytest.raises(
    InputError, match="holds converted weights, but without --tasks"
  ):
    evaluate(trained, tmp_path)


def test_the_folder_is_checked_first(tmp_path):
  (tmp_path / "file").touch()
  with pytest.raises(InputError, match="file cannot be written"):
    evaluate(tmp_path / "nowhere", tmp_path / "file")
