"""Training data: images with captions, and with questions and answers.

Every scene holds seen compositions only, whichever writers it uses.
"""

import collections
import dataclasses
import zlib
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float64, UInt8

from ddit_jax.digits import grammar, questions
from ddit_jax.digits.prompts import prompts, scene_for
from ddit_jax.digits.rendering import render_all
from ddit_jax.digits.scenes import Scene, sample_scene
from ddit_jax.digits.world import SPLITS, World, handwriting

_MAX_DRAWS = 5000


@dataclasses.dataclass(frozen=True, kw_only=True)
class BalancedAsker:
  """Generates questions about random scenes, with balanced answers.

  Attributes:
    world: the sizes.
    sample: samples a scene.
    rng: source of the questions' choices.
    slack: how far an answer may be ahead of the rarest answer of its kind;
      0 gives exact balance, more needs fewer draws.
    counts: per kind of question, how often each answer was given.
  """

  world: World
  sample: Callable[[], Scene]
  rng: np.random.Generator
  slack: int = 0
  counts: dict[str, collections.Counter] = dataclasses.field(
    default_factory=lambda: collections.defaultdict(collections.Counter)
  )

  def draw(self, kind: str) -> tuple[Scene, questions.Question]:
    """A scene and a question of this kind whose answer is not too frequent.

    Raises:
      ValueError: the world has no such kind of question, or no scene allowed
        a rare enough answer.
    """
    counts = self.counts[kind]
    answers = questions.possible_answers(kind, self.world)
    limit = min(counts[answer] for answer in answers) + self.slack
    for _ in range(_MAX_DRAWS):
      scene = self.sample()
      question = questions.ask(kind, scene, self.world, self.rng)
      if question is not None and counts[question.answer] <= limit:
        counts[question.answer] += 1
        return scene, question
    raise ValueError(
      f"none of {_MAX_DRAWS} scenes allowed a question of kind {kind!r} with "
      f"a rare answer, given so far {dict(counts)}: leave the kind out in "
      "this world"
    )


def generator(
  purpose: str, split: str, *, size: int, seed: int
) -> np.random.Generator:
  """The random generator of one data set.

  Args:
    purpose: what is generated, e.g. "POPE images"; each has its own draws.
    split: one of SPLITS.
    size: number of records; only checked; it does not affect the draws.
    seed: at least 0.

  Raises:
    ValueError: an unknown split, no records, or a negative seed.
  """
  if split not in SPLITS:
    raise ValueError(
      f"there is no split {split!r} of the digits; choose one of {SPLITS}"
    )
  if size < 1:
    raise ValueError(f"{size} {purpose} were requested; request 1 or more")
  if seed < 0:
    raise ValueError(f"the seed is {seed}; choose 0 or more")
  address = [zlib.crc32(purpose.encode()), SPLITS.index(split), seed]
  return np.random.default_rng(address)


CAPTION = "caption"
# Exact balance would reject most scenes; a pool of thousands is not affected by
# ten more of one answer than of another.
_BALANCE_SLACK = 10


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _TextToImagePool:
  """Captions and matching images.

  Attributes:
    images: uint8 [n, canvas, canvas, 3].
    captions: n texts; some omit colours or relations.
  """

  images: UInt8[np.ndarray, "n canvas canvas 3"]
  captions: list[str]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ImageToTextPool:
  """Images with captions, or with questions and answers.

  Attributes:
    images: uint8 [n, canvas, canvas, 3].
    prompts: n given texts: "" for a caption, else "Q: ... A: ".
    texts: n target texts: a complete caption, or the answer.
    kinds: n kinds: "caption" or a kind of question.
  """

  images: UInt8[np.ndarray, "n canvas canvas 3"]
  prompts: list[str]
  texts: list[str]
  kinds: list[str]


def text_to_image_pool(
  world: World, split: str, size: int, seed: int
) -> _TextToImagePool:
  """`size` random scenes in the handwriting of `split`, with captions.

  Raises:
    ValueError: the split is unknown or the size not positive.
  """
  writing = handwriting(split)
  rng = generator("text-to-image records", split, size=size, seed=seed)
  sampled = [
    sample_scene(world, rng, writing=writing, held_out=False)
    for _ in range(size)
  ]
  return _TextToImagePool(
    images=render_all(sampled, world, writing),
    captions=[grammar.caption(scene, rng) for scene in sampled],
  )


def prompt_pool(
  world: World, split: str, size: int, seed: int
) -> _TextToImagePool:
  """`size` generation prompts, each equally often, and a real scene of each.

  Those of "train" are the prompts whose composition training shows, those of
  the other splits the held-out ones.

  Raises:
    ValueError: the split is unknown or the size not positive.
  """
  writing = handwriting(split)
  rng = generator("generation prompts", split, size=size, seed=seed)
  is_held_out = split != "train"
  known = [p for p in prompts(world) if p.is_held_out == is_held_out]
  chosen = [known[row % len(known)] for row in range(size)]
  scenes = [scene_for(p, world, rng, writing=writing) for p in chosen]
  return _TextToImagePool(
    images=render_all(scenes, world, writing),
    captions=[prompt.text for prompt in chosen],
  )


def image_to_text_pool(
  world: World, split: str, size: int, seed: int, weights: Mapping[str, float]
) -> ImageToTextPool:
  """`size` random scenes in the handwriting of `split`, each with one task.

  Args:
    world: the sizes.
    split: one of world.SPLITS.
    size: number of records.
    seed: of all draws.
    weights: of each kind of text, "caption" or one of questions.kinds(world);
      they need not sum to one. Kinds are sampled first, then a scene that
      allows the kind, so the weights hold. The answers of each kind are
      balanced.

  Raises:
    ValueError: the split or a kind is unknown, a weight is negative, all
      weights are zero, or the size is not positive.
  """
  names, probabilities = _kind_probabilities(weights, world)
  writing = handwriting(split)
  rng = generator("image-to-text records", split, size=size, seed=seed)

  def sample() -> Scene:
    return sample_scene(world, rng, writing=writing, held_out=False)

  asker = BalancedAsker(
    world=world, sample=sample, rng=rng, slack=_BALANCE_SLACK
  )
  kinds = [names[i] for i in rng.choice(len(names), size, p=probabilities)]
  sampled, prompts, texts = [], [], []
  for kind in kinds:
    if kind == CAPTION:
      scene, prompt = sample(), ""
      text = grammar.caption(scene, rng, is_complete=True)
    else:
      scene, question = asker.draw(kind)
      prompt, text = questions.prompt_text(question), question.answer
    sampled.append(scene)
    prompts.append(prompt)
    texts.append(text)
  return ImageToTextPool(
    images=render_all(sampled, world, writing),
    prompts=prompts,
    texts=texts,
    kinds=kinds,
  )


def _kind_probabilities(
  weights: Mapping[str, float], world: World
) -> tuple[list[str], Float64[np.ndarray, " kinds"]]:
  """The kinds of positive weight, and the probability of each."""
  known = (CAPTION, *questions.kinds(world))
  if unknown := sorted(set(weights) - set(known)):
    raise ValueError(
      f"weights name the kinds {unknown}; this world has {known}"
    )
  if any(not weight >= 0 for weight in weights.values()) or not sum(
    weights.values()
  ):
    raise ValueError(
      f"weights are {dict(weights)}; all must be at least 0 and one above 0"
    )
  names = [kind for kind, weight in weights.items() if weight > 0]
  positive = np.array([weights[kind] for kind in names], np.float64)
  return names, positive / positive.sum()
