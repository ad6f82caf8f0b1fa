"""Rewards on outputs whose worth is plain."""

import sys
import types

import numpy as np
import pytest

from ddit_jax.digits.datasets import prompt_pool
from ddit_jax.digits.world import WORLDS
from ddit_jax.errors import InputError
from ddit_jax.losses.espo import Espo
from ddit_jax.post_training.config import (
  ImagePolicy,
  PostTraining,
  TextPolicy,
)
from ddit_jax.post_training.rewards import (
  IMAGE_REWARDS,
  TEXT_REWARDS,
  Outputs,
  open_reward,
  score,
)
from ddit_jax.sampling.text_options import TextSampling


def espo(**options) -> TextPolicy:
  rewarded = {"method": "espo", "rewards": ("exact_match",)}
  return TextPolicy(**rewarded, espo=Espo(**options))


BLANK = np.zeros((3, 16, 16, 3), np.uint8)


def texts(*pairs):
  given, wanted = map(list, zip(*pairs, strict=True))
  return Outputs(
    prompts=["Q: ? A:"] * len(pairs),
    images=BLANK[: len(pairs)],
    texts=given,
    references=wanted,
  )


def drawn(images, prompts):
  return Outputs(
    prompts=list(prompts),
    images=images,
    texts=[""] * len(images),
    references=list(prompts),
  )


@pytest.mark.parametrize(
  "world", ["one_digit", pytest.param("scenes_32", marks=pytest.mark.slow)]
)
def test_the_digit_checker_knows_real_scenes_from_blank_ones(world):
  pool = prompt_pool(WORLDS[world], "train", 120, 0)
  real = IMAGE_REWARDS["digits"](drawn(pool.images, pool.captions))
  # The judge's own score of real scenes is below 1 (docs/digits.md).
  assert np.mean(real) > 0.8
  blank = drawn(np.zeros_like(pool.images), pool.captions)
  assert not any(IMAGE_REWARDS["digits"](blank))


def test_the_digit_checker_refuses_what_it_cannot_check():
  with pytest.raises(InputError, match="knows no prompt 'a cat'"):
    open_reward("digits", IMAGE_REWARDS)(drawn(BLANK[:1], ["a cat"]))
  with pytest.raises(InputError, match="not of 8 pixels"):
    open_reward("digits", IMAGE_REWARDS)(drawn(BLANK[:, :8, :8], ["a"] * 3))


def test_answers_are_matched_exactly_and_softly():
  outputs = texts(("Yes", "yes"), ("a red seven", "red eight"), ("", "no"))
  assert TEXT_REWARDS["exact_match"](outputs) == [1, 0, 0]
  assert TEXT_REWARDS["soft_match"](outputs) == pytest.approx([1, 0.5, 0])
  assert TEXT_REWARDS["answer_format"](outputs) == [1, 1, 0]


def test_captions_are_scored_by_their_facts():
  outputs = texts(
    ("a red seven", "a picture of a red seven"),
    ("a red seven", "a blue seven"),
    ("cats", "a red seven"),
  )
  right, half, wrong = TEXT_REWARDS["caption_facts"](outputs)
  assert right == 1 and 0 < half < 1 and wrong == 0


def test_noise_is_larger_as_a_file_than_nothing():
  noise = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), np.uint8)
  images = np.concatenate([BLANK[:1], noise])
  small, large = IMAGE_REWARDS["image_kilobytes"](drawn(images, ["", ""]))
  assert 0 < small < large


def test_own_rewards_are_opened_by_name_and_checked(monkeypatch, tmp_path):
  module = types.ModuleType("my_rewards")
  module.length = lambda outputs: [len(text) for text in outputs.texts]
  module.words = lambda outputs: outputs.texts
  module.seven = 7
  module.broken = lambda outputs: [float("nan")] * len(outputs.texts)
  monkeypatch.setitem(sys.modules, "my_rewards", module)
  opened = {
    name: open_reward(f"my_rewards:{name}", TEXT_REWARDS)
    for name in vars(module)
    if name in ("length", "broken", "words")
  }
  outputs = texts(("no", "yes"), ("seven", "six"))
  values, seconds = score({"length": opened["length"]}, outputs)
  np.testing.assert_array_equal(values, [[2], [5]])
  assert seconds["length"] >= 0
  with pytest.raises(InputError, match="'broken' gave"):
    score({"broken": opened["broken"]}, outputs)
  with pytest.raises(InputError, match="'words' gave no numbers"):
    score({"words": opened["words"]}, outputs)
  (tmp_path / "half_written.py").write_text("def f(:")
  monkeypatch.syspath_prepend(tmp_path)
  refused = ("my_rewards:nothing", "my_rewards:seven", "no_such_module_here:f")
  refused += ("half_written:f",)
  for name in (*refused, ":f", ".x:f", "digit", "exact_match"):
    with pytest.raises(InputError, match=name):
      open_reward(name, IMAGE_REWARDS)


def test_a_modality_with_a_method_needs_rewards_that_can_be_compared():
  with pytest.raises(ValueError, match="needs rewards"):
    ImagePolicy(method="nft")
  with pytest.raises(ValueError, match="one twice"):
    ImagePolicy(rewards=("digits",), measured=("digits",))
  with pytest.raises(ValueError, match="at least 2 draws"):
    ImagePolicy(group_size=1)
  with pytest.raises(ValueError, match="give one each"):
    ImagePolicy(rewards=("digits",), reward_weights=(1.0, 2.0))
  with pytest.raises(ValueError, match="the method '' trains on none"):
    ImagePolicy(rewards=("digits",))
  with pytest.raises(ValueError, match="method is ''"):
    ImagePolicy(measured=("digits",))
  found = ImagePolicy(
    method="nft", rewards=("digits",), measured=("image_kilobytes",)
  )
  assert found.weights == (1.0, 0.0)
  assert list(found.open()) == ["digits", "image_kilobytes"]


def test_texts_are_drawn_so_that_they_can_differ_and_unguided():
  rewarded = {"method": "espo", "rewards": ("exact_match",)}
  for sampling in (
    TextSampling(preset="fast"),
    TextSampling(order="confidence", temperature=0.0),
  ):
    with pytest.raises(ValueError, match="the same text"):
      TextPolicy(**rewarded, sampling=sampling)
    TextPolicy(method="vrpo_pairs", sampling=sampling)
  TextPolicy(**rewarded, sampling=TextSampling(temperature=0.0))
  with pytest.raises(ValueError, match="guidance_scale is 2"):
    TextPolicy(**rewarded, sampling=TextSampling(guidance_scale=2.0))


def test_a_run_on_pairs_may_measure_but_cannot_wait_for_a_reward_to_rise():
  measured = ImagePolicy(method="dpo", measured=("digits",))
  assert measured.weights == (0.0,)
  with pytest.raises(ValueError, match="max_falls_in_row is 1"):
    PostTraining(text_to_image=measured, max_falls_in_row=1)


@pytest.mark.parametrize(
  ("part", "is_needed"),
  [
    ({"text_to_image": ImagePolicy(method="dpo")}, True),
    ({"image_to_text": TextPolicy(method="vrpo_pairs")}, True),
    ({"image_to_text": espo(kl_weight=1.0)}, True),
    ({"image_to_text": espo(kl_weight=0.0)}, False),
    ({}, False),
  ],
)
def test_a_reference_without_weight_is_not_kept(part, is_needed):
  assert PostTraining(**part).needs_reference == is_needed
