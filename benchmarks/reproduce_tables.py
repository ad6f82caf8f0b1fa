"""The paper's Tables 5, 9 and 10 at small scale, on the digit world.

  python benchmarks/reproduce_tables.py --grid=small --out=runs/tables
  python benchmarks/reproduce_tables.py --grid=full --out=runs/tables_full

Trains the stages of `reproduction_config.py` for each seed and evaluates them:
sampling steps of the text (Table 5), initialisation from an image model or from
scratch (Table 9), and the amount of generation data in instruction tuning
(Table 10). `small` is sized for two CPU cores (about 40 minutes if they are
idle), `full` for a GPU.

Every cell is a folder under --out. The same command resumes: finished cells are
skipped, interrupted training continues from its checkpoint. The results are
tables.json and tables.md; `--only_tables` writes them from existing cells.
"""

import argparse
import dataclasses
import itertools
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable

from reproduction_config import LENGTHS
from reproduction_report import Table, write_tables

_ROOT = pathlib.Path(__file__).parent.parent
_CONFIG = _ROOT / "benchmarks" / "reproduction_config.py"
_DONE = "done.json"
# Text metrics alone: one step of one image per prompt costs almost nothing.
_TEXT_ONLY = {
  "sample.image.num_inference_steps": 1,
  "evaluate.images_per_prompt": 1,
}
_AS_IN_PAPER = {
  "sample.text.order": "ancestral",
  "sample.text.temperature": 1.0,
}

_GENERATION = "generation/overall"
_VQA, _POPE = "vqa/accuracy", "pope/accuracy"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid:
  """The cells of a grid.

  Attributes:
    seeds: of training; one row of cells each.
    text_steps: of Table 5.
    small_pool: scenes of Table 10's small amount of generation data.
    caption: Table 5's and 9's caption score.
  """

  seeds: tuple[int, ...]
  text_steps: tuple[int, ...]
  small_pool: int
  caption: str


