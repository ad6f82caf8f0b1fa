"""Training pools: true texts, kept weights, nothing held out, and fast."""

import collections
import itertools
import re
import time

import numpy as np
import pytest

from ddit_jax.digits import datasets, grammar, prompts, questions, scenes
from ddit_jax.digits.datasets import BalancedAsker
from ddit_jax.digits.world import (
  COLORS,
  DIGIT_WORDS,
  PLURALS,
  WORLDS,
  handwriting,
)

ONE, LARGE = WORLDS["one_digit"], WORLDS["scenes_32"]
HELD_OUT_DIGITS = {
  *((0, 5), (1, 4), (2, 3)),
  *((1, 9), (2, 8), (3, 7), (4, 6), (6, 9), (7, 8)),
}
HELD_OUT_COUNTS = {(3, 2), (1, 3), (8, 3), (6, 4)}


def all_weights(world):
  return dict.fromkeys(("caption", *questions.kinds(world)), 1)


def read(text):
  """(digit, colour or None, count) of every obj, word by word.

  On purpose not the grammar's own parser.
  """
  words = re.findall(r"\w+", text)
  objects = []
  for i, word in enumerate(words):
    before, after = words[max(i - 2, 0) : i], words[i + 1 : i + 4]
    if word in PLURALS:
      digit = PLURALS.index(word)
      count = [DIGIT_WORDS.index(w) for w in before if w in DIGIT_WORDS][-1]
    elif word in DIGIT_WORDS:
      noun = [w for w in after if w not in COLORS][:1]
      if noun and noun[0] in PLURALS:
        continue  # it counts
      digit, count = DIGIT_WORDS.index(word), 1
    else:
      continue
    colors = [w for w in before[-1:] if w in COLORS]
    if after[:1] == ["in"]:
      colors.append(after[1])
    elif after[:2] in (["that", "is"], ["that", "are"]):
      colors.append(after[2])
    assert len(colors) <= 1, text
    objects.append((digit, COLORS.index(colors[0]) if colors else None, count))
  assert objects, text
  return objects


def assert_nothing_held_out(text):
  objects = read(text)
  counts = collections.Counter()
  for digit, color, count in objects:
    assert color is None or (3 * digit + color) % 5 != 0, text
    counts[digit] += count
  pairs = set(itertools.combinations(sorted(counts), 2))
  assert not pairs & HELD_OUT_DIGITS, text
  assert not set(counts.items()) & HELD_OUT_COUNTS, text


def test_the_parser_of_this_test_parses():
  assert read("a five, two red twos, a four in blue and three pink ones") == [
    *((5, None, 1), (2, 0, 2), (4, 5, 1), (1, 7, 3))
  ]
  for text in (
    "a red five",
    "a two and a three",
    "three ones",
    "a zero in red",
  ):
    with pytest.raises(AssertionError):
      assert_nothing_held_out(text)


@pytest.mark.parametrize("world", [ONE, LARGE])
@pytest.mark.parametrize("split", ["train", "test"])
def test_no_caption_names_a_held_out_composition(world, split):
  found = datasets.text_to_image_pool(world, split, 2500, 0)
  assert found.images.shape == (2500, world.canvas, world.canvas, 3)
  assert found.images.dtype == np.uint8
  assert len(found.captions) == 2500
  for text in found.captions:
    assert_nothing_held_out(text)


def test_no_question_names_a_held_out_pair():
  found = datasets.image_to_text_pool(
    LARGE, "train", 3000, 0, {"is_there_pair": 2, "caption": 1}
  )
  for prompt, text, kind in zip(
    found.prompts, found.texts, found.kinds, strict=True
  ):
    if kind == "caption":
      assert prompt == ""
      assert_nothing_held_out(text)
    else:
      color, digit = re.fullmatch(
        r"Q: is there an? (\w+) (\w+)\? A: ", prompt
      ).groups()
      rule = 3 * DIGIT_WORDS.index(digit) + COLORS.index(color)
      assert rule % 5 != 0 and text in ("yes", "no")


def test_images_show_the_color_the_text_names():
  found = datasets.image_to_text_pool(ONE, "train", 500, 0, {"what_color": 1})
  brightest = found.images.reshape(500, -1, 3).sum(axis=1).argmax(axis=1)
  for channel, color in ((0, "red"), (1, "green"), (2, "blue")):
    rows = [i for i, text in enumerate(found.texts) if text == color]
    assert len(rows) > 30 and (brightest[rows] == channel).all()


@pytest.mark.parametrize("world", [ONE, LARGE])
def test_weights_are_kept_and_answers_balanced(world):
  weights = all_weights(world)
  found = datasets.image_to_text_pool(world, "train", 3000, 1, weights)
  assert len(found.images) == len(found.prompts) == len(found.texts) == 3000
  counts = collections.Counter(found.kinds)
  assert set(counts) == set(weights)
  for kind, count in counts.items():
    # Five standard errors of a draw of 3,000.
    assert abs(count / 3000 - 1 / len(weights)) < 0.035, kind
  answers = collections.defaultdict(collections.Counter)
  for kind, text in zip(found.kinds, found.texts, strict=True):
    answers[kind][text] += 1
  for kind in questions.kinds(world):
    possible = questions.possible_answers(kind, world)
    numbers = [answers[kind][answer] for answer in possible]
    assert max(numbers) - min(numbers) <= 11, kind


