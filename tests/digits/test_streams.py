"""Generators with an address."""

import pytest

from ddit_jax.digits import datasets


def first_draw(purpose="pools", split="train", size=5, seed=0):
  rng = datasets.generator(purpose, split, size=size, seed=seed)
  return rng.integers(2**60)


def test_purpose_split_and_seed_make_the_draws_and_size_does_not():
  assert first_draw() == first_draw() == first_draw(size=9)
  others = {
    first_draw(),
    first_draw(purpose="exams"),
    first_draw(split="test"),
    first_draw(seed=1),
  }
  assert len(others) == 4


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"split": "val"}, "no split 'val'"),
    ({"size": 0}, "0 pools were asked for"),
    ({"seed": -1}, "seed is -1"),
  ],
)
def test_bad_addresses_are_refused(change, message):
  with pytest.raises(ValueError, match=message):
    first_draw(**change)
