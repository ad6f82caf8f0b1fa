"""The judge on scenes that show what a prompt asks for, or do not."""

import numpy as np
import pytest

from ddit_jax.digits import prompts, scenes, world
from ddit_jax.digits.judge import Findings, judge_for
from ddit_jax.digits.rendering import render_all
from ddit_jax.digits.world import COLORS, DIGIT_WORDS, WORLDS
from ddit_jax.evaluation.geneval import Detection

WORLD = WORLDS["scenes_32"]
SEVEN, TWO = 7, 2


@pytest.fixture(scope="module")
def judge_of_world():
  return judge_for(WORLD)


def image_of(*objects):
  """Known training glyphs: (digit, colour word, x, y)."""
  writing = world.handwriting("train")
  scene = scenes.Scene(
    tuple(
      scenes.SceneObject(
        digit=digit,
        color=COLORS.index(color),
        x=x,
        y=y,
        glyph=int(writing.rows[digit][0]),
      )
      for digit, color, x, y in objects
    )
  )
  return render_all([scene], WORLD, writing)[0]


def asking(tag, *include, exclude=()):
  return prompts.Prompt(text=tag, tag=tag, include=include, exclude=exclude)


def test_detections_name_box_and_colour(judge_of_world):
  image = image_of((SEVEN, "red", 8.0, 8.0), (TWO, "cyan", 24.0, 20.0))
  seven, two = judge_of_world.find(image[None])[0].first
  assert (seven.class_name, seven.color) == ("seven", "red")
  assert (two.class_name, two.color) == ("two", "cyan")
  for found, (x, y) in ((seven, (8, 8)), (two, (24, 20))):
    left, top, right, bottom = found.box
    assert abs((left + right) / 2 - x) < 2
    assert abs((top + bottom) / 2 - y) < 2
    assert 3 <= right - left <= 10
    assert 7 <= bottom - top <= 10


def test_color_and_position_are_told_apart(judge_of_world):
  image = image_of((SEVEN, "red", 7.0, 16.0), (TWO, "blue", 25.0, 16.0))
  seven = {"class": "seven", "count": 1}
  two = {"class": "two", "count": 1}
  for prompt, is_kept in [
    (asking("single_object", seven), True),
    (asking("single_object", {"class": "three", "count": 1}), False),
    (asking("colors", seven | {"color": "red"}), True),
    (asking("colors", seven | {"color": "blue"}), False),
    (asking("position", two, seven | {"position": ["left of", 0]}), True),
    (asking("position", two, seven | {"position": ["right of", 0]}), False),
    (asking("position", seven, two | {"position": ["right of", 0]}), True),
    (asking("position", seven, two | {"position": ["above", 0]}), False),
  ]:
    judgement = judge_of_world.find(image[None])[0].judge(prompt)
    assert judgement.is_correct == judgement.is_strictly_correct == is_kept
    assert bool(judgement.reasons) != is_kept


def test_counting_wants_neither_fewer_nor_more(judge_of_world):
  places = [(7.0, 7.0), (25.0, 7.0), (7.0, 25.0), (25.0, 25.0)]
  prompt = asking(
    "counting",
    {"class": "seven", "count": 3},
    exclude=({"class": "seven", "count": 4},),
  )
  for count in (2, 3, 4):
    image = image_of(*((SEVEN, "green", *at) for at in places[:count]))
    judgement = judge_of_world.find(image[None])[0].judge(prompt)
    assert judgement.is_correct == (count == 3)


def test_real_scenes_keep_their_prompts_and_controls_do_not(judge_of_world):
  rng = np.random.default_rng(0)
  asked = prompts.prompts(WORLD)[::2]
  writing = world.handwriting("test")
  real = render_all(
    [prompts.scene_for(p, WORLD, rng, writing=writing) for p in asked],
    WORLD,
    writing,
  )
  noise = rng.integers(256, size=real.shape, dtype=np.uint8)

  def share(images):
    found = judge_of_world.find(images)
    judgements = [f.judge(p) for p, f in zip(asked, found, strict=True)]
    lenient = np.array([v.is_correct for v in judgements])
    strict = np.array([v.is_strictly_correct for v in judgements])
    assert not (strict & ~lenient).any()
    return lenient.mean(), strict.mean()

  # Measured here 92.3 % and 88.5 %, and 1.1 % for images of another prompt;
  # on 6,000 scenes 91.8 % and 88.6 %.
  lenient, strict = share(real)
  assert lenient > 0.86
  assert 0.82 < strict <= lenient
  assert share(np.roll(real, 7, axis=0))[0] < 0.08
  assert share(noise) == (0, 0)
  assert share(np.zeros_like(real)) == (0, 0)


def test_a_disputed_digit_too_many_is_not_forgiven():
  def sevens(names):
    return tuple(
      Detection(class_name=name, box=(10 * i, 0, 10 * i + 5, 9))
      for i, name in enumerate(names)
    )

  prompt = asking(
    "counting",
    {"class": "seven", "count": 2},
    exclude=({"class": "seven", "count": 3},),
  )
  first, agreed = ["seven"] * 3, ["seven"] * 2 + ["unreadable"]
  judgement = Findings(first=sevens(first), agreed=sevens(agreed)).judge(prompt)
  assert not judgement.is_correct
  assert not judgement.is_strictly_correct
  judgement = Findings(
    first=sevens(agreed), agreed=sevens(["seven", *agreed[2:]])
  ).judge(prompt)
  assert judgement.is_correct
  assert not judgement.is_strictly_correct


def test_things_that_are_no_digit_are_unreadable(judge_of_world):
  image = np.zeros((32, 32, 3), np.uint8)
  image[10:20, 10:20] = (255, 64, 64)
  (square,) = judge_of_world.find(image[None])[0].first
  assert square.class_name == "unreadable"
  assert square.class_name not in DIGIT_WORDS


def test_each_world_has_one_judge_and_its_own_size(judge_of_world):
  assert judge_for(WORLD) is judge_of_world
  with pytest.raises(ValueError, match=r"uint8 \[n, 32, 32, 3\]"):
    judge_of_world.find(np.zeros((1, 48, 48, 3), np.uint8))
  with pytest.raises(ValueError, match="float64"):
    judge_of_world.find(np.zeros((1, 32, 32, 3)))
