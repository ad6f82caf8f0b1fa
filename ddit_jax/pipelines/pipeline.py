"""A checkpoint as an object with one method per task."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Int, UInt8

from ddit_jax.data.text import (
  answer_text,
  caption_tokens,
  check_prompt,
  masked_template,
)
from ddit_jax.data.tokenizers import Tokenizer
from ddit_jax.errors import preparing
from ddit_jax.experiment.config import Config, SampleConfig
from ddit_jax.experiment.model import DualModel
from ddit_jax.models.module import Variables
from ddit_jax.pipelines.sampler import Sampler


class Pipeline:
  """Text to image, caption, answer and infill with one set of weights.

  Attributes:
    config: of the run that made the checkpoint.
    tokenizer: saved with it.
    model: the network with its encoders.
    variables: weights of the model's parts, on `mesh`.
    mesh: the devices.
    step: number of training steps.
    image_size: default side of generated images, in pixels.
  """

  def __init__(
    self,
    config: Config,
    tokenizer: Tokenizer,
    model: DualModel,
    variables: dict[str, Variables],
    *,
    mesh: Mesh,
    step: int,
    image_size: int,
  ):
    self.config = config
    self.tokenizer = tokenizer
    self.model = model
    self.variables = variables
    self.mesh = mesh
    self.step = step
    self.image_size = image_size
    self._sampler = Sampler(model, variables, mesh)
    self._encode = jax.jit(model.encode)
    self._decode = jax.jit(model.decode)

  def text_to_image(
    self,
    prompts: Sequence[str],
    *,
    seed: int = 0,
    sample: SampleConfig | None = None,
    size: tuple[int, int] | None = None,
  ) -> UInt8[np.ndarray, "prompts height width 3"]:
    """Generates one image per prompt.

    Args:
      prompts: texts.
      seed: of the noise.
      sample: overrides the checkpoint's sampling config.
      size: (height, width) in pixels; `image_size` squared if None.

    Raises:
      InputError: a prompt is longer than the network's text or has words
        that the tokenizer does not know, or the size is incompatible with the
        network's patches.
    """
    length = self.config.data.text_to_image.text_length
    tokens = []
    with preparing():
      for prompt in prompts:
        check_prompt(self.tokenizer, prompt)
        tokens.append(caption_tokens(self.tokenizer, prompt, length))
    return self._sampler.images(
      np.stack(tokens),
      caption_tokens(self.tokenizer, "", length)[None],
      seed=seed,
      size=size or (self.image_size, self.image_size),
      config=sample or self.config.sample,
    )

  def caption(
    self,
    images: UInt8[np.ndarray, "images side side 3"],
    *,
    seed: int = 0,
    sample: SampleConfig | None = None,
  ) -> list[str]:
    """Describes each image."""
    return self.answer(images, [""] * len(images), seed=seed, sample=sample)

  def answer(
    self,
    images: UInt8[np.ndarray, "images side side 3"],
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
    length = self.config.data.image_to_text.text_length
    templates = []
    with preparing():
      for prompt in prompts:
        check_prompt(self.tokenizer, prompt)
        templates.append(masked_template(self.tokenizer, prompt, length))
    tokens, prompt_mask = map(np.stack, zip(*templates, strict=True))
    filled, _ = self.infill(
      images, tokens, prompt_mask, seed=seed, sample=sample
    )
    return [
      answer_text(self.tokenizer, *row)
      for row in zip(filled, prompt_mask, strict=True)
    ]

  def infill(
    self,
    images: UInt8[np.ndarray, "images side side 3"],
    tokens: Int[np.ndarray, "images length"],
    prompt_mask: Bool[np.ndarray, "images length"],
    *,
    seed: int = 0,
    sample: SampleConfig | None = None,
  ) -> tuple[np.ndarray, np.ndarray]:
    """Fills every token that is not part of the prompt, in any pattern.

    Args:
      images: images that the texts describe.
      tokens: ids; used where `prompt_mask` is True.
      prompt_mask: True where a token is given.
      seed: of the sampler.
      sample: overrides the checkpoint's sampling config.

    Returns:
      Finished tokens [images, length], and the partly masked ones after each
      step, [images, steps, length].
    """
    return self._sampler.tokens(
      images,
      tokens,
      prompt_mask,
      mask_id=self.tokenizer.mask_id,
      seed=seed,
      config=sample or self.config.sample,
    )

  def encode(self, images: np.ndarray) -> jax.Array:
    """uint8 images to the network's latents."""
    return self._encode(self.variables, jnp.asarray(images))

  def decode(self, latents: jax.Array) -> np.ndarray:
    """Latents to uint8 images."""
    return np.asarray(self._decode(self.variables, latents))
