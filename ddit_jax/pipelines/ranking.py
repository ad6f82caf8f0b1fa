"""Choices and pairs of images and captions, ranked by likelihood."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from ddit_jax.errors import InputError
from ddit_jax.pipelines.inputs import ImagesLike, check_count, image_batch
from ddit_jax.pipelines.likelihood import ScoredTexts
from ddit_jax.pipelines.pipeline import Pipeline


def choice_nats(
  pipeline: Pipeline,
  images: ImagesLike,
  questions: Sequence[str],
  choices: Sequence[Sequence[str]],
  *,
  instruction: str | None = None,
  **options,
) -> list[Float[np.ndarray, " choices"]]:
  """-log p(choice | question, image) of every choice; the least is the answer.

  All choices of a question are seen with the same masks.

  Args:
    pipeline: the model.
    images: one per question, see `inputs.image_batch`.
    questions: see `Pipeline.answer`.
    choices: of each question, at least one.
    instruction: see `Pipeline.answer`.
    **options: `seed`, `effort` and `batch_size` of `Pipeline.text_likelihood`.

  Raises:
    InputError: as `Pipeline.text_likelihood`, or a question has no choice.
  """
  images = image_batch(images, pipeline.input_size, pipeline.input_crop)
  check_count(questions, len(images), "questions")
  check_count(choices, len(images), "lists of choices")
  for question, texts in zip(questions, choices, strict=True):
    if isinstance(texts, str) or not texts:
      raise InputError(f"{question!r} needs a list of choices, got {texts!r}")
  prompts = pipeline.prompts(questions, instruction)
  rows = np.repeat(np.arange(len(images)), [len(texts) for texts in choices])
  bound = pipeline.text_likelihood(
    images[rows],
    [text for texts in choices for text in texts],
    [prompts[row] for row in rows],
    indices=rows,
    **options,
  )
  ends = np.cumsum([len(texts) for texts in choices])[:-1]
  return np.split(np.asarray(bound.nats), ends)


def pair_nats(
  pipeline: Pipeline,
  images: ImagesLike,
  captions: Sequence[str] | ScoredTexts,
  **options,
) -> Float[np.ndarray, "images captions"]:
  """-log p(caption | image) of every pair.

  A caption is seen with the same masks beside all images. See
  `evaluation.retrieval` for what the pairs say.

  Args:
    pipeline: the model.
    images: see `inputs.image_batch`.
    captions: any number, or `Pipeline.scored_texts` of them.
    **options: `seed`, `effort` and `batch_size` of `Pipeline.text_likelihood`.
  """
  images = image_batch(images, pipeline.input_size, pipeline.input_crop)
  if not isinstance(captions, ScoredTexts):
    captions = pipeline.scored_texts(captions)
  shape = len(images), len(captions.tokens)
  rows, columns = np.indices(shape).reshape(2, -1)
  bound = pipeline.text_likelihood(
    images[rows], captions.rows(columns), indices=columns, **options
  )
  return np.asarray(bound.nats).reshape(shape)
