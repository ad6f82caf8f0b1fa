"""The tables' cells: which there are, what is passed over, what is written."""

import importlib
import itertools
import json
import pathlib

import pytest

from ddit_jax.config.load import load_config, split_overrides
from ddit_jax.data.schedule import parse_schedule
from ddit_jax.experiment.config import Config

BENCHMARKS = pathlib.Path("benchmarks").absolute()


@pytest.fixture
def tables(monkeypatch):
  monkeypatch.syspath_prepend(BENCHMARKS)
  return importlib.import_module("reproduce_tables")


@pytest.fixture
def report(monkeypatch):
  monkeypatch.syspath_prepend(BENCHMARKS)
  return importlib.import_module("reproduction_report")


def metric(value, low, high, n=200):
  return {
    "value": value,
    "interval": [low, high],
    "n": n,
    "prior_baseline": 0.45,
  }


def test_ends_of_intervals_are_averaged_as_for_equal_errors(report):
  cell = report.over_seeds([metric(0.5, 0.4, 0.6), metric(0.7, 0.65, 0.8)])
  assert cell["value"] == pytest.approx(0.6)
  assert cell["interval"] == pytest.approx([0.525, 0.7])
  assert (cell["n"], cell["seeds"]) == (200, [0.5, 0.7])


def test_seeds_that_are_not_there_are_counted_not_guessed(report, tmp_path):
  done = tmp_path / "done"
  done.mkdir()
  metrics = {"vqa/accuracy": metric(0.5, 0.4, 0.6)}
  (done / "metrics.json").write_text(json.dumps({"metrics": metrics}))
  rows = {"one": [done, tmp_path / "no"], "none": [tmp_path / "no"]}
  table = ("Table X", rows, ("vqa/accuracy",))
  text = report.write_tables({"x": table}, tmp_path)
  assert "| one | 50.0 [40.0, 60.0] (50.0) | 1 |" in text
  assert "| none | not run | 0 |" in text
  assert "`vqa/accuracy`: n = 200, prior 45.0." in text
  found = json.loads((tmp_path / "tables.json").read_text())
  assert found["x"]["rows"]["one"]["vqa/accuracy"]["seeds"] == [0.5]
  assert found["x"]["rows"]["none"] == {}


@pytest.mark.parametrize(
  ("script", "cells"),
  [
    ("reproduce_tables", "AblationCells"),
    ("reproduce_table4", "ReaderCells"),
  ],
)
@pytest.mark.parametrize("name", ["small", "full"])
def test_all_commands_name_settings_that_exist(
  tables, script, cells, name, tmp_path
):
  module = importlib.import_module(script)
  seeds = [
    getattr(module, cells)(name, seed, tmp_path)
    for seed in tables.GRIDS[name].seeds
  ]
  made: set[str] = set()
  for cell in itertools.chain.from_iterable(seed.cells for seed in seeds):
    assert str(cell.folder) not in made, "two cells in one folder"
    flags, overrides = split_overrides(list(cell.flags[1:]))
    values = dict(flag.removeprefix("--").split("=", 1) for flag in flags)
    settings = load_config(Config, values["config"], overrides)
    # What a cell starts from is made by an earlier one.
    features = settings.captioner.features_from
    for needed in (settings.init_from, features, values.get("checkpoint", "")):
      assert not needed or needed in made
    made.add(str(cell.folder))
    assert parse_schedule(settings.data.image_to_text.mixture).names()
    if cell.flags[0] == "train":
      steps = settings.train.num_steps
      assert steps % settings.train.checkpoint_every == 0
    if "step" in values:
      tuning = load_config(Config, values["config"], {}).train
      kept = tuning.num_steps // tuning.checkpoint_every
      assert int(values["step"]) % tuning.checkpoint_every == 0
      assert kept <= tuning.keep_last
  wanted = module.tables(name, seeds)
  rows = [
    folders for _, rows, _ in wanted.values() for folders in rows.values()
  ]
  assert {str(folder) for folders in rows for folder in folders} <= made


def cell(tables, folder, *flags):
  result = folder / "metrics.json"
  return tables.Cell(folder=folder, flags=flags, result=result)


def test_finished_cells_are_passed_over_others_refused(tables, tmp_path):
  flags = ("train", "--help")
  (tmp_path / "done.json").write_text(json.dumps({"flags": flags}))
  cell(tables, tmp_path, *flags).run()
  assert not (tmp_path / "log.txt").exists()
  with pytest.raises(SystemExit, match="is from a run with other flags"):
    cell(tables, tmp_path, "train").run()


def test_cells_that_fail_or_are_stopped_are_not_done(tables, tmp_path):
  with pytest.raises(SystemExit, match=r"exit code 2: see .*log\.txt"):
    cell(tables, tmp_path, "trian").run()
  assert "unknown verb 'trian'" in (tmp_path / "log.txt").read_text()
  with pytest.raises(SystemExit, match="was stopped before it finished"):
    cell(tables, tmp_path, "--help").run()
  assert not (tmp_path / "done.json").exists()


def test_readers_take_equally_many_steps_of_the_same_captions(tables, tmp_path):
  module = importlib.import_module("reproduce_table4")
  cells = module.ReaderCells("small", 1, tmp_path).cells
  trained = {}
  for cell in cells:
    if cell.flags[0] == "train":
      [config], overrides = split_overrides([*cell.flags[1:2], *cell.flags[3:]])
      argument = config.removeprefix("--config=")
      trained[cell.folder.name] = load_config(Config, argument, overrides)
  first = trained.pop("image_first")
  assert list(first.data.tasks_on()) == ["text_to_image"]
  assert trained.keys() == {"random", "frozen", "trained", "dual"}
  dual = trained["dual"]
  for one in trained.values():
    assert one.data.image_to_text == dual.data.image_to_text
    assert one.train == dual.train and one.optimizer == dual.optimizer
    assert (one.seed, one.data.pool_size) == (1, dual.data.pool_size)
  starts = {name: one.captioner.features_from for name, one in trained.items()}
  assert starts["random"] == "" and starts["frozen"] == starts["trained"]
  assert (
    dual.init_from == starts["frozen"] == str(tmp_path / "seed1/image_first")
  )
  assert [
    n for n, one in trained.items() if one.captioner.is_reader_trained
  ] == ["trained"]
