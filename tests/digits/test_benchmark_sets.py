"""MME's pairs and GQA's entailments, on scenes."""

import collections

import pytest

from ddit_jax.digits import benchmark_sets, grammar
from ddit_jax.digits.world import COLORS, DIGIT_WORDS, WORLDS, is_held_out_pair

ONE, LARGE = WORLDS["one_digit"], WORLDS["scenes_32"]


@pytest.mark.parametrize("world", [ONE, LARGE])
def test_an_image_of_mme_has_both_answers(world):
  of_subtask = benchmark_sets.mme_items(world, "test", 13, 0)
  want = {"existence", "color"} | ({"position"} if world is LARGE else set())
  assert set(of_subtask) == want
  words = set(grammar.words())
  for items in of_subtask.values():
    for yes, no in zip(items[::2], items[1::2], strict=True):
      assert yes.scene is no.scene
      assert (yes.question.answer, no.question.answer) == ("yes", "no")
      # A checkpoint's tokenizer knows no other words.
      asked = f"{yes.question.text} {no.question.text}".replace("?", " ?")
      assert set(asked.split()) <= words | {"?"}
    assert [item.is_held_out for item in items[::2]].count(True) == 6


@pytest.mark.parametrize("world", [ONE, LARGE])
def test_what_an_answer_entails_is_true(world):
  items = benchmark_sets.gqa_items(world, "test", 15, 0)
  counts = collections.Counter()
  for item in items:
    digits = {obj.digit for obj in item.scene.objects}
    pairs = {(obj.digit, obj.color) for obj in item.scene.objects}
    text = item.question.text.removesuffix("?").split()
    if item.question.kind == "is_there":
      is_true = DIGIT_WORDS.index(text[-1]) in digits
    elif item.question.kind == "is_there_pair":
      pair = DIGIT_WORDS.index(text[-1]), COLORS.index(text[-2])
      is_true = pair in pairs
      assert item.is_held_out or not is_held_out_pair(*pair)
    else:
      continue
    assert item.question.answer == ("yes" if is_true else "no")
  for item in items:
    for place in item.entailed:
      follows = items[place]
      assert follows.scene is item.scene
      counts[item.question.kind, follows.question.kind] += 1
      if item.question.kind == "what_color":
        assert follows.question.answer == "yes"
        if follows.question.kind == "is_there_pair":
          assert f" {item.question.answer} " in follows.question.text
  assert counts == {
    ("is_there_pair", "is_there"): 15,
    ("what_number", "is_there_pair"): 15,
    ("what_number", "is_there"): 15,
    ("what_color", "is_there_pair"): 15,
    ("what_color", "is_there"): 15,
    ("is_there", "is_there_pair"): 15,
  }