GRIDS = {
  "small": Grid(
    seeds=(0, 1),
    text_steps=(1, 2, 4, 8, 16),
    small_pool=500,
    caption="caption/digit_and_color",
  ),
  "full": Grid(
    seeds=(0, 1, 2, 3),
    text_steps=(1, 2, 4, 8, 16, 32, 64),
    small_pool=5000,
    caption="caption/fact_f1",
  ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
  """One run of `ddit` that writes its results to a folder.

  Attributes:
    folder: of the training or evaluation.
    flags: of the command.
    result: exists once the cell is done.
  """

  folder: pathlib.Path
  flags: tuple[str, ...]
  result: pathlib.Path

  def run(self) -> None:
    """Runs it, unless it is done.

    Raises:
      SystemExit: it fails or is stopped, or the folder is of another command.
    """
    done = self.folder / _DONE
    if done.is_file():
      if json.loads(done.read_text())["flags"] == list(self.flags):
        return
      raise SystemExit(
        f"{self.folder} is from a run with other flags: choose another --out"
      )
    print(f"{time.strftime('%H:%M:%S')} {self.folder}", flush=True)
    self.folder.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    with open(self.folder / "log.txt", "ab") as log:
      command = [sys.executable, "-m", "ddit_jax", *self.flags]
      code = subprocess.run(command, stdout=log, stderr=log).returncode
    if code:
      raise SystemExit(f"exit code {code}: see {self.folder / 'log.txt'}")
    if not self.result.exists():
      raise SystemExit(
        f"{self.folder} was stopped before it finished: run the same "
        "command again"
      )
    record = {"flags": self.flags, "seconds": time.monotonic() - start}
    done.write_text(json.dumps(record, indent=2) + "\n")


class SeedCells:
  """All cells of one seed, in an order in which they can run.

  Attributes:
    cells: of training and evaluation.
  """

  def __init__(self, grid_name: str, seed: int, out: pathlib.Path):
    self._name, self._seed, self._out = grid_name, seed, out / f"seed{seed}"
    self.cells: list[Cell] = []

  def train(self, name: str, stage: str, changes=()) -> pathlib.Path:
    """Adds the training of a stage; its workdir."""
    folder, num_steps = self._out / name, LENGTHS[self._name][stage][0]
    last = dict(changes).get("train.num_steps", num_steps)
    self._add(
      folder,
      ["train", self._config(stage), f"--workdir={folder}"],
      {"seed": self._seed, **dict(changes)},
      folder / "checkpoints" / f"{last}",
    )
    return folder

  def evaluate(
    self, name: str, run: pathlib.Path, step: int | None = None, changes=()
  ) -> pathlib.Path:
    """Adds the evaluation of a run at a step, or its last; its folder."""
    folder = self._out / "evaluations" / name
    flags = ["evaluate", self._config("tuning"), f"--checkpoint={run}"]
    flags += [f"--out={folder}", *([f"--step={step}"] if step else [])]
    self._add(folder, flags, dict(changes), folder / "metrics.json")
    return folder

  def _add(self, folder, flags, changes, result) -> None:
    flags += [f"--config.{key}={value}" for key, value in changes.items()]
    cell = Cell(folder=folder, flags=tuple(flags), result=result)
    self.cells.append(cell)

  def _config(self, stage: str) -> str:
    return f"--config={_CONFIG}:{self._name}_{stage}"


class AblationCells(SeedCells):
  """Those of Tables 5, 9 and 10.

  Attributes:
    steps: sampling steps -> evaluation.
    amounts: (amount of generation data, tuning step) -> evaluation.
    dual: start -> evaluation after the dual stage.
    tuned: start -> evaluation after tuning.
  """

  def __init__(self, grid_name: str, seed: int, out: pathlib.Path):
    super().__init__(grid_name, seed, out)
    self._grid, self._last = GRIDS[grid_name], LENGTHS[grid_name]["tuning"][0]
    self.dual: dict[str, pathlib.Path] = {}
    self.tuned: dict[str, pathlib.Path] = {}
    first = self.train("image_first", "image_first")
    dual, tuned = self._dual_and_tuned("scratch")
    self.steps = self._sampling_steps(tuned)
    self.amounts = self._amounts(dual, tuned)
    self._dual_and_tuned("from_images", first)

  def _dual_and_tuned(self, start: str, init_from: pathlib.Path | None = None):
    """Both stages of one initialisation of Table 9; their workdirs."""
    changes = {} if init_from is None else {"init_from": init_from}
    dual = self.train(f"{start}_dual", "dual", changes)
    tuned = self.train(f"{start}_tuning", "tuning", {"init_from": dual})
    self.dual[start] = self.evaluate(f"{start}_dual", dual)
    self.tuned[start] = self.evaluate(f"{start}_tuned", tuned, self._last)
    return dual, tuned

  def _sampling_steps(self, tuned: pathlib.Path) -> dict[int, pathlib.Path]:
    """Table 5, with the paper's unmasking order."""
    return {
      steps: self.evaluate(
        f"steps{steps}",
        tuned,
        self._last,
        _TEXT_ONLY | _AS_IN_PAPER | {"sample.text.num_steps": steps},
      )
      for steps in self._grid.text_steps
    }

  def _amounts(self, dual: pathlib.Path, tuned: pathlib.Path):
    """Table 10, all from one dual model; `tuned` is the largest amount."""
    base = {"init_from": dual}
    none = {"data.text_to_image.batch_size": 0}
    few = {"data.text_to_image.pool_size": self._grid.small_pool}
    tunings = {
      "none": self.train("tuning_none", "tuning", base | none),
      "small": self.train("tuning_small", "tuning", base | few),
      "large": tuned,
    }
    return {
      (amount, step): self.evaluate(f"{amount}{step}", run, step, _TEXT_ONLY)
      for amount, run in tunings.items()
      for step in tuning_steps(self._name)
    }


def tuning_steps(grid_name: str) -> list[int]:
  """Steps of the checkpoints of tuning; the last is its end."""
  last, count = LENGTHS[grid_name]["tuning"]
  return [last * number // count for number in range(1, count + 1)]


def tables(grid_name: str, seeds: list[AblationCells]) -> dict[str, Table]:
  """The evaluations of each table."""
  grid = GRIDS[grid_name]

  def row(attribute, key):
    return [getattr(cells, attribute)[key] for cells in seeds]

  both = {"from scratch": "scratch", "from images": "from_images"}
  amounts = itertools.product(
    ("none", "small", "large"), tuning_steps(grid_name)
  )
  return {
    "table5": (
      "Table 5: sampling steps of the text",
      {f"T = {steps}": row("steps", steps) for steps in grid.text_steps},
      (_VQA, grid.caption),
    ),
    "table9_dual": (
      "Table 9: start of training, after the dual stage",
      {label: row("dual", start) for label, start in both.items()},
      (_GENERATION, grid.caption),
    ),
    "table9_tuned": (
      "Table 9: start of training, after tuning",
      {label: row("tuned", start) for label, start in both.items()},
      (_GENERATION, grid.caption, _VQA, _POPE),
    ),
    "table10": (
      "Table 10: amount of generation data in tuning",
      {f"{a}, step {s}": row("amounts", (a, s)) for a, s in amounts},
      (_VQA, _POPE),
    ),
  }


def reproduce(
  description: str,
  cells_of: Callable[[str, int, pathlib.Path], SeedCells],
  tables_of: Callable[[str, list], dict[str, Table]],
) -> None:
  """The command: runs the cells of all seeds and writes their tables."""
  parser = argparse.ArgumentParser(
    description=description,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("--grid", choices=GRIDS, default="small")
  parser.add_argument("--out", type=pathlib.Path, required=True)
  parser.add_argument("--only_tables", action="store_true")
  arguments = parser.parse_args()
  name, out = arguments.grid, arguments.out.absolute()
  out.mkdir(parents=True, exist_ok=True)
  # The stages share their programs; most of a short run would be compilation.
  os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(out / "compiled"))
  seeds = [cells_of(name, seed, out) for seed in GRIDS[name].seeds]
  if not arguments.only_tables:
    for seed in seeds:
      for cell in seed.cells:
        cell.run()
  print(write_tables(tables_of(name, seeds), out))


if __name__ == "__main__":
  reproduce(__doc__, AblationCells, tables)
