"""Validation losses and sample grids of the EMA parameters; loop hooks."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Bool, Int32

from ddit_jax.batch import DualBatch, ImageToTextBatch, TextToImageBatch
from ddit_jax.data.text import answer_text
from ddit_jax.data.tokenizers import Tokenizer
from ddit_jax.experiment.captioner import CaptionerModel
from ddit_jax.experiment.config import Config, SampleConfig
from ddit_jax.experiment.model import DualModel
from ddit_jax.losses.drawn_texts import prompt_positions
from ddit_jax.losses.objective import Objective
from ddit_jax.losses.time_buckets import bucket_means, without_empty
from ddit_jax.monitor.image_grid import labelled_grid
from ddit_jax.monitor.metric_writer import MetricWriter
from ddit_jax.prng import key_for, row_keys
from ddit_jax.sampling.image_sampler import generate_latents
from ddit_jax.sampling.text_sampler import generate_tokens
from ddit_jax.train.loop import Progress
from ddit_jax.train.state import TrainState


class Validator:
  """The losses on a fixed batch.

  The diffusion times form a grid: their distributions are split into as many
  equal parts as there are examples, with one sigma and one text time each.
  Times, noise and masks are the same at every call.

  Args:
    model: the network and the frozen parts around it.
    loss: as in training.
    null_tokens: the empty caption, [length].
    batch: the validation batch on the mesh.
    writer: receives the losses as "validation/...".
  """

  def __init__(
    self,
    model: DualModel | CaptionerModel,
    loss: Objective,
    null_tokens: Int32[np.ndarray, " length"],
    batch: DualBatch,
    writer: MetricWriter,
  ):
    self._loss = loss.for_validation()
    self._model, self._null_tokens = model, null_tokens
    self._batch, self._writer = batch, writer
    self._jitted = jax.jit(self._losses_of)
    self._newest: tuple[int, dict[str, float]] | None = None

  def __call__(self, progress: Progress) -> None:
    losses = self._jitted(progress.state, self._batch)
    losses = without_empty({k: float(x) for k, x in losses.items()})
    losses = {f"validation/{name}": value for name, value in losses.items()}
    self._writer.write_scalars(progress.step, losses)
    self._newest = (progress.step, losses)

  def losses_at(self, step: int) -> dict[str, float] | None:
    """The losses of a step, or None if the newest are of another step."""
    if self._newest is None or self._newest[0] != step:
      return None
    return self._newest[1]

  def _losses_of(self, state: TrainState, batch: DualBatch):
    variables = state.variables(state.ema)
    corrupted = self._loss.corrupt(
      batch,
      key_for(jax.random.key(0), "validation"),
      jnp.int32(0),
      model=self._model,
      variables=variables,
      null_tokens=jnp.asarray(self._null_tokens),
    )
    losses, buckets = self._loss.losses(self._model, variables, corrupted)
    scalars = losses | {"total": self._loss.total(losses)}
    for name, values in buckets.items():
      scalars |= bucket_means(name, values)
    return scalars


class _CaptionGrid:
  """Captions of the batch's images, by a captioner.

  Args:
    model: the captioner.
    tokenizer: of the texts.
    batch: the validation batch on the mesh.
    size: maximum number of examples, taken from the start.
    beam_width: of the search.
    writer: receives the grid "answers".
  """

  def __init__(
    self,
    model: CaptionerModel,
    tokenizer: Tokenizer,
    batch: DualBatch,
    size: int,
    beam_width: int,
    writer: MetricWriter,
  ):
    self._model, self._tokenizer, self._writer = model, tokenizer, writer
    self._rows, self._size = batch.image_to_text, size
    self._width = beam_width
    mesh = jax.tree.leaves(batch)[0].sharding.mesh
    self._sample = jax.jit(
      self._tokens, out_shardings=NamedSharding(mesh, PartitionSpec())
    )

  def __call__(self, progress: Progress) -> None:
    rows = jax.tree.map(np.asarray, self._sample(progress.state, self._rows))
    found, references, images = rows
    # It writes whole texts, without a prompt.
    no_prompt = np.zeros_like(found, bool)
    labels = [
      answer_label(self._tokenizer, *row)
      for row in zip(found, references, no_prompt, strict=True)
    ]
    self._writer.write_images(
      progress.step, {"answers": labelled_grid(images, labels)}
    )

  def _tokens(self, state: TrainState, rows: ImageToTextBatch):
    rows = jax.tree.map(lambda array: array[: self._size], rows)
    size, length = rows.tokens.shape
    variables = state.variables(state.ema)
    keys = row_keys(
      key_for(jax.random.key(0), "sample_sheet"), jnp.arange(size)
    )
    found = self._model.captions(
      variables, rows.images, keys, length=length, width=self._width
    )
    images = self._model.reader.pixels(variables, rows.images)
    return found.tokens, rows.tokens, images


class _SampleGrid:
  """Images generated from the batch's captions, and texts from its images.

  Uses the run's sampling config, and the same noise at every call.

  Args:
    model: the network between its encoders.
    tokenizer: of the texts.
    null_tokens: the empty caption, [length].
    batch: the validation batch on the mesh.
    size: maximum number of examples, taken from the start.
    config: sampling config.
    writer: receives the grids "generated_images" and "answers".
  """

  def __init__(
    self,
    model: DualModel,
    tokenizer: Tokenizer,
    null_tokens: Int32[np.ndarray, " length"],
    batch: DualBatch,
    size: int,
    config: SampleConfig,
    writer: MetricWriter,
  ):
    self._model, self._tokenizer = model, tokenizer
    self._null_tokens, self._config = null_tokens, config
    self._batch, self._size, self._writer = batch, size, writer
    mesh = jax.tree.leaves(batch)[0].sharding.mesh
    # Replicated, so that process 0 can read all of them.
    self._sample = jax.jit(
      self._samples, out_shardings=NamedSharding(mesh, PartitionSpec())
    )

  def __call__(self, progress: Progress) -> None:
    found = jax.tree.map(np.asarray, self._sample(progress.state, self._batch))
    grids = {}
    if "captions" in found:
      captions = [self._tokenizer.decode(row) for row in found["captions"]]
      grids["generated_images"] = labelled_grid(found["generated"], captions)
    if "answers" in found:
      rows = zip(
        found["answers"],
        found["references"],
        found["prompt_mask"],
        strict=True,
      )
      labels = [answer_label(self._tokenizer, *row) for row in rows]
      grids["answers"] = labelled_grid(found["images"], labels)
    self._writer.write_images(progress.step, grids)

  def _samples(self, state: TrainState, batch: DualBatch):
    variables = state.variables(state.ema)
    batch = jax.tree.map(lambda rows: rows[: self._size], batch)
    # These purposes determine the draws, so they must not change.
    root = key_for(jax.random.key(0), "sample_sheet")
    found = {}
    if batch.text_to_image is not None:
      keys = key_for(root, "drawings"), key_for(root, "step_noise")
      found |= self._generated_images(variables, batch.text_to_image, *keys)
    if batch.image_to_text is not None:
      key = key_for(root, "readings")
      found |= self._answers(variables, batch.image_to_text, key)
    return found

  def _generated_images(self, variables, rows: TextToImageBatch, key, step_key):
    latents = jax.eval_shape(self._model.encode, variables, rows.images)
    sampled = generate_latents(
      self._model,
      variables,
      rows.tokens,
      jnp.asarray(self._null_tokens)[None],
      jax.random.normal(key, latents.shape),
      sampling=self._config.image,
      keys=row_keys(step_key, jnp.arange(len(rows.tokens))),
    )
    return {
      "generated": self._model.decode(variables, sampled),
      "captions": rows.tokens,
    }

  def _answers(self, variables, rows: ImageToTextBatch, key):
    size = rows.tokens.shape[0]
    images, latents = rows.images, None
    if images is None:
      images = jnp.zeros((size, 1, 1, 3), jnp.uint8)
    else:
      latents = self._model.encode(variables, images)
      if jnp.issubdtype(images.dtype, jnp.floating):
        images = self._model.decode(variables, latents)
    prompt_mask = prompt_positions(rows.loss_mask)
    texts = generate_tokens(
      self._model,
      variables,
      latents,
      rows.tokens,
      prompt_mask,
      row_keys(key, jnp.arange(size)),
      mask_id=self._tokenizer.mask_id,
      sampling=self._config.text,
      has_image=rows.has_image,
      end_id=self._tokenizer.end_id,
    )
    return {
      "answers": texts.tokens,
      "references": rows.tokens,
      "images": images,
      "prompt_mask": prompt_mask,
    }


def sample_grid(
  config: Config,
  model: DualModel | CaptionerModel,
  tokenizer: Tokenizer,
  null_tokens: Int32[np.ndarray, " length"],
  batch: DualBatch,
  writer: MetricWriter,
) -> _SampleGrid | _CaptionGrid:
  """The grid of what a run's model samples; see the classes."""
  size, sample = config.train.sample_grid_size, config.sample
  if isinstance(model, CaptionerModel):
    return _CaptionGrid(
      model, tokenizer, batch, size, sample.beam_width, writer
    )
  return _SampleGrid(model, tokenizer, null_tokens, batch, size, sample, writer)


def answer_label(
  tokenizer: Tokenizer,
  tokens: Int32[np.ndarray, " length"],
  reference: Int32[np.ndarray, " length"],
  prompt_mask: Bool[np.ndarray, " length"],
) -> str:
  """ "QUESTION > ANSWER", and below "reference: TEXT".

  Args:
    tokenizer: of the texts.
    tokens: the prompt and the generated text.
    reference: the same prompt and the text of the data.
    prompt_mask: True on the prompt.
  """
  answer, wanted = (
    answer_text(tokenizer, text, prompt_mask) for text in (tokens, reference)
  )
  prompt = tokenizer.decode(tokens[prompt_mask]) if prompt_mask.any() else ""
  shown = f"{prompt} > {answer}" if prompt else answer
  return f"{shown}\nreference: {wanted}"
