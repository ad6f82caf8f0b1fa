"""Pictures drawn and texts written at every validation, always of the same."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from ddit_jax.batch import DualBatch, ImageToTextBatch, TextToImageBatch
from ddit_jax.data.text_layout import answer_text
from ddit_jax.encoders.posterior import Posterior
from ddit_jax.experiment import build
from ddit_jax.experiment.drawing import draw_latents
from ddit_jax.monitor.labelled_grid import labelled_grid
from ddit_jax.monitor.metric_writer import MetricWriter
from ddit_jax.random_streams import key_for
from ddit_jax.sampling.text_sampler import TextSampling, infill
from ddit_jax.train.loop import Progress
from ddit_jax.train.state import TrainState


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
    self._path = build.build_path(job.settings)
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
          for row in zip(found["readings"], found["is_fixed"], strict=True)
        ],
      )
    self._writer.write_images(progress.step, pictures)

  def _label(self, tokens: np.ndarray, is_fixed: np.ndarray) -> str:
    """ "QUESTION > ANSWER", or the text alone."""
    tokenizer = self._job.tokenizer
    answer = answer_text(tokenizer, tokens, is_fixed)
    prompt = tokenizer.decode(tokens[is_fixed]) if is_fixed.any() else ""
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
    side = build.image_sides(job.settings)[0]
    shape = (self._size, *job.model.latent_shape(side, side))
    path = dataclasses.replace(self._path, shift=sample.shift)
    latents = draw_latents(
      job.model,
      variables,
      rows.tokens,
      jnp.asarray(job.null_tokens)[None],
      jax.random.normal(key_for(root, "drawings"), shape),
      sigmas=path.sampling_sigmas(sample.image_steps),
      guidance=sample.guidance,
    )
    drawings = job.model.decode(variables, latents)
    return {"drawings": drawings, "captions": rows.tokens}

  def _readings(self, variables, rows: ImageToTextBatch, root):
    job, sample = self._job, self._job.settings.sample
    latents, images = self._seen(variables, rows)
    is_fixed = ~rows.is_target
    clean_time = jnp.zeros(self._size)

    def predict(tokens):
      return job.model.apply(
        variables, latents, tokens, clean_time, has_image=rows.has_image
      ).logits

    readings, _ = infill(
      predict,
      rows.tokens,
      is_fixed,
      key_for(root, "readings"),
      process=job.loss.process,
      sampling=TextSampling(
        num_steps=sample.text_steps,
        order=sample.text_order,
        temperature=sample.temperature,
      ),
    )
    return {"readings": readings, "images": images, "is_fixed": is_fixed}

  def _seen(self, variables, rows: ImageToTextBatch):
    """(latents, pixels) of pictures, of cached moments, or of no image."""
    job = self._job
    if rows.images is None:
      return None, jnp.zeros((self._size, 1, 1, 3), jnp.uint8)
    if jnp.issubdtype(rows.images.dtype, jnp.floating):
      mean = Posterior.from_moments(rows.images).mean
      latents = job.model.autoencoder.module.config.to_network(mean)
      return latents, job.model.decode(variables, latents)
    return job.model.encode(variables, rows.images), rows.images
