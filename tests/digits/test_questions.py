"""Questions about hand-made scenes, and the annotators' answers."""

import collections
import re

import numpy as np
import pytest

from ddit_jax.digits import questions, scenes
from ddit_jax.digits.questions import (
  QUESTION_KINDS,
  Question,
  annotators,
  possible_answers,
)
from ddit_jax.digits.scenes import Scene, SceneObject
from ddit_jax.digits.world import (
  COLORS,
  DIGIT_WORDS,
  PLURALS,
  WORLDS,
  handwriting,
)
from ddit_jax.evaluation import answer_forms

LARGE, ONE = WORLDS["scenes_32"], WORLDS["one_digit"]
WRITING = handwriting("train")


def scene_of(*objects):
  """A scene of (digit word, color word, x, y)."""
  return Scene(
    tuple(
      SceneObject(
        digit=DIGIT_WORDS.index(d),
        color=COLORS.index(c),
        x=float(x),
        y=float(y),
        glyph=0,
      )
      for d, c, x, y in objects
    )
  )


def asked(kind, scene, world=LARGE, times=60):
  """All (text, answer) of this kind; None if it was ever refused."""
  rng = np.random.default_rng(0)
  found = [questions.ask(kind, scene, world, rng) for _ in range(times)]
  return {(q.text, q.answer) if q else None for q in found}


# A red seven, below it a blue two, right of the seven a red four.
THREE = scene_of(
  ("seven", "red", 6, 6), ("two", "blue", 6, 26), ("four", "red", 26, 8)
)


def test_questions_about_one_digit():
  scene = scene_of(("eight", "orange", 8, 8))
  assert asked("what_number", scene, ONE) == {("what number is it?", "eight")}
  assert asked("what_color", scene, ONE) == {
    ("what color is the number?", "orange"),
    ("what color is the eight?", "orange"),
  }
  colors = asked("color_yes_no", scene, ONE, times=300)
  assert colors == {
    (f"is it {color}?", "yes" if color == "orange" else "no")
    for color in COLORS
  }
  digits = asked("is_there", scene, ONE, times=400)
  assert digits == {
    (
      f"is there {'an' if word == 'eight' else 'a'} {word}?",
      "yes" if word == "eight" else "no",
    )
    for word in DIGIT_WORDS
  }
  assert ("is there an orange eight?", "yes") in asked(
    "is_there_pair", scene, ONE
  )


def test_questions_about_three_digits():
  # Two objects are red, so only blue has a referent.
  assert asked("what_number", THREE) == {("what number is blue?", "two")}
  assert asked("what_color", THREE) == {
    ("what color is the seven?", "red"),
    ("what color is the two?", "blue"),
    ("what color is the four?", "red"),
  }
  assert asked("how_many_numbers", THREE) == {
    ("how many numbers are there?", "three")
  }
  assert asked("where", THREE) == {
    ("where is the seven?", "top left"),
    ("where is the two?", "bottom left"),
    ("where is the four?", "top right"),
  }
  # Not "what is above the two?": the seven is, but the four on the diagonal
  # is too, loosely. Nor "what is left of the four?".
  assert asked("what_relation", THREE) == {
    ("what is below the seven?", "two"),
    ("what is right of the seven?", "four"),
  }
  assert asked("is_relation", THREE) == {
    ("is the seven left of the four?", "yes"),
    ("is the seven right of the four?", "no"),
    ("is the four right of the seven?", "yes"),
    ("is the four left of the seven?", "no"),
    ("is the seven above the two?", "yes"),
    ("is the seven below the two?", "no"),
    ("is the two below the seven?", "yes"),
    ("is the two above the seven?", "no"),
  }


def test_nothing_is_asked_without_a_unique_referent():
  scene = scene_of(
    ("six", "red", 6, 6), ("six", "red", 26, 6), ("six", "red", 6, 26)
  )
  for kind in ("what_number", "what_color", "where", "is_relation"):
    assert asked(kind, scene) == {None}
  assert asked("what_relation", scene) == {None}
  assert asked("how_many", scene) == {("how many sixes are there?", "three")}


