"""What training reads: images with captions, questions and answers.

Every scene holds seen compositions only, whoever wrote it.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from ddit_jax.digits import grammar, questions, scenes, streams, writers
from ddit_jax.digits.balance import BalancedAsker
from ddit_jax.digits.worlds import World

CAPTION = "caption"
# Exact balance would reject most scenes; this many more of one answer than
# of another go unnoticed in a pool of thousands.
_BALANCE_SLACK = 10


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TextToImagePool:
  """Captions and the images they ask for.

  Attributes:
    images: uint8 [n, canvas, canvas, 3].
    captions: n texts; colours and places are sometimes left open.
  """

  images: np.ndarray
  captions: list[str]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ImageToTextPool:
  """Images and what to say about them.

  Attributes:
    images: uint8 [n, canvas, canvas, 3].
    prompts: n given texts: "" for a caption, else "Q: ... A: ".
    texts: n texts to learn: a complete caption, or the answer.
    kinds: n kinds: "caption" or a kind of question.
  """

  images: np.ndarray
  prompts: list[str]
  texts: list[str]
  kinds: list[str]


def text_to_image_pool(
  world: World, split: str, size: int, seed: int
) -> TextToImagePool:
  """`size` random scenes by the writers of `split`, each with a caption.

  Raises:
    ValueError: if the split is unknown or the size not positive.
  """
  writing = writers.handwriting(split)
  rng = streams.generator("text-to-image records", split, size=size, seed=seed)
  drawn = [
    scenes.sample_scene(world, rng, writing=writing, held_out=False)
    for _ in range(size)
  ]
  return TextToImagePool(
    images=scenes.render_all(drawn, world, writing),
    captions=[grammar.caption(scene, rng) for scene in drawn],
  )


def image_to_text_pool(
  world: World, split: str, size: int, seed: int, shares: Mapping[str, float]
) -> ImageToTextPool:
  """`size` random scenes by the writers of `split`, each with one task.

  Args:
    world: the sizes.
    split: one of writers.SPLITS.
    size: number of records.
    seed: of all draws.
    shares: weight of each kind of text, "caption" or one of
      questions.kinds(world); they need not add up to one. Kinds are drawn
      first, then a scene that allows the kind, so shares are kept. The
      answers of each kind are balanced.

  Raises:
    ValueError: if the split or a kind is unknown, a weight is negative, all
      weights are zero, or the size is not positive.
  """
  names, weights = _checked_shares(shares, world)
  writing = writers.handwriting(split)
  rng = streams.generator("image-to-text records", split, size=size, seed=seed)

  def sample() -> scenes.Scene:
    return scenes.sample_scene(world, rng, writing=writing, held_out=False)

  asker = BalancedAsker(
    world=world, sample=sample, rng=rng, slack=_BALANCE_SLACK
  )
  kinds = [names[i] for i in rng.choice(len(names), size, p=weights)]
  drawn, prompts, texts = [], [], []
  for kind in kinds:
    if kind == CAPTION:
      scene, prompt = sample(), ""
      text = grammar.caption(scene, rng, is_complete=True)
    else:
      scene, question = asker.draw(kind)
      prompt, text = questions.prompt_text(question), question.answer
    drawn.append(scene)
    prompts.append(prompt)
    texts.append(text)
  images = scenes.render_all(drawn, world, writing)
  return ImageToTextPool(
    images=images, prompts=prompts, texts=texts, kinds=kinds
  )


def _checked_shares(
  shares: Mapping[str, float], world: World
) -> tuple[list[str], np.ndarray]:
  """Kinds and their probabilities; only kinds of positive weight."""
  known = (CAPTION, *questions.kinds(world))
  if unknown := sorted(set(shares) - set(known)):
    raise ValueError(
      f"shares name the kinds {unknown}; this world knows {known}"
    )
  if any(not weight >= 0 for weight in shares.values()) or not sum(
    shares.values()
  ):
    raise ValueError(
      f"shares are {dict(shares)}; weights must be 0 or more, one at least "
      "above 0"
    )
  names = [kind for kind, weight in shares.items() if weight > 0]
  weights = np.array([shares[kind] for kind in names], np.float64)
  return names, weights / weights.sum()
