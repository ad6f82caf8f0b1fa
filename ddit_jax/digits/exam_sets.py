"""Scenes with captions, questions and POPE questions to examine a model on.

Half of every set holds seen compositions only, half one held-out each.
"""

import dataclasses
import functools

import numpy as np

from ddit_jax.digits import questions, scenes, streams, writers
from ddit_jax.digits.annotators import annotators
from ddit_jax.digits.balance import BalancedAsker
from ddit_jax.digits.questions import Question
from ddit_jax.digits.scenes import Scene
from ddit_jax.digits.worlds import World

POPE_VARIANTS = ("random", "popular", "adversarial")
_POPE_YES = 3  # and as many no, an image
_NUM_COUNTED_SCENES = 4000
_NUM_DIGITS = 10


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class CaptionItem:
  """A scene to describe.

  Attributes:
    image: uint8 [canvas, canvas, 3].
    scene: what it shows.
    is_held_out: True if training never showed a composition in it.
  """

  image: np.ndarray
  scene: Scene
  is_held_out: bool


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class QuestionItem:
  """A scene and a question about it.

  Attributes:
    image: uint8 [canvas, canvas, 3].
    scene: what it shows.
    question: with its right answer.
    annotators: ten answers, as in the VQA v2 files.
    is_held_out: True if training never showed a composition in the scene.
  """

  image: np.ndarray
  scene: Scene
  question: Question
  annotators: list[str]
  is_held_out: bool


def caption_items(
  world: World, split: str, count: int, seed: int
) -> list[CaptionItem]:
  """`count` scenes by the writers of `split`, seen and held out in turn.

  Raises:
    ValueError: if the split is unknown or the count not positive.
  """
  writing = writers.handwriting(split)
  rng = streams.generator("scenes to caption", split, size=count, seed=seed)
  is_held_out = _alternating(count)
  drawn = [
    scenes.sample_scene(world, rng, writing=writing, held_out=flag)
    for flag in is_held_out
  ]
  images = scenes.render_all(drawn, world, writing)
  return [
    CaptionItem(image=image, scene=scene, is_held_out=flag)
    for image, scene, flag in zip(images, drawn, is_held_out, strict=True)
  ]


def question_items(
  world: World, split: str, per_kind: int, seed: int
) -> list[QuestionItem]:
  """`per_kind` questions of every kind, seen and held out in turn.

  Within seen and within held out, no answer of a kind comes up more than
  once more often than another.

  Raises:
    ValueError: if the split is unknown or `per_kind` not positive.
  """
  writing = writers.handwriting(split)
  rng = streams.generator(
    "questions of a kind", split, size=per_kind, seed=seed
  )
  askers = {}
  for is_held_out in (False, True):
    sample = functools.partial(
      scenes.sample_scene, world, rng, writing=writing, held_out=is_held_out
    )
    askers[is_held_out] = BalancedAsker(world=world, sample=sample, rng=rng)
  asked = [
    (*askers[is_held_out].draw(kind), is_held_out)
    for kind in questions.kinds(world)
    for is_held_out in _alternating(per_kind)
  ]
  images = scenes.render_all([scene for scene, _, _ in asked], world, writing)
  return [
    _item(image, scene, question, is_held_out=is_held_out, rng=rng)
    for image, (scene, question, is_held_out) in zip(images, asked, strict=True)
  ]


def pope_items(
  world: World, split: str, images: int, seed: int
) -> dict[str, list[QuestionItem]]:
  """The three POPE sets: "is there a seven?", yes and no equally often.

  Every image has as many yes as no questions: three each, or one each in a
  one-digit world. The sets share images and yes questions. The absent digits
  asked for are random; or the most frequent in training ("popular"); or
  those that training showed most often beside the digits present
  ("adversarial"; where nothing is beside a digit this equals "popular").

  Args:
    world: the sizes.
    split: one of writers.SPLITS.
    images: number of images, seen and held out in turn.
    seed: of all draws.

  Returns:
    For each of POPE_VARIANTS, its questions image after image.

  Raises:
    ValueError: if the split is unknown or `images` not positive.
  """
  writing = writers.handwriting(split)
  rng = streams.generator("POPE images", split, size=images, seed=seed)
  is_held_out = _alternating(images)
  drawn = [
    _pope_scene(world, rng, writing=writing, is_held_out=flag)
    for flag in is_held_out
  ]
  rendered = scenes.render_all(drawn, world, writing)
  found: dict[str, list[QuestionItem]] = {name: [] for name in POPE_VARIANTS}
  for image, scene, flag in zip(rendered, drawn, is_held_out, strict=True):
    present = np.array(sorted({thing.digit for thing in scene.things}))
    yes = rng.permutation(present)[:_POPE_YES]
    for name, absent in _absent_digits(present, world, rng).items():
      for digit, is_present in [
        *((d, True) for d in yes),
        *((d, False) for d in absent[: len(yes)]),
      ]:
        question = questions.presence_question(digit, is_present=is_present)
        item = _item(image, scene, question, is_held_out=flag, rng=rng)
        found[name].append(item)
  return found


def _alternating(count: int) -> list[bool]:
  """False, True, False, ...: is the item held out?"""
  return [index % 2 == 1 for index in range(count)]


def _item(image, scene, question, *, is_held_out, rng) -> QuestionItem:
  return QuestionItem(
    image=image,
    scene=scene,
    question=question,
    annotators=annotators(question, int(rng.integers(2**32))),
    is_held_out=is_held_out,
  )


def _pope_scene(world: World, rng, *, writing, is_held_out: bool) -> Scene:
  """A scene of as many different digits as a POPE image can ask about."""
  wanted = min(_POPE_YES, world.max_objects)
  kind = ("single", "two", "several")[wanted - 1]
  while True:
    scene = scenes.sample_scene(
      world, rng, writing=writing, held_out=is_held_out, kind=kind
    )
    if len({thing.digit for thing in scene.things}) >= wanted:
      return scene


def _absent_digits(present: np.ndarray, world: World, rng):
  """For each POPE variant, the absent digits, first choice first."""
  frequency, together = _training_counts(world)
  absent = np.setdiff1d(np.arange(_NUM_DIGITS), present)
  beside = together[present].sum(axis=0)
  return {
    "random": rng.permutation(absent),
    "popular": absent[np.argsort(-frequency[absent], kind="stable")],
    "adversarial": absent[np.lexsort((-frequency[absent], -beside[absent]))],
  }


@functools.cache
def _training_counts(world: World) -> tuple[np.ndarray, np.ndarray]:
  """In how many training scenes each digit, and each two digits, appear.

  Returns:
    int64 [10], and int64 [10, 10] with a zero diagonal.
  """
  writing = writers.handwriting("train")
  rng = streams.generator(
    "scenes to count", "train", size=_NUM_COUNTED_SCENES, seed=0
  )
  is_in = np.zeros((_NUM_COUNTED_SCENES, _NUM_DIGITS), np.int64)
  for row in range(_NUM_COUNTED_SCENES):
    scene = scenes.sample_scene(world, rng, writing=writing, held_out=False)
    is_in[row, [thing.digit for thing in scene.things]] = 1
  together = is_in.T @ is_in
  return is_in.sum(axis=0), together - np.diag(np.diag(together))