@pytest.mark.parametrize("world", [ONE, LARGE])
def test_yes_and_no_are_balanced(world):
  rng = np.random.default_rng(1)
  answers = collections.defaultdict(collections.Counter)
  for _ in range(1500):
    scene = scenes.sample_scene(world, rng, writing=WRITING, held_out=False)
    for question in questions.questions(scene, world, rng):
      if question.answer_type == "yes/no":
        answers[question.kind][question.answer] += 1
  assert len(answers) == 3
  for kind, counts in answers.items():
    assert set(counts) == {"yes", "no"}
    share = counts["yes"] / counts.total()
    # Four standard errors of a fair coin.
    assert abs(share - 0.5) < 2 / counts.total() ** 0.5, (kind, counts)


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("world", [ONE, LARGE])
def test_presence_answers_are_true_and_pairs_alike(world, held_out):
  rng = np.random.default_rng(2)
  for _ in range(800):
    scene = scenes.sample_scene(world, rng, writing=WRITING, held_out=held_out)
    digits = [t.digit for t in scene.objects]
    pairs = {(t.digit, t.color) for t in scene.objects}
    for question in questions.questions(scene, world, rng):
      words = re.findall(r"\w+", question.text)
      if question.kind == "is_there":
        is_true = DIGIT_WORDS.index(words[-1]) in digits
        assert question.answer == ("yes" if is_true else "no")
      elif question.kind == "is_there_pair":
        pair = DIGIT_WORDS.index(words[-1]), COLORS.index(words[-2])
        assert question.answer == ("yes" if pair in pairs else "no")
        if not held_out:
          assert (3 * pair[0] + pair[1]) % 5 != 0
      elif question.kind == "how_many":
        count = digits.count(PLURALS.index(words[2]))
        assert question.answer == DIGIT_WORDS[count]


def test_held_out_scenes_are_denied_held_out_pairs():
  # Otherwise "held out" in a question would mean "yes".
  rng = np.random.default_rng(3)
  denied = []
  for _ in range(300):
    scene = scenes.sample_scene(ONE, rng, writing=WRITING, held_out=True)
    question = questions.ask("is_there_pair", scene, ONE, rng)
    words = re.findall(r"\w+", question.text)
    pair = DIGIT_WORDS.index(words[-1]), COLORS.index(words[-2])
    if question.answer == "no":
      denied.append((3 * pair[0] + pair[1]) % 5 == 0)
  assert len(denied) > 100 and all(denied)


@pytest.mark.parametrize("world", [ONE, LARGE])
def test_answers_are_possible_and_all_possible_ones_occur(world):
  rng = np.random.default_rng(4)
  found = collections.defaultdict(set)
  for _ in range(1500):
    scene = scenes.sample_scene(world, rng, writing=WRITING, held_out=False)
    for question in questions.questions(scene, world, rng):
      found[question.kind].add(question.answer)
  assert set(found) == set(questions.kinds(world))
  for kind, answers in found.items():
    assert answers == set(questions.possible_answers(kind, world)), kind


def test_kinds_and_prompt_text():
  assert questions.kinds(ONE) == (
    *("what_number", "what_color", "color_yes_no"),
    *("is_there", "is_there_pair"),
  )
  assert len(questions.kinds(LARGE)) == 9
  question = questions.presence_question(8, is_present=False)
  assert (question.answer, question.answer_type) == ("no", "yes/no")
  assert questions.prompt_text(question) == "Q: is there an eight? A: "


def test_an_unknown_kind_is_refused():
  with pytest.raises(ValueError, match="'where' about scenes of at most 1"):
    asked("where", scene_of(("eight", "red", 8, 8)), ONE)


LARGE = WORLDS["scenes_32"]


def question_of(kind, answer):
  answer_type = "yes/no" if answer in ("yes", "no") else "other"
  return Question(kind=kind, text="?", answer=answer, answer_type=answer_type)


ALL = [
  question_of(kind, answer)
  for kind in QUESTION_KINDS
  for answer in possible_answers(kind, LARGE)
]


@pytest.mark.parametrize("question", ALL, ids=lambda q: f"{q.kind}-{q.answer}")
def test_seven_say_it_two_say_it_otherwise_one_is_wrong(question):
  for seed in range(8):
    found = annotators(question, seed)
    counts = collections.Counter(found)
    assert sorted(counts.values()) == [1, 2, 7]
    assert counts[question.answer] == 7
    (error,) = (answer for answer, n in counts.items() if n == 1)
    right = answer_forms.vqa(question.answer)
    assert answer_forms.vqa(error) != right
    normalised = collections.Counter(map(answer_forms.vqa, found))
    assert normalised.most_common(1)[0][0] == right
    assert error in possible_answers(question.kind, LARGE) or (
      question.kind.startswith("how_many") and error in ("zero", "five")
    )


def test_words_and_figures_are_the_same_answer():
  found = annotators(question_of("how_many", "three"), 0)
  assert found.count("3") == 2
  assert [answer_forms.vqa(a) for a in found].count("3") == 9


def test_a_seed_fixes_order_and_error():
  question = question_of("what_number", "seven")
  assert annotators(question, 5) == annotators(question, 5)
  assert len({tuple(annotators(question, seed)) for seed in range(9)}) > 5
  errors = {
    answer
    for seed in range(30)
    for answer in annotators(question, seed)
    if answer not in ("seven", "7")
  }
  assert errors == {"one", "nine"}
