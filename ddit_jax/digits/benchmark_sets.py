"""Evaluation data of MME and GQA, as far as the digit world has their like.

Seen and held-out scenes alternate in every set.
"""

import dataclasses

import numpy as np

from ddit_jax.digits import questions
from ddit_jax.digits.datasets import generator
from ddit_jax.digits.evaluation_sets import QuestionItem, question_item
from ddit_jax.digits.questions import YES_NO, Question
from ddit_jax.digits.rendering import render_all
from ddit_jax.digits.scenes import Scene, sample_scene
from ddit_jax.digits.world import (
  DIGIT_WORDS,
  World,
  handwriting,
  is_held_out_pair,
)

# MME's subtask -> the kind of question that asks it.
_ONE_DIGIT_MME = {"existence": "is_there", "color": "color_yes_no"}
_MME = {
  "existence": "is_there",
  "position": "is_relation",
  "color": "is_there_pair",
}
# Draws of a question before another scene is tried.
_TRIES = 30


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class GqaItem(QuestionItem):
  """A question that may entail others.

  Attributes:
    entailed: places, in the set, of the questions whose answers follow.
  """

  entailed: tuple[int, ...]


def mme_items(
  world: World, split: str, images: int, seed: int
) -> dict[str, list[QuestionItem]]:
  """MME's subtasks: two questions an image, answered "yes" and "no".

  Existence, position and colour; a one-digit world has no positions. There is
  no count: no question of the world asks for one with yes or no.

  Args:
    world: the sizes.
    split: one of world.SPLITS.
    images: of each subtask.
    seed: of all draws.
  """
  found = {}
  for subtask, kind in (_ONE_DIGIT_MME if world.is_one_digit else _MME).items():
    rng = generator(f"MME {subtask}", split, size=images, seed=seed)
    found[subtask] = _items(
      [
        _pair_of_questions(kind, world, split, rng, is_held_out=index % 2 == 1)
        for index in range(images)
      ],
      world,
      split,
      rng,
    )
  return found


def gqa_items(
  world: World, split: str, images: int, seed: int
) -> list[GqaItem]:
  """GQA's like: six questions an image, of which some entail others.

  About a digit and its colour: is it there with its colour, is it there, which
  digit has the colour, which colour has the digit; and about an absent digit,
  whether it is there, at all and in that colour.

  Args:
    world: the sizes.
    split: one of world.SPLITS.
    images: number of images.
    seed: of all draws.
  """
  rng = generator("GQA images", split, size=images, seed=seed)
  asked, entailed = [], []
  for index in range(images):
    scene, some = _related_questions(
      world, split, rng, is_held_out=index % 2 == 1
    )
    # Of "is there a red seven?", "is there a seven?", "what number is red?",
    # "what color is the seven?", and of an absent two: "is there a two?", "is
    # there a red two?".
    entailed += [
      tuple(len(asked) * len(some) + one for one in follows)
      for follows in ((1,), (), (0, 1), (0, 1), (5,), ())
    ]
    asked.append((scene, some, index % 2 == 1))
  return [
    GqaItem(**vars(item), entailed=follows)
    for item, follows in zip(
      _items(asked, world, split, rng), entailed, strict=True
    )
  ]


_Asked = tuple[Scene, list[Question], bool]


def _items(
  asked: list[_Asked], world: World, split: str, rng: np.random.Generator
) -> list[QuestionItem]:
  """The questions with the images of their scenes."""
  images = render_all(
    [scene for scene, _, _ in asked], world, handwriting(split)
  )
  return [
    question_item(image, scene, question, is_held_out=is_held_out, rng=rng)
    for image, (scene, some, is_held_out) in zip(images, asked, strict=True)
    for question in some
  ]


def _pair_of_questions(
  kind: str,
  world: World,
  split: str,
  rng: np.random.Generator,
  *,
  is_held_out: bool,
) -> _Asked:
  """A scene, and a question of the kind for each answer."""
  while True:
    scene = sample_scene(
      world, rng, writing=handwriting(split), held_out=is_held_out
    )
    drawn = [questions.ask(kind, scene, world, rng) for _ in range(_TRIES)]
    by_answer = {one.answer: one for one in drawn if one is not None}
    if set(by_answer) == set(YES_NO):
      return scene, [by_answer[answer] for answer in YES_NO], is_held_out


def _related_questions(
  world: World, split: str, rng: np.random.Generator, *, is_held_out: bool
) -> tuple[Scene, list[Question]]:
  """A scene with questions about one of its digits and an absent one."""
  while True:
    scene = sample_scene(
      world, rng, writing=handwriting(split), held_out=is_held_out
    )
    digits = [one.digit for one in scene.objects]
    colors = [one.color for one in scene.objects]
    unique = [
      one
      for one in scene.objects
      if digits.count(one.digit) == colors.count(one.color) == 1
    ]
    if not unique:
      continue
    chosen = unique[rng.integers(len(unique))]
    # A pair that is asked about is held out only if the scene's is.
    absent = [
      digit
      for digit in range(len(DIGIT_WORDS))
      if digit not in digits
      and is_held_out_pair(digit, chosen.color)
      == is_held_out_pair(chosen.digit, chosen.color)
    ]
    if absent:
      other = absent[rng.integers(len(absent))]
      return scene, [
        questions.pair_question(chosen.digit, chosen.color, is_present=True),
        questions.presence_question(chosen.digit, is_present=True),
        questions.number_question(chosen, world),
        questions.color_question(chosen),
        questions.presence_question(other, is_present=False),
        questions.pair_question(other, chosen.color, is_present=False),
      ]
