"""The untouched SD3 as an object that draws, the base model beside D-DiT."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ddit_jax.data.prompt_tokenizers import PromptTokenizer
from ddit_jax.diffusion.flow_path import FlowPath
from ddit_jax.experiment.batching import in_batches
from ddit_jax.experiment.drawing import draw_latents
from ddit_jax.experiment.sd3_model import Sd3Model
from ddit_jax.input_error import InputError, preparing
from ddit_jax.models.pure_module import Variables
from ddit_jax.random_streams import key_for
from ddit_jax.settings import SampleSettings

_log = logging.getLogger(__name__)

# Letters of a prompt in a message.
_SHOWN = 40


class Sd3Pipeline:
  """Text to image with SD3's own weights; it has no text head.

  Attributes:
    tokenizers: of each text encoder, by its name in `model`.
    model: the network with its encoders.
    variables: weights of the model's parts, laid out on `mesh`.
    mesh: the devices.
    path: the diffusion whose sampling grid is taken.
    sample: settings of the sampler unless told otherwise.
    image_size: side of the images it draws unless told otherwise, in pixels.
  """

  def __init__(
    self,
    tokenizers: Mapping[str, PromptTokenizer],
    model: Sd3Model,
    variables: dict[str, Variables],
    *,
    mesh: Mesh,
    path: FlowPath,
    sample: SampleSettings,
    image_size: int,
  ):
    self.tokenizers = tokenizers
    self.model = model
    self.variables = variables
    self.mesh = mesh
    self.path = path
    self.sample = sample
    self.image_size = image_size
    self._draw = jax.jit(
      self._draw_batch,
      static_argnames=("latent_shape", "num_steps", "guidance", "shift"),
    )

  def text_to_image(
    self,
    prompts: Sequence[str],
    *,
    negative: str = "",
    seed: int = 0,
    sample: SampleSettings | None = None,
    size: tuple[int, int] | None = None,
  ) -> np.ndarray:
    """Draws one image a prompt, uint8 [prompts, height, width, 3].

    Each encoder reads as much of a prompt as it can: CLIP 75 pieces, T5 more.
    What is cut off is counted and logged.

    Args:
      prompts: what to draw; all three encoders read the same.
      negative: what guidance leads away from, for all prompts.
      seed: of the noise.
      sample: overrides `self.sample`.
      size: (height, width) in pixels; `image_size` squared if None.

    Raises:
      InputError: there are no prompts, or the size does not suit the network.
    """
    sample = sample or self.sample
    if not prompts:
      raise InputError("there is nothing to draw: give at least one prompt")
    with preparing():
      latent_shape = self.model.latent_shape(
        *(size or (self.image_size, self.image_size))
      )
    ids, null_ids = self.prompt_ids(prompts), self.prompt_ids([negative])

    def draw(chunk, key):
      return self._draw(
        self.variables,
        chunk,
        null_ids,
        key,
        latent_shape=latent_shape,
        num_steps=sample.image_steps,
        guidance=sample.guidance,
        shift=sample.shift,
      )

    return in_batches(
      draw,
      ids,
      key_for(jax.random.key(seed), "text_to_image"),
      mesh=self.mesh,
      batch_size=sample.batch_size,
    )

  def prompt_ids(self, prompts: Sequence[str]) -> dict[str, np.ndarray]:
    """Ids [prompts, length] for each encoder; logs what it cannot read."""
    encoded = {
      name: [tokenizer.encode(prompt) for prompt in prompts]
      for name, tokenizer in self.tokenizers.items()
    }
    for name, rows in encoded.items():
      for prompt, row in zip(prompts, rows, strict=True):
        if row.num_truncated or row.num_unknown:
          _log.warning(
            "%s reads %d ids: of %r it loses %d at the end, and %d are unknown",
            name,
            len(row.ids),
            prompt if len(prompt) <= _SHOWN else prompt[:_SHOWN] + " ...",
            row.num_truncated,
            row.num_unknown,
          )
    return {
      name: np.stack([row.ids for row in rows])
      for name, rows in encoded.items()
    }

  def _draw_batch(
    self,
    variables,
    ids,
    null_ids,
    key,
    *,
    latent_shape,
    num_steps,
    guidance,
    shift,
  ):
    batch = len(jax.tree.leaves(ids)[0])
    noise = jax.random.normal(key, (batch, *latent_shape))
    path = dataclasses.replace(self.path, shift=shift)
    latents = draw_latents(
      self.model,
      variables,
      ids,
      jax.tree.map(jnp.asarray, null_ids),
      noise,
      sigmas=path.sampling_sigmas(num_steps),
      guidance=guidance,
    )
    return self.model.decode(variables, latents)
