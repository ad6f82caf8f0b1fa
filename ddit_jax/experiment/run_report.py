"""The report of a training run, made of what lies in its workdir."""

import contextlib
import logging
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
from PIL import Image

from ddit_jax.files import read_regular
from ddit_jax.json_files import parse_json, read_json_object
from ddit_jax.monitor.metric_writer import read_scalars
from ddit_jax.report.page import Report, write_report
from ddit_jax.train.hooks import INCIDENTS_FILE

_log = logging.getLogger(__name__)
_MAX_CONFIG_BYTES = 2**24

# Drawn for a run; each curve takes a tenth of a second, and a machine that
# asked for a stop may disappear within seconds.
_CURVES = (
  *("loss/total", "loss/image", "loss/text", "validation/total"),
  *("grad_norm", "learning_rate", "speed/steps_per_second"),
)
# Beginning of the scalars of `benchmarks.at_validation`, which are all drawn.
EVALUATION = "evaluation/"
_GRIDS = ("generated_images", "answers")


def write_run_reports(workdirs: Iterable[pathlib.Path]) -> None:
  """Writes the report of each run that went on since its last report.

  Process 0 writes. A page that cannot be written is logged and stops nothing.

  Args:
    workdirs: of the runs; those without scalars are left out.
  """
  if jax.process_index() != 0:
    return
  for folder in workdirs:
    scalars, path = folder / "scalars.jsonl", report_path(folder)
    if not scalars.is_file() or _is_newer(path, scalars):
      continue
    try:
      write_report(path, run_report(folder))
    except (OSError, ValueError) as error:
      _log.warning("%s cannot be written: %s", path, error)
    else:
      _log.info("report: %s", path)


def report_path(workdir: pathlib.Path) -> pathlib.Path:
  """report.html; training.html beside an evaluation, which has its own."""
  is_evaluated = (workdir / "metrics.json").exists()
  return workdir / ("training.html" if is_evaluated else "report.html")


def run_report(workdir: pathlib.Path) -> Report:
  """Curves, the newest sample grids and the config of a run.

  Raises:
    OSError: a file cannot be read.
    ValueError: a file is damaged.
  """
  config, name, facts = _run_facts(workdir / "config.json")
  lines = read_scalars(workdir / "scalars.jsonl")
  step = max((line["step"] for line in lines), default=0)
  shown = ("step", "time", *_CURVES)
  return Report(
    title=name,
    summary=f"{step:,} of {facts}",
    config=config,
    scalars=[
      {k: v for k, v in line.items() if k in shown or k.startswith(EVALUATION)}
      for line in lines
    ],
    grids=_newest_grids(workdir / "images"),
    seconds={"train": train_seconds(lines)},
  )


def _run_facts(path: pathlib.Path) -> tuple[dict[str, Any], str, str]:
  """(config, name, steps and seed as a summary has them) of a config.json."""
  config = read_json_object(path, max_bytes=_MAX_CONFIG_BYTES)
  try:
    num_steps = config["train"]["num_steps"]
    facts = f"{num_steps:,} training steps, seed {config['seed']}."
    return config, str(config["name"]), facts
  except (KeyError, TypeError, ValueError) as error:
    raise ValueError(f"{path} is damaged: {error!r}") from error


def read_incidents(workdir: pathlib.Path) -> list[dict[str, Any]]:
  """Skipped batches and rollbacks of a run, in order; see `LossGuard`.

  A line that is half written is left out.

  Raises:
    OSError: the file cannot be read.
  """
  path, found = workdir / INCIDENTS_FILE, []
  if not path.exists():
    return found
  for line in read_regular(path).split(b"\n"):
    with contextlib.suppress(ValueError):
      incident = parse_json(line)
      if isinstance(incident, dict):
        found.append(incident)
  return found


def train_seconds(scalars: Sequence[dict[str, Any]]) -> float:
  """Time in the training loop, from the logged speeds; pauses not counted."""
  seconds, last = 0.0, 0
  for row in scalars:
    if speed := row.get("speed/steps_per_second"):
      seconds += (row["step"] - last) / speed
      last = row["step"]
  return seconds


def _newest_grids(folder: pathlib.Path) -> dict[str, np.ndarray]:
  """The last image of each kind of grid, with a description."""
  grids = {}
  for name in _GRIDS:
    if paths := sorted((folder / name).glob("[0-9]*.png")):
      title = f"{name.replace('_', ' ')}, step {int(paths[-1].stem):,}"
      with Image.open(paths[-1]) as image:
        grids[title] = np.asarray(image.convert("RGB"))
  return grids


def _is_newer(path: pathlib.Path, other: pathlib.Path) -> bool:
  return path.exists() and path.stat().st_mtime >= other.stat().st_mtime