def test_captions_to_learn_are_complete():
  found = datasets.image_to_text_pool(ONE, "train", 300, 0, {"caption": 1})
  for text in found.texts:
    kinds = sorted(fact[0] for fact in grammar.caption_facts(text))
    assert kinds == ["digit", "pair"], text


def test_equal_seeds_give_equal_pools_and_others_do_not():
  def draw(seed):
    return datasets.image_to_text_pool(ONE, "train", 50, seed, all_weights(ONE))

  first, again, other = draw(0), draw(0), draw(1)
  np.testing.assert_array_equal(first.images, again.images)
  assert first.texts == again.texts and first.prompts == again.prompts
  assert (first.images != other.images).any()
  captions = datasets.text_to_image_pool(ONE, "train", 50, 0)
  assert (captions.images != first.images).any(axis=(1, 2, 3)).all()


def test_twenty_thousand_records_take_less_than_eight_seconds():
  start = time.process_time()
  datasets.text_to_image_pool(ONE, "train", 20_000, 0)
  middle = time.process_time()
  datasets.image_to_text_pool(ONE, "train", 20_000, 0, all_weights(ONE))
  # Measured 0.7 s each.
  assert middle - start < 8 and time.process_time() - middle < 8


@pytest.mark.parametrize(
  ("weights", "message"),
  [
    ({"caption": 1, "where": 1}, r"kinds \['where'\]"),
    ({"caption": -1, "is_there": 2}, "must be at least 0"),
    ({"caption": float("nan")}, "must be at least 0"),
    ({"caption": 0}, "and one above 0"),
    ({}, "and one above 0"),
  ],
)
def test_bad_weights_are_refused(weights, message):
  with pytest.raises(ValueError, match=message):
    datasets.image_to_text_pool(ONE, "train", 10, 0, weights)


def test_bad_splits_and_sizes_are_refused():
  with pytest.raises(ValueError, match="no split 'val'"):
    datasets.text_to_image_pool(ONE, "val", 10, 0)
  with pytest.raises(ValueError, match="0 text-to-image records"):
    datasets.text_to_image_pool(ONE, "train", 0, 0)


def first_draw(purpose="pools", split="train", size=5, seed=0):
  rng = datasets.generator(purpose, split, size=size, seed=seed)
  return rng.integers(2**60)


def test_purpose_split_and_seed_make_the_draws_and_size_does_not():
  assert first_draw() == first_draw() == first_draw(size=9)
  others = {
    first_draw(),
    first_draw(purpose="others"),
    first_draw(split="test"),
    first_draw(seed=1),
  }
  assert len(others) == 4


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"split": "val"}, "no split 'val'"),
    ({"size": 0}, "0 pools were requested"),
    ({"seed": -1}, "seed is -1"),
  ],
)
def test_bad_addresses_are_refused(change, message):
  with pytest.raises(ValueError, match=message):
    first_draw(**change)


LARGE = WORLDS["scenes_32"]


def asker_of(kind, slack=0):
  rng = np.random.default_rng(0)

  def sample():
    return scenes.sample_scene(
      LARGE, rng, writing=handwriting("train"), held_out=False, kind=kind
    )

  return BalancedAsker(world=LARGE, sample=sample, rng=rng, slack=slack)


@pytest.mark.parametrize("slack", [0, 3])
def test_no_answer_is_further_ahead_than_the_slack(slack):
  asker = asker_of(None, slack)
  answers = []
  for _ in range(82):
    scene, question = asker.draw("how_many_numbers")
    answers.append(question.answer)
    counts = [answers.count(a) for a in ("one", "two", "three", "four")]
    assert max(counts) - min(counts) <= slack + 1
    words = {1: "one", 2: "two", 3: "three", 4: "four"}
    assert question.answer == words[len(scene.objects)]


def test_an_answer_that_never_comes_is_reported():
  asker = asker_of("two")  # these scenes always have two digits
  assert asker.draw("how_many_numbers")[1].answer == "two"
  with pytest.raises(ValueError, match=r"'how_many_numbers'.*\{'two': 1\}"):
    asker.draw("how_many_numbers")


@pytest.mark.parametrize("world", WORLDS.values(), ids=list(WORLDS))
def test_training_prompts_show_seen_compositions_and_others_held_out(world):
  known = {p.text: p.is_held_out for p in prompts.prompts(world)}
  for split in ("train", "validation", "test"):
    pool = datasets.prompt_pool(world, split, 200, 0)
    assert {known[text] for text in pool.captions} == {split != "train"}
    assert len(pool.images) == 200
    counts = collections.Counter(pool.captions).values()
    assert max(counts) - min(counts) <= 1
