"""Captions against facts written by hand, and against their scenes."""

import re

import numpy as np
import pytest

from ddit_jax.digits import grammar, prompts, questions, scenes
from ddit_jax.digits.scenes import Scene, SceneObject
from ddit_jax.digits.world import WORLDS, handwriting

RED, ORANGE, GREEN, BLUE = 0, 1, 3, 5
WRITING = handwriting("train")


def scene_of(*objects):
  """A scene of (digit, color, x, y)."""
  return Scene(
    tuple(
      SceneObject(digit=d, color=c, x=float(x), y=float(y), glyph=0)
      for d, c, x, y in objects
    )
  )


def many_scenes(name, count):
  rng = np.random.default_rng(0)
  world = WORLDS[name]
  for index in range(count):
    scene = scenes.sample_scene(
      world, rng, writing=WRITING, held_out=index % 2 == 1
    )
    yield scene, world, rng


@pytest.mark.parametrize(
  ("text", "facts"),
  [
    ("a picture of a red seven", {("digit", 7), ("pair", 7, RED)}),
    ("there is an eight in orange", {("digit", 8), ("pair", 8, ORANGE)}),
    ("an eight that is blue", {("digit", 8), ("pair", 8, BLUE)}),
    ("a seven", {("digit", 7)}),
    (
      "two sevens in red and a two in blue",
      {
        *(("digit", 7), ("pair", 7, RED), ("count", 7, 2)),
        *(("digit", 2), ("pair", 2, BLUE)),
      },
    ),
    (
      "a red six, a blue six and a green six",
      {
        *(("digit", 6), ("count", 6, 3)),
        *(("pair", 6, RED), ("pair", 6, BLUE), ("pair", 6, GREEN)),
      },
    ),
    (
      "a picture of a seven right of a two",
      {("digit", 7), ("digit", 2), ("relation", 2, "left of", 7)},
    ),
    (
      "a one at the bottom and a two at the top",
      {("digit", 1), ("digit", 2), ("relation", 2, "above", 1)},
    ),
    (
      "on the right there is a one and on the left there is a two in red",
      {
        *(("digit", 1), ("digit", 2), ("pair", 2, RED)),
        ("relation", 2, "left of", 1),
      },
    ),
    # Garbled: a number needs a plural, a digit an article.
    ("two seven red", set()),
    ("a sevens and the", set()),
    ("a red red seven", set()),
    ("", set()),
    ("a a red seven blue", {("digit", 7), ("pair", 7, RED)}),
  ],
)
def test_facts_of_a_text(text, facts):
  assert grammar.caption_facts(text) == facts


def test_facts_of_scenes():
  assert grammar.scene_facts(scene_of((7, RED, 8, 8))) == {
    ("digit", 7),
    ("pair", 7, RED),
  }
  assert grammar.scene_facts(scene_of((7, RED, 25, 8), (2, BLUE, 6, 9))) == {
    *(("digit", 7), ("pair", 7, RED), ("digit", 2), ("pair", 2, BLUE)),
    ("relation", 2, "left of", 7),
  }
  # On a diagonal, among three, or of equal digits nothing is said of places.
  for scene in (
    scene_of((7, RED, 25, 25), (2, BLUE, 6, 9)),
    scene_of((7, RED, 25, 8), (2, BLUE, 6, 9), (1, RED, 25, 25)),
    scene_of((7, RED, 25, 8), (7, BLUE, 6, 9)),
  ):
    assert not [f for f in grammar.scene_facts(scene) if f[0] == "relation"]


@pytest.mark.parametrize("name", WORLDS)
def test_captions_are_true_and_complete_ones_say_all(name):
  for scene, _, rng in many_scenes(name, 1500):
    facts = grammar.scene_facts(scene)
    text = grammar.caption(scene, rng)
    stated = grammar.caption_facts(text)
    assert stated <= facts, text
    # Every digit is named even where its colour is not.
    assert {f for f in facts if f[0] == "digit"} <= stated, text
    complete = grammar.caption(scene, rng, is_complete=True)
    assert grammar.caption_facts(complete) == facts, complete


def test_one_scene_has_at_least_eight_paraphrases():
  rng = np.random.default_rng(1)
  for scene in (
    scene_of((8, ORANGE, 8, 8)),
    scene_of((7, RED, 25, 8), (2, BLUE, 6, 9)),
    scene_of((7, RED, 25, 8), (7, BLUE, 6, 9)),
  ):
    texts = {grammar.caption(scene, rng, is_complete=True) for _ in range(400)}
    assert len(texts) >= 8
    # Colour after the noun, "there is", and (of two) sides.
    assert any(" in " in text for text in texts)
    assert any("there is" in text for text in texts)
  assert any(
    "on the left"
    in grammar.caption(scene_of((7, RED, 25, 8), (2, BLUE, 6, 9)), rng)
    for _ in range(100)
  )


def test_the_generation_prompts_are_captions_too():
  rng = np.random.default_rng(2)
  scene = scene_of((7, RED, 25, 8), (2, BLUE, 6, 9))
  texts = {grammar.caption(scene, rng) for _ in range(2000)}
  assert {
    "a picture of a seven and a two",
    "a picture of a two and a seven",
    "a picture of a red seven and a blue two",
    "a picture of a seven right of a two",
    "a picture of a two left of a seven",
  } <= texts
  eights = scene_of((8, RED, 25, 8), (8, BLUE, 6, 9))
  texts = {grammar.caption(eights, rng) for _ in range(300)}
  assert "a picture of two eights" in texts
  one = scene_of((8, ORANGE, 8, 8))
  texts = {grammar.caption(one, rng) for _ in range(300)}
  assert {"a picture of an eight", "a picture of an orange eight"} <= texts


def tokens_of(text):
  return re.findall(r"[QA]:|\w+|[^\w\s]", text)


@pytest.mark.parametrize("name", WORLDS)
def test_texts_are_short(name):
  longest = {"one_digit": 8}.get(name, 62)
  for scene, world, rng in many_scenes(name, 400):
    for is_complete in (False, True):
      text = grammar.caption(scene, rng, is_complete=is_complete)
      assert len(tokens_of(text)) <= longest, text
    for question in questions.questions(scene, world, rng):
      asked = questions.prompt_text(question) + question.answer
      assert len(tokens_of(asked)) <= longest + 1, asked


def test_words_are_exactly_those_that_occur():
  occurring = set()
  for name, world in WORLDS.items():
    texts = [prompt.text for prompt in prompts.prompts(world)]
    for scene, _, rng in many_scenes(name, 1500):
      texts.append(grammar.caption(scene, rng))
      for question in questions.questions(scene, world, rng):
        texts += [questions.prompt_text(question), question.answer]
    for text in texts:
      assert "  " not in text
      occurring |= set(tokens_of(text))
  assert occurring == set(grammar.words())
  assert list(grammar.words()) == sorted(occurring)


def test_references_are_different_complete_and_fixed():
  for scene, _, _ in many_scenes("scenes_32", 40):
    found = grammar.references(scene, 3)
    assert len(set(found)) == 5
    assert found == grammar.references(scene, 3)
    for text in found:
      assert grammar.caption_facts(text) == grammar.scene_facts(scene)


def test_too_many_references_are_refused():
  with pytest.raises(ValueError, match=r"20 references.*only 9"):
    grammar.references(scene_of((7, RED, 8, 8)), 0, count=20)
