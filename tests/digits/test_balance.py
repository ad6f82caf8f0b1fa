"""Answers come up equally often whatever the scenes are like."""

import numpy as np
import pytest

from ddit_jax.digits import scenes
from ddit_jax.digits.datasets import BalancedAsker
from ddit_jax.digits.world import WORLDS, handwriting

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
    assert question.answer == words[len(scene.things)]


def test_an_answer_that_never_comes_is_reported():
  asker = asker_of("two")  # these scenes always have two digits
  assert asker.draw("how_many_numbers")[1].answer == "two"
  with pytest.raises(ValueError, match=r"'how_many_numbers'.*\{'two': 1\}"):
    asker.draw("how_many_numbers")
