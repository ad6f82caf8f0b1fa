"""A checkpoint as an object with one method a task, all batched and jitted."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ddit_jax.data.prefetch import to_mesh
from ddit_jax.data.text import answer_text, caption_tokens, masked_template
from ddit_jax.data.tokenizers import Tokenizer
from ddit_jax.errors import check_known, preparing
from ddit_jax.experiment.config import Config, SampleConfig
from ddit_jax.experiment.model import DualModel
from ddit_jax.models.module import Variables
from ddit_jax.prng import key_for
from ddit_jax.sampling.image_sampler import ImageSampling, draw_latents
from ddit_jax.sampling.text_sampler import TextSampling, infill
from ddit_jax.sharding.mesh import batch_ways


def in_batches(function, rows, root: jax.Array, *, mesh: Mesh, batch_size: int):
  """Runs `function` on equal batches of rows; the last one is padded.

  Args:
    function: (rows of a batch on the mesh, key) -> arrays of as many rows.
    rows: a tree of numpy arrays [rows, ...].
    root: each batch's key is folded from it.
    mesh: splits a batch.
    batch_size: rows at once, rounded up to a multiple of the mesh's ways.

  Returns:
    The function's tree, as numpy arrays of all rows.
  """
  num_rows = len(jax.tree.leaves(rows)[0])
  ways = batch_ways(mesh)
  size = -(-min(batch_size, num_rows) // ways) * ways
  results = []
  with jax.set_mesh(mesh):
    for index, start in enumerate(range(0, num_rows, size)):
      chunk = jax.tree.map(
        functools.partial(_padded_slice, start=start, size=size), rows
      )
      key = jax.random.fold_in(root, index)
      results.append(function(to_mesh(chunk, mesh), key))
  joined = jax.tree.map(lambda *parts: np.concatenate(parts), *results)
  return jax.tree.map(lambda array: array[:num_rows], joined)


def _padded_slice(rows: np.ndarray, *, start: int, size: int) -> np.ndarray:
  """`size` rows; past the end the last is repeated (its results are cut)."""
  rows = rows[start : start + size]
  missing = size - len(rows)
  return np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)])


class Pipeline:
  """Text to image, caption, answer and infill with one set of weights.

  Attributes:
    settings: of the run that made the checkpoint.
    tokenizer: saved with it.
    model: the network with its encoders.
    variables: weights of the model's parts, laid out on `mesh`.
    mesh: the devices.
    step: training steps behind the weights.
    image_size: side of the images it draws unless told otherwise, in pixels.
  """

  def __init__(
    self,
    settings: Config,
    tokenizer: Tokenizer,
    model: DualModel,
    variables: dict[str, Variables],
    *,
    mesh: Mesh,
    step: int,
    image_size: int,
  ):
    self.settings = settings
    self.tokenizer = tokenizer
    self.model = model
    self.variables = variables
    self.mesh = mesh
    self.step = step
    self.image_size = image_size
    self._null = caption_tokens(
      tokenizer, "", settings.data.text_to_image.text_length
    )
    self._draw = jax.jit(
      self._draw_batch,
      static_argnames=("latent_shape", "sampling"),
    )
    self._fill = jax.jit(self._fill_batch, static_argnames="sampling")
    self._encode = jax.jit(self.model.encode)
    self._decode = jax.jit(self.model.decode)

  def text_to_image(
    self,
    prompts: Sequence[str],
    *,
    seed: int = 0,
    sample: SampleConfig | None = None,
    size: tuple[int, int] | None = None,
  ) -> np.ndarray:
    """Draws one image a prompt, uint8 [prompts, height, width, 3].

    Args:
      prompts: what to draw.
      seed: of the noise.
      sample: overrides the checkpoint's sampling settings.
      size: (height, width) in pixels; `image_size` squared if None.

    Raises:
      InputError: a prompt is longer than the network's text or has words
        that the tokenizer does not know, or the size does not suit the
        network's patches.
    """
    sample = sample or self.settings.sample
    with preparing():
      latent_shape = self.model.latent_shape(
        *(size or (self.image_size, self.image_size))
      )
    tokens = np.stack([self._caption_tokens(p) for p in prompts])
    root = key_for(jax.random.key(seed), "text_to_image")

    def draw(chunk, key):
      return self._draw(
        self.variables,
        chunk,
        key,
        latent_shape=latent_shape,
        sampling=sample.image,
      )

    return in_batches(
      draw, tokens, root, mesh=self.mesh, batch_size=sample.batch_size
    )

  def caption(
    self,
    images: np.ndarray,
    *,
    seed: int = 0,
    sample: SampleConfig | None = None,
  ) -> list[str]:
    """Describes each image; `images` are uint8 [n, side, side, 3]."""
    return self.answer(images, [""] * len(images), seed=seed, sample=sample)

  def answer(
    self,
    images: np.ndarray,
    prompts: Sequence[str],
    *,
    seed: int = 0,
    sample: SampleConfig | None = None,
  ) -> list[str]:
    """Continues each prompt ("Q: is it red? A: ") about its image.

    Raises:
      InputError: a prompt leaves no room for an answer, or has words that the
        tokenizer does not know.
    """
    canvases = [self._canvas(prompt) for prompt in prompts]
    tokens = np.stack([canvas[0] for canvas in canvases])
    prompt_mask = np.stack([canvas[1] for canvas in canvases])
    filled, _ = self.infill(
      images, tokens, prompt_mask, seed=seed, sample=sample
    )
    return [
      answer_text(self.tokenizer, *row)
      for row in zip(filled, prompt_mask, strict=True)
    ]

  def infill(
    self,
    images: np.ndarray,
    tokens: np.ndarray,
    prompt_mask: np.ndarray,
    *,
    seed: int = 0,
    sample: SampleConfig | None = None,
  ) -> tuple[np.ndarray, np.ndarray]:
    """Fills every token that is not fixed, any pattern.

    Args:
      images: uint8 [n, side, side, 3].
      tokens: int32 [n, length]; read where `prompt_mask`.
      prompt_mask: bool [n, length].
      seed: of the draws.
      sample: overrides the checkpoint's sampling settings.

    Returns:
      Finished tokens [n, length], and partly masked ones after each step,
      [n, steps, length].
    """
    sample = sample or self.settings.sample
    root = key_for(jax.random.key(seed), "image_to_text")

    def fill(chunk, key):
      return self._fill(self.variables, chunk, key, sampling=sample.text)

    rows = (images, tokens, prompt_mask)
    return in_batches(
      fill, rows, root, mesh=self.mesh, batch_size=sample.batch_size
    )

  def encode(self, images: np.ndarray) -> jax.Array:
    """uint8 images to the latents the network sees."""
    return self._encode(self.variables, jnp.asarray(images))

  def decode(self, latents: jax.Array) -> np.ndarray:
    """Latents to uint8 images."""
    return np.asarray(self._decode(self.variables, latents))

  def _draw_batch(
    self, variables, tokens, key, *, latent_shape, sampling: ImageSampling
  ):
    noise = jax.random.normal(key, (tokens.shape[0], *latent_shape))
    latents = draw_latents(
      self.model,
      variables,
      tokens,
      jnp.asarray(self._null)[None],
      noise,
      sampling=sampling,
    )
    return self.model.decode(variables, latents)

  def _fill_batch(self, variables, rows, key, *, sampling: TextSampling):
    images, tokens, prompt_mask = rows
    latents = self.model.encode(variables, images)
    clean_time = jnp.zeros(tokens.shape[0])

    def predict(state):
      condition = self.model.condition(variables, state)
      return self.model.predict(
        variables, latents, condition, clean_time
      ).logits

    filled, trace = infill(
      predict,
      tokens,
      prompt_mask,
      key,
      mask_id=self.tokenizer.mask_id,
      sampling=sampling,
    )
    return filled, jnp.swapaxes(trace, 0, 1)

  def _caption_tokens(self, prompt: str) -> np.ndarray:
    with preparing():
      check_known(self.tokenizer, prompt)
      return caption_tokens(self.tokenizer, prompt, self._null.size)

  def _canvas(self, prompt: str) -> tuple[np.ndarray, np.ndarray]:
    with preparing():
      check_known(self.tokenizer, prompt)
      length = self.settings.data.image_to_text.text_length
      return masked_template(self.tokenizer, prompt, length)
