"""Losses and pictures of the averaged parameters while training goes on."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from ddit_jax.batch import DualBatch, ImageToTextBatch, TextToImageBatch
from ddit_jax.data.prefetch import to_mesh
from ddit_jax.data.text import answer_text
from ddit_jax.losses.time_buckets import bucket_means, without_empty
from ddit_jax.monitor.image_grid import labelled_grid
from ddit_jax.monitor.metric_writer import MetricWriter
from ddit_jax.prng import key_for
from ddit_jax.sampling.image_sampler import generate_latents
from ddit_jax.sampling.text_sampler import generate_tokens
from ddit_jax.train.loop import Progress
from ddit_jax.train.state import TrainState
from ddit_jax.train.step import TrainStep


class SampleSheet:
  """Draws the first captions and reads the first images of validation.

  Both with the averaged parameters, the same noise every time, and the
  sampling settings of the run.

  Args:
    job: the run.
    writer: receives the pictures "drawings" and "readings".
    batch: the validation batch on the mesh.
  """

  def __init__(self, job, writer: MetricWriter, batch: DualBatch):
    self._job, self._writer, self._batch = job, writer, batch
    self._size = min(
      job.settings.train.sheet_size, job.settings.data.validation_size
    )
    # Every process can read the results.
    everywhere = NamedSharding(job.mesh, PartitionSpec())
    self._sample = jax.jit(self._samples, out_shardings=everywhere)

  def __call__(self, progress: Progress) -> None:
    found = jax.tree.map(np.asarray, self._sample(progress.state, self._batch))
    pictures = {}
    if "drawings" in found:
      captions = map(self._job.tokenizer.decode, found["captions"])
      pictures["drawings"] = labelled_grid(found["drawings"], list(captions))
    if "readings" in found:
      pictures["readings"] = labelled_grid(
        found["images"],
        [
          self._label(*row)
          for row in zip(found["readings"], found["prompt_mask"], strict=True)
        ],
      )
    self._writer.write_images(progress.step, pictures)

  def _label(self, tokens: np.ndarray, prompt_mask: np.ndarray) -> str:
    """ "QUESTION > ANSWER", or the text alone."""
    tokenizer = self._job.tokenizer
    answer = answer_text(tokenizer, tokens, prompt_mask)
    prompt = tokenizer.decode(tokens[prompt_mask]) if prompt_mask.any() else ""
    return f"{prompt} > {answer}" if prompt else answer

  def _samples(self, state: TrainState, batch: DualBatch):
    variables = state.variables(state.ema)
    root = key_for(jax.random.key(0), "sample_sheet")
    found = {}
    if batch.text_to_image is not None:
      rows = jax.tree.map(lambda x: x[: self._size], batch.text_to_image)
      found |= self._drawings(variables, rows, root)
    if batch.image_to_text is not None:
      rows = jax.tree.map(lambda x: x[: self._size], batch.image_to_text)
      found |= self._readings(variables, rows, root)
    return found

  def _drawings(self, variables, rows: TextToImageBatch, root):
    job, sample = self._job, self._job.settings.sample
    side = job.settings.data.image_sides[0]
    shape = (self._size, *job.model.latent_shape(side, side))
    latents = generate_latents(
      job.model,
      variables,
      rows.tokens,
      jnp.asarray(job.null_tokens)[None],
      jax.random.normal(key_for(root, "drawings"), shape),
      sampling=sample.image,
    )
    drawings = job.model.decode(variables, latents)
    return {"drawings": drawings, "captions": rows.tokens}

  def _readings(self, variables, rows: ImageToTextBatch, root):
    job, sample = self._job, self._job.settings.sample
    latents, images = self._seen(variables, rows)
    prompt_mask = ~rows.loss_mask
    readings, _ = generate_tokens(
      job.model,
      variables,
      latents,
      rows.tokens,
      prompt_mask,
      key_for(root, "readings"),
      mask_id=job.tokenizer.mask_id,
      sampling=sample.text,
      has_image=rows.has_image,
    )
    return {"readings": readings, "images": images, "prompt_mask": prompt_mask}

  def _seen(self, variables, rows: ImageToTextBatch):
    """(latents, pixels) of pictures, of cached moments, or of no image."""
    model = self._job.model
    if rows.images is None:
      return None, jnp.zeros((self._size, 1, 1, 3), jnp.uint8)
    latents = model.encode(variables, rows.images)
    if jnp.issubdtype(rows.images.dtype, jnp.floating):
      return latents, model.decode(variables, latents)
    return latents, rows.images


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
    variables = state.variables(state.ema)
    corrupted = step.loss.corrupt(
      batch,
      key_for(jax.random.key(0), "validation"),
      np.int32(0),
      model=step.model,
      variables=variables,
      null_tokens=self._job.null_tokens,
    )
    losses, buckets = step.loss.losses(step.model, variables, corrupted)
    scalars = losses | {"total": step.loss.total(losses)}
    for name, values in buckets.items():
      scalars |= bucket_means(name, values)
    return scalars


def _with_even_sigmas(step: TrainStep) -> TrainStep:
  even = dataclasses.replace(step.loss.flow_matching, sigma_draw="stratified")
  loss = dataclasses.replace(step.loss, flow_matching=even)
  return dataclasses.replace(step, loss=loss)
