"""Losses and pictures of the averaged parameters while training goes on."""

import dataclasses

import jax
import numpy as np

from ddit_jax.data.device_feed import to_mesh
from ddit_jax.experiment.sample_sheet import SampleSheet
from ddit_jax.losses.buckets import bucket_means, without_empty
from ddit_jax.monitor.metric_writer import MetricWriter
from ddit_jax.random_streams import key_for
from ddit_jax.train.loop import Progress
from ddit_jax.train.state import TrainState
from ddit_jax.train.step import BoundEncoder, BoundPredictor, TrainStep


class Validator:
  """Both losses of the averaged parameters on a fixed, held-out batch.

  Times lie on a grid: one sigma and one text time in each of as many equal
  parts of their laws as there are examples, with the same noise and masks at
  every call.
  """

  def __init__(self, job, writer: MetricWriter):
    self._job, self._writer = job, writer
    rows = job.data.validation_batch(job.rows_of)
    self._batch = to_mesh(rows, job.mesh)
    self._step = _with_even_sigmas(job.train_step())
    self._losses = jax.jit(self._losses_of)
    self._sheet = None
    if job.settings.train.sheet_size:
      self._sheet = SampleSheet(job, writer, self._batch)

  def __call__(self, progress: Progress) -> None:
    state = progress.state
    losses = self._losses(state, self._batch)
    losses = without_empty({k: float(x) for k, x in losses.items()})
    losses = {f"validation/{name}": value for name, value in losses.items()}
    self._writer.write_scalars(progress.step, losses)
    self._job.note_validation(progress.step, losses)
    if self._sheet is not None:
      self._sheet(progress)

  def _losses_of(self, state: TrainState, batch):
    step = self._step
    corrupted = step.loss.corrupt(
      batch,
      key_for(jax.random.key(0), "validation"),
      np.int32(0),
      encoder=BoundEncoder(step.model, state.variables(state.ema)),
      null_tokens=self._job.null_tokens,
    )
    predictor = BoundPredictor(step, state)
    losses, buckets = step.loss.losses(predictor, state.ema, corrupted)
    scalars = losses | {"total": step.loss.total(losses)}
    for name, values in buckets.items():
      scalars |= bucket_means(name, values)
    return scalars


def _with_even_sigmas(step: TrainStep) -> TrainStep:
  path = dataclasses.replace(step.loss.path, sigma_draw="stratified")
  loss = dataclasses.replace(step.loss, path=path)
  return dataclasses.replace(step, loss=loss)
