"""Which block of an image encoder a captioner reads best: `ddit probe`."""

import dataclasses
import logging
import pathlib
from collections.abc import Mapping, Sequence

import jax

from ddit_jax.errors import InputError
from ddit_jax.experiment import stages
from ddit_jax.experiment.config import Config
from ddit_jax.files import local_path, replace_file
from ddit_jax.json_files import write_json
from ddit_jax.monitor.metric_writer import read_scalars
from ddit_jax.report.charts import point_chart

_log = logging.getLogger(__name__)

_LOSS = "validation/total"


def probe_layers(config: Config, workdir: str, layers: Sequence[int]) -> bool:
  """Trains a captioner on the features of each layer, and compares them.

  Each lies in its own folder of the workdir, `layer_N`, and differs in
  `captioner.layer` alone. The same command continues where it was stopped.
  Writes layers.json, {"layer": [...], "validation_loss": [...]} in nats a
  token, and layers.svg.

  Args:
    config: of one captioner.
    workdir: the folder of all.
    layers: blocks, counted from 1.

  Returns:
    True if all are trained, False after a stop signal.

  Raises:
    InputError: the config trains no captioner, or a layer is repeated; or any
      error of `stages.train_stages`.
  """
  if not config.captioner.is_on:
    raise InputError(
      "captioner.features is none, so nothing reads a layer: give a config of "
      "a captioner, e.g. configs/feature_captioner.py"
    )
  if not layers or len(set(layers)) < len(layers):
    raise InputError(f"--layers must name different blocks, got {layers}")
  most = config.captioner.num_blocks(config.model)
  if most and max(layers) > most:
    raise InputError(
      f"block {max(layers)} cannot be read: blocks are numbered 1 to {most}"
    )
  if config.train.validate_every > config.train.num_steps:
    raise InputError(
      f"train.validate_every = {config.train.validate_every} is more than "
      f"train.num_steps = {config.train.num_steps}, so no layer would have a "
      "validation loss: set it lower"
    )
  runs = {f"layer_{layer}": _reading(config, layer) for layer in layers}
  if not stages.train_stages(runs, workdir):
    return False
  if jax.process_index() == 0:
    folder = local_path(workdir)
    losses = {
      layer: _last_loss(folder / name)
      for layer, name in zip(layers, runs, strict=True)
    }
    _write(folder, losses)
  return True


def _reading(config: Config, layer: int) -> Config:
  try:
    captioner = dataclasses.replace(config.captioner, layer=layer)
  except ValueError as error:
    raise InputError(f"--layers: {error}") from error
  return dataclasses.replace(config, captioner=captioner)


def _last_loss(folder: pathlib.Path) -> float:
  rows = read_scalars(folder / "scalars.jsonl")
  return [row[_LOSS] for row in rows if row.get(_LOSS) is not None][-1]


def _write(folder: pathlib.Path, losses: Mapping[int, float]) -> None:
  layers = sorted(losses)
  values = [losses[layer] for layer in layers]
  body = {"layer": layers, "validation_loss": values}
  write_json(folder / "layers.json", body, indent=1)
  chart = point_chart(
    layers,
    values,
    x_label="block that is read",
    y_label="validation loss, nats a token",
    color="#1f77b4",
  )
  replace_file(folder / "layers.svg", chart.encode())
  best = min(layers, key=losses.get)
  _log.info(
    "layer %d reads best, %.4f nats a token; %s",
    *(best, losses[best], folder / "layers.svg"),
  )
