"""A checkpoint as an object with one method per task."""

import copy
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Int

from ddit_jax.config.load import overridden
from ddit_jax.data.text import (
  answer_text,
  bare_question,
  caption_tokens,
  check_prompt,
  masked_template,
  question_prompt,
)
from ddit_jax.data.tokenizers import Tokenizer
from ddit_jax.errors import InputError, preparing
from ddit_jax.experiment.config import Config, SampleConfig
from ddit_jax.experiment.model import DualModel
from ddit_jax.losses.likelihood import Bound, LikelihoodConfig
from ddit_jax.models.module import Variables
from ddit_jax.pipelines.image_pipeline import ImagePipeline
from ddit_jax.pipelines.inputs import (
  Changes,
  ImagesLike,
  check_count,
  check_template,
  check_text,
  image_batch,
  row_indices,
  sample_config,
  text_list,
)
from ddit_jax.pipelines.likelihood import (
  Likelihood,
  ScoredTexts,
  scored_text,
)
from ddit_jax.pipelines.mesh_text_sampler import MeshTextSampler
from ddit_jax.sampling.text_sampler import Texts


class Pipeline(ImagePipeline):
  """Text to image, caption, answer and infill with one set of weights.

  Attributes:
    config: of the run that made the checkpoint.
    tokenizer: saved with it.
    model: the network with its encoders.
    variables: weights of the model's parts, on `mesh`.
    mesh: the devices.
    sample: default sampling config, the run's.
    step: number of training steps.
    image_size: default side of generated images, in pixels.
    input_size: side of the images that it reads, in pixels.
    instructions: what the questions of its training ended with.
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
    input_size: int,
    instructions: tuple[str, ...],
  ):
    super().__init__(
      model,
      variables,
      mesh=mesh,
      sample=config.sample,
      image_size=image_size,
    )
    self.config = config
    self.tokenizer = tokenizer
    self.step = step
    self.input_size = input_size
    self.instructions = instructions
    self._text_sampler = MeshTextSampler(model, variables, mesh)
    self._likelihood = Likelihood(model, variables, mesh)
    self._encode = jax.jit(model.encode)

  @classmethod
  def of_run(
    cls,
    config: Config,
    tokenizer: Tokenizer,
    model: DualModel,
    variables: dict[str, Variables],
    *,
    mesh: Mesh,
    step: int,
    instructions: tuple[str, ...],
  ) -> "Pipeline":
    """The pipeline of a run, at the sizes of its images."""
    image_size, input_size = config.data.image_sides
    return cls(
      config,
      tokenizer,
      model,
      variables,
      mesh=mesh,
      step=step,
      image_size=image_size,
      input_size=input_size,
      instructions=instructions,
    )

  def with_variables(
    self, variables: dict[str, Variables], step: int
  ) -> "Pipeline":
    """The same programs, compiled once, with the weights of another step."""
    other = copy.copy(self)
    other.variables, other.step = variables, step
    other._image_sampler = self._image_sampler.with_variables(variables)
    other._text_sampler = self._text_sampler.with_variables(variables)
    other._likelihood = self._likelihood.with_variables(variables)
    return other

  def prompt_ids(
    self, prompts: Sequence[str]
  ) -> Int[np.ndarray, "prompts length"]:
    """The ids of prompts for `text_to_image`; see `caption_tokens`."""
    return np.stack([self.caption_tokens(prompt) for prompt in prompts])

  def caption_tokens(self, prompt: str) -> Int[np.ndarray, " length"]:
    """The ids of a prompt for `text_to_image`.

    Raises:
      InputError: it is too long, or has words that the tokenizer does not know.
    """
    length = self.config.data.text_to_image.text_length
    with preparing():
      check_prompt(self.tokenizer, prompt)
      return caption_tokens(self.tokenizer, prompt, length)

  def template(
    self, prompt: str, length: int | None = None
  ) -> tuple[Int[np.ndarray, " length"], Bool[np.ndarray, " length"]]:
    """The ids of a text for `infill`, of which the prompt is given.

    Args:
      prompt: the beginning of the text.
      length: tokens of the text, as in training if None.

    Raises:
      InputError: the prompt leaves no room for an answer, or has words that the
        tokenizer does not know.
    """
    if length is None:
      length = self.config.data.image_to_text.text_length
    with preparing():
      check_prompt(self.tokenizer, prompt)
      return masked_template(self.tokenizer, prompt, length)

  @property
  def longest_text(self) -> int | None:
    """Tokens of the longest text; None for any, as T5 takes."""
    network = self.model.network.config
    return network.max_text_length if network.context_dim is None else None

  @property
  def input_crop(self) -> str:
    """How a square is made of an image that is read: "centre" or "pad"."""
    return self.config.data.image_to_text.square_crop

  def caption(self, images: ImagesLike, **options) -> list[str]:
    """Describes each image; see `complete` for the options."""
    images = image_batch(images, self.input_size, self.input_crop)
    return self.complete(images, [""] * len(images), **options)

  def answer(
    self,
    images: ImagesLike,
    questions: Sequence[str],
    *,
    instruction: str | None = None,
    **options,
  ) -> list[str]:
    """Answers a question about each image.

    Args:
      images: see `complete`.
      questions: one per image, alone ("is it red?") or as whole prompts ("Q: is
        it red? A: "). They are asked as in training.
      instruction: what each prompt says after the question; None for that of
        the training's questions, "" for nothing.
      **options: see `complete`.

    Raises:
      InputError: as `complete`, or the training's questions had several
        instructions and `instruction` is None.
    """
    prompts = self.prompts(questions, instruction)
    return self.complete(images, prompts, **options)

  def prompts(
    self, questions: Sequence[str], instruction: str | None = None
  ) -> list[str]:
    """The beginnings of texts that ask questions; see `answer`."""
    questions = map(bare_question, text_list(questions, "questions"))
    if instruction is None:
      instruction = self._instruction()
    check_text(instruction, "instruction")
    return [question_prompt(text, instruction) for text in questions]

  def complete(
    self,
    images: ImagesLike,
    prompts: Sequence[str],
    *,
    seed: int = 0,
    sample: SampleConfig | Changes | None = None,
    indices: Sequence[int] | None = None,
    length: int | None = None,
  ) -> list[str]:
    """Continues each prompt ("Q: is it red? A: ") about its image.

    Args:
      images: see `inputs.image_batch`.
      prompts: beginnings of the texts, one per image; "" for a caption.
      seed: of the draws.
      sample: what to change in the checkpoint's sampling config, see
        `inputs.sample_config`.
      indices: of the rows, 0, 1, ... if None; a row's draws follow from seed
        and index.
      length: tokens of prompt and text together, as in training if None.

    Raises:
      InputError: a prompt leaves no room for an answer, or has words that the
        tokenizer does not know; or an argument has another type or length.
    """
    prompts = text_list(prompts, "prompts")
    templates = (self.template(prompt, length) for prompt in prompts)
    tokens, prompt_mask = map(np.stack, zip(*templates, strict=True))
    texts = self.infill(
      images, tokens, prompt_mask, seed=seed, sample=sample, indices=indices
    )
    return [
      answer_text(self.tokenizer, *row)
      for row in zip(texts.tokens, prompt_mask, strict=True)
    ]

  def infill(
    self,
    images: ImagesLike,
    tokens: Int[np.ndarray, "images length"],
    prompt_mask: Bool[np.ndarray, "images length"],
    *,
    seed: int = 0,
    sample: SampleConfig | Changes | None = None,
    indices: Sequence[int] | None = None,
    keeps_trace: bool = False,
    callback_on_call_end: Callable[["Pipeline", np.ndarray, Texts], None]
    | None = None,
  ) -> Texts:
    """Fills every token that is not part of the prompt, in any pattern.

    Args:
      images: images that the texts describe, see `inputs.image_batch`.
      tokens: ids; used where `prompt_mask` is True.
      prompt_mask: True where a token is given.
      seed: of the sampler.
      sample: what to change in the checkpoint's sampling config, see
        `inputs.sample_config`.
      indices: of the rows, 0, 1, ... if None; a row's draws follow from seed
        and index.
      keeps_trace: whether to return the partly masked tokens after each step.
      callback_on_call_end: called after each call of the network, which then
        runs as a program of its own, with this pipeline, the rows of a batch
        (their places in `images`) and their texts so far. On a growing canvas
        these are as long as the canvas.

    Raises:
      InputError: an argument has another type or shape, or a given token is not
        in the vocabulary.
    """
    images = image_batch(images, self.input_size, self.input_crop)
    check_template(
      tokens,
      prompt_mask,
      num_images=len(images),
      longest=self.longest_text,
      tokenizer=self.tokenizer,
    )
    on_call_end = callback_on_call_end
    return self._text_sampler.fill(
      images,
      tokens,
      prompt_mask,
      mask_id=self.tokenizer.mask_id,
      end_id=self.tokenizer.end_id,
      keeps_trace=keeps_trace,
      indices=row_indices(indices, len(images)),
      seed=seed,
      config=sample_config(self.sample, sample),
      on_call_end=on_call_end and functools.partial(on_call_end, self),
    )

  def text_likelihood(
    self,
    images: ImagesLike,
    texts: Sequence[str] | ScoredTexts,
    prompts: Sequence[str] | None = None,
    *,
    seed: int = 0,
    effort: LikelihoodConfig | Changes | None = None,
    indices: Sequence[int] | None = None,
    batch_size: int | None = None,
  ) -> Bound:
    """Bounds -log p(text | prompt, image), in nats a text.

    The end of the text counts as a token. With one prompt and different texts,
    the bounds of `losses.likelihood.text_bound` say which text the network
    finds more likely.

    Args:
      images: see `inputs.image_batch`.
      texts: captions or answers, one per image; or `scored_texts` of them and
        their prompts.
      prompts: beginnings of the texts, see `prompts`; captions if None.
      seed: of the masks.
      effort: what to change in the checkpoint's `evaluate.likelihood`, e.g.
        {"text_passes": 128}.
      indices: of the rows, 0, 1, ... if None; rows of equal indices draw alike.
      batch_size: of the estimate, the checkpoint's `sample.batch_size` if None.

    Raises:
      InputError: a text does not fit, or has words that the tokenizer does not
        know; or an argument has another type or length.
    """
    images = image_batch(images, self.input_size, self.input_crop)
    if not isinstance(texts, ScoredTexts):
      texts = self.scored_texts(texts, prompts)
    check_count(texts.tokens, len(images), "texts")
    return self._likelihood.texts(
      images,
      texts,
      indices=row_indices(indices, len(images)),
      seed=seed,
      config=self._effort(effort),
      batch_size=batch_size or self.config.sample.batch_size,
    )

  def scored_texts(
    self, texts: Sequence[str], prompts: Sequence[str] | None = None
  ) -> ScoredTexts:
    """The tokens of texts for `text_likelihood`, which has the arguments."""
    texts = text_list(texts, "texts")
    prompts = text_list(
      [""] * len(texts) if prompts is None else prompts, "prompts"
    )
    check_count(prompts, len(texts), "prompts")
    length = self.config.data.image_to_text.text_length
    with preparing():
      rows = [
        scored_text(self.tokenizer, prompt, text, length)
        for prompt, text in zip(prompts, texts, strict=True)
      ]
    return ScoredTexts(*map(np.stack, zip(*rows, strict=True)))

  def image_likelihood(
    self,
    images: ImagesLike,
    prompts: Sequence[str],
    *,
    seed: int = 0,
    effort: LikelihoodConfig | Changes | None = None,
    indices: Sequence[int] | None = None,
    batch_size: int | None = None,
  ) -> Bound:
    """Bounds -log p(image | prompt), in nats a dimension.

    Of networks that work on pixels the probability of 8-bit images; behind an
    autoencoder the density of latents, which only compares like with like. See
    `losses.likelihood.image_bound`.

    Args:
      images: see `inputs.image_batch`.
      prompts: one per image.
      seed: of the noise.
      effort: what to change in the checkpoint's `evaluate.likelihood`.
      indices: of the rows, 0, 1, ... if None.
      batch_size: of the estimate, the checkpoint's `sample.batch_size` if None.

    Raises:
      InputError: as `text_to_image`, or an argument has another type or length.
    """
    images = image_batch(images, self.input_size, self.input_crop)
    prompts = text_list(prompts, "prompts")
    check_count(prompts, len(images), "prompts")
    return self._likelihood.images(
      images,
      self.prompt_ids(prompts),
      indices=row_indices(indices, len(images)),
      seed=seed,
      config=self._effort(effort),
      batch_size=batch_size or self.config.sample.batch_size,
    )

  def _effort(
    self, effort: LikelihoodConfig | Changes | None
  ) -> LikelihoodConfig:
    """The whole effort, if `effort` names some fields or none."""
    if isinstance(effort, LikelihoodConfig):
      return effort
    return overridden(self.config.evaluate.likelihood, effort or {}, "effort")

  def _instruction(self) -> str:
    """The instruction of the training's questions."""
    if len(self.instructions) > 1:
      raise InputError(
        "the questions of this checkpoint's training ended with different "
        f"instructions, {' or '.join(map(repr, self.instructions))}: choose "
        "the instruction"
      )
    return next(iter(self.instructions), "")

  def encode(self, images: ImagesLike) -> jax.Array:
    """The network's latents of images, see `inputs.image_batch`."""
    images = image_batch(images, self.input_size, self.input_crop)
    return self._encode(self.variables, jnp.asarray(images))
