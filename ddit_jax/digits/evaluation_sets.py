"""Evaluation data: scenes to caption, questions, and the three POPE sets.

Seen and held-out scenes alternate in every set.
"""

import dataclasses
import functools
import itertools

import numpy as np
from jaxtyping import Int64, UInt8

from ddit_jax.digits import questions
from ddit_jax.digits.datasets import BalancedAsker, generator
from ddit_jax.digits.questions import Question
from ddit_jax.digits.rendering import render_all
from ddit_jax.digits.scenes import Scene, sample_scene
from ddit_jax.digits.world import DIGIT_WORDS, World, handwriting

_POPE_SETS = ("random", "popular", "adversarial")
_POPE_YES = 3  # questions per image with the answer "yes", and as many "no"
_NUM_COUNTED_SCENES = 4000
_NUM_DIGITS = len(DIGIT_WORDS)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class CaptionItem:
  """A scene to caption.

  Attributes:
    image: uint8 [canvas, canvas, 3].
    scene: the scene in the image.
    is_held_out: True if the scene holds a composition training never shows.
  """

  image: UInt8[np.ndarray, "canvas canvas 3"]
  scene: Scene
  is_held_out: bool


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class QuestionItem(CaptionItem):
  """A scene and a question about it.

  Attributes:
    question: with its correct answer.
    annotators: ten answers, as in the VQA v2 files.
  """

  question: Question
  annotators: list[str]


def caption_items(
  world: World, split: str, count: int, seed: int
) -> list[CaptionItem]:
  """`count` scenes in the handwriting of `split`.

  Raises:
    ValueError: the split is unknown or the count not positive.
  """
  writing = handwriting(split)
  rng = generator("scenes to caption", split, size=count, seed=seed)
  is_held_out = _alternating(count)
  scenes = [
    sample_scene(world, rng, writing=writing, held_out=flag)
    for flag in is_held_out
  ]
  images = render_all(scenes, world, writing)
  return [
    CaptionItem(image=image, scene=scene, is_held_out=flag)
    for image, scene, flag in zip(images, scenes, is_held_out, strict=True)
  ]


def question_items(
  world: World, split: str, per_kind: int, seed: int
) -> list[QuestionItem]:
  """`per_kind` questions of every kind.

  Among the seen and among the held-out scenes, the counts of a kind's answers
  differ by at most one.

  Raises:
    ValueError: the split is unknown or `per_kind` not positive.
  """
  writing = handwriting(split)
  rng = generator("questions of a kind", split, size=per_kind, seed=seed)
  askers = {}
  for is_held_out in (False, True):
    sample = functools.partial(
      sample_scene, world, rng, writing=writing, held_out=is_held_out
    )
    askers[is_held_out] = BalancedAsker(world=world, sample=sample, rng=rng)
  asked = [
    (*askers[is_held_out].draw(kind), is_held_out)
    for kind in questions.kinds(world)
    for is_held_out in _alternating(per_kind)
  ]
  images = render_all([scene for scene, _, _ in asked], world, writing)
  return [
    question_item(image, scene, question, is_held_out=is_held_out, rng=rng)
    for image, (scene, question, is_held_out) in zip(images, asked, strict=True)
  ]


def pope_items(
  world: World, split: str, images: int, seed: int
) -> dict[str, list[QuestionItem]]:
  """The three POPE sets: "is there a seven?", yes and no equally often.

  Every image has as many "yes" as "no" questions: three each, or one each in
  a one-digit world. The sets share the images and the "yes" questions. The
  absent digits in "no" questions are random; or the most frequent in training
  ("popular"); or those that appear most often in training together with the
  digits present ("adversarial"; in a one-digit world equal to "popular").

  Args:
    world: the sizes.
    split: one of world.SPLITS.
    images: number of images.
    seed: of all draws.

  Returns:
    For each of POPE_SETS, its questions, image by image.

  Raises:
    ValueError: the split is unknown or `images` not positive.
  """
  writing = handwriting(split)
  rng = generator("POPE images", split, size=images, seed=seed)
  is_held_out = _alternating(images)
  scenes = [
    _pope_scene(world, rng, writing=writing, is_held_out=flag)
    for flag in is_held_out
  ]
  rendered = render_all(scenes, world, writing)
  found: dict[str, list[QuestionItem]] = {name: [] for name in _POPE_SETS}
  for image, scene, flag in zip(rendered, scenes, is_held_out, strict=True):
    present = np.array(sorted({obj.digit for obj in scene.objects}))
    yes = rng.permutation(present)[:_POPE_YES]
    for name, absent in _absent_digits(present, world, rng).items():
      asked = itertools.chain(
        ((digit, True) for digit in yes),
        ((digit, False) for digit in absent[: len(yes)]),
      )
      for digit, is_present in asked:
        question = questions.presence_question(digit, is_present=is_present)
        item = question_item(image, scene, question, is_held_out=flag, rng=rng)
        found[name].append(item)
  return found


def _alternating(count: int) -> list[bool]:
  """False, True, False, ...: is the item held out?"""
  return [index % 2 == 1 for index in range(count)]


def question_item(image, scene, question, *, is_held_out, rng) -> QuestionItem:
  """A question with its annotators."""
  return QuestionItem(
    image=image,
    scene=scene,
    question=question,
    annotators=questions.annotators(question, int(rng.integers(2**32))),
    is_held_out=is_held_out,
  )


def _pope_scene(world: World, rng, *, writing, is_held_out: bool) -> Scene:
  """A scene of as many different digits as a POPE image asks about."""
  wanted = min(_POPE_YES, world.max_objects)
  kind = ("single", "two", "several")[wanted - 1]
  while True:
    scene = sample_scene(
      world, rng, writing=writing, held_out=is_held_out, kind=kind
    )
    if len({obj.digit for obj in scene.objects}) >= wanted:
      return scene


def _absent_digits(
  present: Int64[np.ndarray, " digits"], world: World, rng
) -> dict[str, Int64[np.ndarray, " absent"]]:
  """For each POPE set, the absent digits in the order of choice."""
  frequency, together = _training_counts(world)
  absent = np.setdiff1d(np.arange(_NUM_DIGITS), present)
  beside = together[present].sum(axis=0)
  return {
    "random": rng.permutation(absent),
    "popular": absent[np.argsort(-frequency[absent], kind="stable")],
    "adversarial": absent[np.lexsort((-frequency[absent], -beside[absent]))],
  }


@functools.cache
def _training_counts(
  world: World,
) -> tuple[Int64[np.ndarray, " 10"], Int64[np.ndarray, "10 10"]]:
  """In how many training scenes each digit, and each pair of digits, appears.

  The diagonal is zero.
  """
  writing = handwriting("train")
  rng = generator("scenes to count", "train", size=_NUM_COUNTED_SCENES, seed=0)
  is_in = np.zeros((_NUM_COUNTED_SCENES, _NUM_DIGITS), np.int64)
  for row in range(_NUM_COUNTED_SCENES):
    scene = sample_scene(world, rng, writing=writing, held_out=False)
    is_in[row, [obj.digit for obj in scene.objects]] = 1
  together = is_in.T @ is_in
  return is_in.sum(axis=0), together - np.diag(np.diag(together))
