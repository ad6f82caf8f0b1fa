"""`ddit probe`: which layer of an image encoder a captioner reads best."""

import argparse
import pathlib

from ddit_jax.cli import cluster, compilation_cache
from ddit_jax.cli.flags import Flag, Verb
from ddit_jax.config.load import load_config
from ddit_jax.errors import InputError

_DESCRIPTION = """
Trains one captioner on each layer's features, with the same data and steps, and
plots their validation losses:

  ddit probe --config=configs/feature_captioner.py:sd3_frozen \\
    --layers=6,12,15,18,21,24 --workdir=runs/layers

Each captioner is a run in a folder of the workdir, layer_N; the same command
continues where it was stopped. At the end the workdir has layers.json and
layers.svg.
"""


def _run(values: argparse.Namespace, overrides: dict[str, str]) -> int:
  from ddit_jax.experiment.config import Config

  config = load_config(Config, values.config, overrides)
  from ddit_jax.experiment import layer_probe, run_report

  layers = _layers(values.layers)
  cluster.check_stop_code(values)
  cluster.join(values, peer_timeout_seconds=config.train.peer_timeout_seconds)
  compilation_cache.use(values)
  is_done = layer_probe.probe_layers(config, values.workdir, layers)
  folder = pathlib.Path(values.workdir)
  run_report.write_run_reports(folder / f"layer_{n}" for n in layers)
  return 0 if is_done else values.stop_code


def _layers(text: str) -> list[int]:
  parts = text.split(",")
  if not all(part.strip().isdecimal() for part in parts):
    raise InputError(f"--layers={text} is not a list of numbers: write 6,12,18")
  return [int(part) for part in parts]


VERB = Verb(
  name="probe",
  summary="find the layer whose features a captioner reads best",
  description=_DESCRIPTION,
  flags={
    "config": Flag("config file of a captioner", is_path=True),
    "layers": Flag("blocks to read, counted from 1: 6,12,18"),
    "workdir": Flag("folder of all captioners", is_path=True),
    "stop_code": cluster.STOP_CODE,
    **cluster.FLAGS,
    **compilation_cache.FLAGS,
  },
  run=_run,
  required=("config", "layers", "workdir"),
)
