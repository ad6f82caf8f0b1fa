"""COCO caption files to figures."""

import json

import pytest

from ddit_jax.errors import InputError
from ddit_jax.evaluation import caption_scores
from ddit_jax.scoring.captions import coco_captions

ANNOTATIONS = [
  {"image_id": 2, "caption": "A dog (left) sits."},
  {"image_id": 1, "caption": "Two cats, one mat"},
  {"image_id": 2, "caption": "The dog isn't here"},
  {"image_id": 3, "caption": "A red bus"},
]
RESULTS = [
  {"image_id": 3, "caption": "a red bus!"},
  {"image_id": 1, "caption": "two cats"},
  {"image_id": 2, "caption": "a dog sits"},
]


@pytest.fixture
def score(tmp_path):
  def run(results=RESULTS, annotations=ANNOTATIONS, images=(1, 2, 3)):
    body = {
      "images": [{"id": key} for key in images],
      "annotations": annotations,
    }
    for name, content in (("r.json", results), ("a.json", body)):
      (tmp_path / name).write_text(json.dumps(content))
    return coco_captions(tmp_path / "r.json", [tmp_path / "a.json"])

  return run


def test_captions_are_tokenized_and_in_the_order_of_the_images(score):
  scored = score()
  candidates = ["two cats", "a dog sits", "a red bus"]
  references = [
    ["two cats one mat"],
    ["a dog -lrb- left -rrb- sits", "the dog is n't here"],
    ["a red bus"],
  ]
  expected = caption_scores.cider(candidates, references)
  assert scored.items["cider"].ids == ("1", "2", "3")
  assert scored.items["cider"].scores == tuple(expected)
  assert scored.figures["cider"] == expected.mean()
  assert (
    scored.figures["bleu"]["1"]
    == caption_scores.bleu(candidates, references)[0][0]
  )
  assert scored.notes == ()


def test_images_without_a_caption_are_said(score):
  scored = score(RESULTS[:2])
  assert scored.figures["images"] == 2
  assert "2 of 3 images have a caption" in scored.notes[0]


def test_other_line_separators_are_said(score):
  results = [*RESULTS[:2], {"image_id": 2, "caption": "a\u2028dog"}]
  assert "line separator" in score(results).notes[0]


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"results": [*RESULTS, RESULTS[0]]}, "images are repeated .3.*assertion"),
    (
      {"results": [{"image_id": 9, "caption": ""}]},
      "1 captions are of images that .* .9.*assertion",
    ),
    ({"annotations": ANNOTATIONS[1:2]}, "2 images have no reference"),
    ({"results": [{"image_id": 1}]}, 'has no "caption"'),
    ({"results": {"1": "x"}}, "expected a list, got an object"),
  ],
)
def test_bad_files_are_refused(score, arguments, message):
  with pytest.raises(InputError, match=message):
    score(**arguments)
