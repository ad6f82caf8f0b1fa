"""A checkpoint as an object with one method a task, all batched and jitted."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ddit_jax.checkpoint.store import CheckpointStore
from ddit_jax.config_files import to_settings
from ddit_jax.data.device_feed import to_mesh
from ddit_jax.data.image_codec import PixelCodec
from ddit_jax.data.text_layout import (
  answer_text,
  caption_tokens,
  check_known,
  prompt_canvas,
)
from ddit_jax.data.tokenizer import Tokenizer, from_files
from ddit_jax.experiment import build
from ddit_jax.experiment.run_folder import checkpoints_in
from ddit_jax.input_error import InputError, preparing
from ddit_jax.models.network import Network, Variables
from ddit_jax.random_streams import key_for
from ddit_jax.sampling.image_sampler import sample_latents
from ddit_jax.sampling.text_sampler import TextSampling, infill
from ddit_jax.settings import ExperimentSettings, SampleSettings
from ddit_jax.sharding.mesh import batch_ways, make_mesh

WEIGHTS = ("ema", "params")


class Pipeline:
  """Text to image, caption, answer and infill with one set of weights.

  Attributes:
    settings: of the run that made the checkpoint.
    tokenizer: saved with it.
    network: shapes and functions.
    variables: its weights, laid out on `mesh`.
    mesh: the devices.
    step: training steps behind the weights.
  """

  def __init__(
    self,
    settings: ExperimentSettings,
    tokenizer: Tokenizer,
    network: Network,
    variables: Variables,
    *,
    mesh: Mesh,
    step: int,
  ):
    self.settings = settings
    self.tokenizer = tokenizer
    self.network = network
    self.variables = variables
    self.mesh = mesh
    self.step = step
    self._codec = PixelCodec()
    self._path = build.build_path(settings)
    self._process = build.build_process(settings, tokenizer)
    self._null = build.null_tokens(settings, tokenizer)
    self._draw = jax.jit(
      self._draw_batch, static_argnames=("num_steps", "guidance", "shift")
    )
    self._fill = jax.jit(self._fill_batch, static_argnames="sampling")

  @property
  def image_size(self) -> int:
    """Side of the square images, in pixels."""
    return build.build_world(self.settings).canvas

  def text_to_image(
    self,
    prompts: Sequence[str],
    *,
    seed: int = 0,
    sample: SampleSettings | None = None,
  ) -> np.ndarray:
    """Draws one image a prompt, uint8 [prompts, side, side, 3].

    Raises:
      InputError: a prompt is longer than the network's text, or has words
        that the tokenizer does not know.
    """
    sample = sample or self.settings.sample
    tokens = np.stack([self._caption_tokens(p) for p in prompts])
    root = key_for(jax.random.key(seed), "text_to_image")

    def draw(chunk, key):
      return self._draw(
        self.variables,
        chunk,
        key,
        num_steps=sample.image_steps,
        guidance=sample.guidance,
        shift=sample.shift,
      )

    return self._in_batches(draw, tokens, root, sample.batch_size)

  def caption(
    self,
    images: np.ndarray,
    *,
    seed: int = 0,
    sample: SampleSettings | None = None,
  ) -> list[str]:
    """Describes each image; `images` are uint8 [n, side, side, 3]."""
    return self.answer(images, [""] * len(images), seed=seed, sample=sample)

  def answer(
    self,
    images: np.ndarray,
    prompts: Sequence[str],
    *,
    seed: int = 0,
    sample: SampleSettings | None = None,
  ) -> list[str]:
    """Continues each prompt ("Q: is it red? A: ") about its image.

    Raises:
      InputError: a prompt leaves no room for an answer, or has words that the
        tokenizer does not know.
    """
    canvases = [self._canvas(prompt) for prompt in prompts]
    tokens = np.stack([canvas[0] for canvas in canvases])
    is_fixed = np.stack([canvas[1] for canvas in canvases])
    filled, _ = self.infill(images, tokens, is_fixed, seed=seed, sample=sample)
    return [
      answer_text(self.tokenizer, *row)
      for row in zip(filled, is_fixed, strict=True)
    ]

  def infill(
    self,
    images: np.ndarray,
    tokens: np.ndarray,
    is_fixed: np.ndarray,
    *,
    seed: int = 0,
    sample: SampleSettings | None = None,
  ) -> tuple[np.ndarray, np.ndarray]:
    """Fills every token that is not fixed, any pattern.

    Args:
      images: uint8 [n, side, side, 3].
      tokens: int32 [n, length]; read where `is_fixed`.
      is_fixed: bool [n, length].
      seed: of the draws.
      sample: overrides the checkpoint's sampling settings.

    Returns:
      Finished tokens [n, length], and partly masked ones after each step,
      [n, steps, length].
    """
    sample = sample or self.settings.sample
    sampling = TextSampling(
      num_steps=sample.text_steps,
      order=sample.text_order,
      temperature=sample.temperature,
    )
    root = key_for(jax.random.key(seed), "image_to_text")

    def fill(chunk, key):
      return self._fill(self.variables, chunk, key, sampling=sampling)

    rows = (images, tokens, is_fixed)
    return self._in_batches(fill, rows, root, sample.batch_size)

  def encode(self, images: np.ndarray) -> jax.Array:
    """uint8 images to the latents the network sees."""
    return self._codec.encode(jnp.asarray(images))

  def decode(self, latents: jax.Array) -> np.ndarray:
    """Latents to uint8 images."""
    return np.asarray(self._codec.decode(latents))

  def _draw_batch(self, variables, tokens, key, *, num_steps, guidance, shift):
    side = self.image_size
    channels = self.network.config.latent_channels
    noise = jax.random.normal(key, (tokens.shape[0], side, side, channels))
    path = dataclasses.replace(self._path, shift=shift)
    latents = sample_latents(
      functools.partial(self.network.apply, variables),
      noise,
      tokens,
      self._null,
      sigmas=path.sampling_sigmas(num_steps),
      guidance=guidance,
    )
    return self._codec.decode(latents)

  def _fill_batch(self, variables, rows, key, *, sampling):
    images, tokens, is_fixed = rows
    latents = self._codec.encode(images)
    clean_time = jnp.zeros(tokens.shape[0])

    def predict(state):
      return self.network.apply(variables, latents, state, clean_time).logits

    filled, trace = infill(
      predict,
      tokens,
      is_fixed,
      key,
      process=self._process,
      sampling=sampling,
    )
    return filled, jnp.swapaxes(trace, 0, 1)

  def _in_batches(self, function, rows, root, batch_size: int):
    """Runs `function` on equal batches of rows; the last one is padded."""
    num_rows = len(jax.tree.leaves(rows)[0])
    ways = batch_ways(self.mesh)
    size = -(-min(batch_size, num_rows) // ways) * ways
    results = []
    with jax.set_mesh(self.mesh):
      for index, start in enumerate(range(0, num_rows, size)):
        chunk = jax.tree.map(
          functools.partial(_padded_slice, start=start, size=size), rows
        )
        key = jax.random.fold_in(root, index)
        results.append(function(to_mesh(chunk, self.mesh), key))
    joined = jax.tree.map(lambda *parts: np.concatenate(parts), *results)
    return jax.tree.map(lambda array: array[:num_rows], joined)

  def _caption_tokens(self, prompt: str) -> np.ndarray:
    with preparing():
      check_known(self.tokenizer, prompt)
      return caption_tokens(self.tokenizer, prompt, self._null.size)

  def _canvas(self, prompt: str) -> tuple[np.ndarray, np.ndarray]:
    with preparing():
      check_known(self.tokenizer, prompt)
      return prompt_canvas(self.tokenizer, prompt, self._null.size)


def load(
  path: str,
  *,
  weights: str = "ema",
  step: int | None = None,
  mesh: Mesh | None = None,
) -> Pipeline:
  """The pipeline of a run's checkpoint, its weights straight onto the mesh.

  Args:
    path: a workdir, or its checkpoints folder.
    weights: "ema" or "params".
    step: which checkpoint; the newest if None.
    mesh: devices; all of them along `fsdp` if None.

  Raises:
    InputError: no such checkpoint, or it is damaged.
  """
  if weights not in WEIGHTS:
    raise InputError(f"weights must be one of {WEIGHTS}, got {weights!r}")
  mesh = mesh or make_mesh()
  folder = checkpoints_in(path)
  if not folder.is_dir():
    raise InputError(f"{path} has no checkpoints: give a folder of a run")
  with preparing(), CheckpointStore(folder, read_only=True) as store:
    return _from_store(store, weights, step, mesh)


def _from_store(store, weights: str, step: int | None, mesh: Mesh) -> Pipeline:
  steps = store.steps()
  if not steps:
    raise InputError("there is no finished checkpoint: train first")
  step = steps[-1] if step is None else step
  if step not in steps:
    raise InputError(
      f"there is no checkpoint of step {step}; there are {steps}"
    )
  settings = to_settings(store.config(step), f"the checkpoint of step {step}")
  tokenizer = from_files(store.files(step))
  network = build.build_network(settings, tokenizer)
  abstract, layout = network.abstract_variables(), network.shardings(mesh)
  wanted = jax.tree.map(
    lambda leaf, where: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=where
    ),
    abstract,
    layout,
  )
  items = store.restore(
    step, {weights: wanted["params"], "constants": wanted["constants"]}
  )
  variables = {"params": items[weights], "constants": items["constants"]}
  return Pipeline(settings, tokenizer, network, variables, mesh=mesh, step=step)


def _padded_slice(rows: np.ndarray, *, start: int, size: int) -> np.ndarray:
  """`size` rows; past the end the last is repeated (its results are cut)."""
  rows = rows[start : start + size]
  missing = size - len(rows)
  return np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)])
