"""MME's parsing and points."""

import pytest

from ddit_jax.evaluation.mme import (
  Line,
  image_pairs,
  image_scores,
  parse,
  score,
)


@pytest.mark.parametrize(
  ("response", "said"),
  [
    ("Yes", "yes"),
    ("NO", "no"),
    ("eyes", "yes"),
    ("know", "no"),
    ("now", "no"),
    ("not", "no"),
    ("snow", "no"),
    ("yes, no", "yes"),
    (" the no", "other"),
    ("I think yes", "other"),
    ("", "other"),
  ],
)
def test_only_the_first_four_characters_are_read(response, said):
  assert parse(response) == said
  assert parse(response + "\n") == said


def lines(*responses):
  return [
    Line(image=str(number // 2), label="yes", response=response)
    for number, response in enumerate(responses)
  ]


def test_points_are_accuracy_plus_images_with_both_right():
  pairs = image_pairs(lines("yes", "yes", "yes", "no", "maybe", "no"))
  # 3 of 6 questions and 1 of 3 images are right.
  assert score(pairs) == pytest.approx(50 + 100 / 3)
  points = [one for _, one in image_scores(pairs)]
  assert points == [200, 50, 0]
  assert sum(points) / 3 == pytest.approx(score(pairs))


def test_pairs_need_two_lines_of_one_image():
  with pytest.raises(ValueError, match="1 lines: each image has two"):
    image_pairs(lines("yes"))
  with pytest.raises(ValueError, match="of one image"):
    image_pairs(lines("yes", "yes", "no", "no")[1:3])
