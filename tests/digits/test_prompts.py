"""Prompts: the stated numbers, GenEval's layout, and real scenes for each."""

import collections
import json

import numpy as np
import pytest

from ddit_jax.digits import prompts
from ddit_jax.digits.world import (
  COLORS,
  DIGIT_WORDS,
  WORLDS,
  World,
  handwriting,
)

LARGE = WORLDS["scenes_32"]
ALL = prompts.prompts(LARGE)


def test_there_are_365_different_prompts():
  assert collections.Counter(prompt.tag for prompt in ALL) == {
    "single_object": 10,
    "two_object": 45,
    "counting": 30,
    "colors": 80,
    "position": 100,
    "color_attr": 100,
  }
  assert len({prompt.text for prompt in ALL}) == 365
  assert prompts.prompts(WORLDS["scenes_48"]) == ALL


def test_a_one_digit_world_has_only_what_fits():
  found = prompts.prompts(WORLDS["one_digit"])
  tags = collections.Counter(prompt.tag for prompt in found)
  assert tags == {"single_object": 10, "colors": 80}


def test_held_out_numbers():
  held_out = collections.Counter(p.tag for p in ALL if p.is_held_out)
  assert held_out == {
    "two_object": 9,
    "counting": 4,
    "colors": 16,
    "position": 20,
    "color_attr": 40,
  }


def test_relations_come_up_equally_often():
  relations = collections.Counter(
    prompt.include[1]["position"][0]
    for prompt in ALL
    if prompt.tag == "position"
  )
  assert relations == {
    "left of": 25,
    "right of": 25,
    "above": 25,
    "below": 25,
  }


def by_text(text):
  return next(prompt for prompt in ALL if prompt.text == text)


def test_metadata_written_by_hand():
  assert by_text("a picture of an eight").to_metadata() == {
    "tag": "single_object",
    "include": [{"class": "eight", "count": 1}],
    "prompt": "a picture of an eight",
  }
  three = by_text("a picture of three sixes")
  assert three.to_metadata() == {
    "tag": "counting",
    "include": [{"class": "six", "count": 3}],
    "exclude": [{"class": "six", "count": 4}],
    "prompt": "a picture of three sixes",
  }
  orange = by_text("a picture of an orange seven")
  assert orange.include == ({"class": "seven", "count": 1, "color": "orange"},)
  assert not three.is_held_out and not orange.is_held_out
  assert by_text("a picture of two threes").is_held_out
  assert by_text("a picture of a red five").is_held_out


def test_a_position_lists_the_reference_first():
  for prompt in ALL:
    if prompt.tag == "position":
      reference, what = prompt.include
      relation, index = what["position"]
      assert index == 0
      words = prompt.text.split()
      assert words[4] == what["class"] and words[-1] == reference["class"]
      assert f" {relation} " in prompt.text


def test_metadata_survives_json():
  for prompt in ALL:
    metadata = prompt.to_metadata()
    assert json.loads(json.dumps(metadata)) == metadata


@pytest.mark.parametrize("prompt", ALL[::7], ids=lambda prompt: prompt.text)
def test_a_real_scene_keeps_its_prompt(prompt):
  rng = np.random.default_rng(0)
  writing = handwriting("test")
  scene = prompts.scene_for(prompt, LARGE, rng, writing=writing)
  assert len(scene.objects) == sum(c["count"] for c in prompt.include)
  for clause in prompt.include:
    objects = [
      obj
      for obj in scene.objects
      if DIGIT_WORDS[obj.digit] == clause["class"]
      and clause.get("color", COLORS[obj.color]) == COLORS[obj.color]
    ]
    assert len(objects) == clause["count"]
    if "position" in clause:
      reference = next(t for t in scene.objects if t is not objects[0])
      relation = objects[0].relation_to(reference)
      assert relation == clause["position"][0]


def test_a_world_of_three_objects_has_no_prompts():
  world = World(canvas=32, digit_size=10, max_objects=3)
  with pytest.raises(ValueError, match="set max_objects to 1 or 4"):
    prompts.prompts(world)
