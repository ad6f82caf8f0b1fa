"""GenEval from detections, and from verdicts."""

import json

import pytest

from ddit_jax.errors import InputError
from ddit_jax.scoring.geneval import geneval_files

PROMPTS = [
  {"tag": "single_object", "include": [{"class": "cat", "count": 1}]},
  {
    "tag": "position",
    "include": [
      {"class": "dog", "count": 1},
      {"class": "cat", "count": 1, "position": ["left of", 0]},
    ],
  },
]
CAT, DOG = [0, 0, 10, 10, 0.9, None], [50, 0, 60, 10, 0.9, "red"]
IMAGES = [
  {"filename": "00000/samples/0000.png", "detections": {"cat": [CAT]}},
  {"filename": "00000/samples/0001.png", "detections": {"dog": [DOG]}},
  {
    "filename": "00001/samples/0000.png",
    "detections": {"cat": [CAT], "dog": [DOG]},
  },
]


def write_lines(path, records):
  path.write_text("\n".join(json.dumps(record) for record in records))
  return path


@pytest.fixture
def score(tmp_path):
  def run(images=IMAGES, prompts=PROMPTS):
    return geneval_files(
      write_lines(tmp_path / "d.jsonl", images),
      [write_lines(tmp_path / "m.jsonl", prompts)],
    )

  return run


def test_detections_are_judged_by_their_prompt(score):
  scored = score()
  assert scored.figures == {
    "overall": 0.75,  # the mean of the tasks, not of the images
    "tasks": {"single_object": 0.5, "position": 1.0},
    "images": pytest.approx(2 / 3),
    "prompts": 1.0,
    "num_images": 3,
    "num_prompts": 2,
  }
  assert scored.items["overall"].scores == (1, 0, 1)
  assert "2 prompts have not 4 images (0, 1)" in scored.notes[-1]
  assert "without" in scored.notes[0]


def test_some_prompts_have_their_numbers(score):
  """The metadata of a subset: the second prompt alone."""
  scored = score(IMAGES[2:], [PROMPTS[1] | {"number": 1}])
  assert scored.figures["overall"] == 1 and scored.figures["num_prompts"] == 1
  with pytest.raises(InputError, match="a prompt of 1 to 1"):
    score(IMAGES, [PROMPTS[1] | {"number": 1}])
  with pytest.raises(InputError, match="several prompts the same number"):
    score(prompts=[PROMPTS[0], PROMPTS[1] | {"number": 0}])


def test_verdicts_of_the_published_evaluator(tmp_path):
  lines = [
    {"filename": "a", "tag": "colors", "correct": True, "metadata": "{}"},
    {"filename": "b", "tag": "colors", "correct": False, "metadata": "{}"},
  ]
  scored = geneval_files(write_lines(tmp_path / "r.jsonl", lines), [])
  assert scored.figures["overall"] == 0.5
  assert scored.figures["num_prompts"] == 1
  lines[0]["correct"] = "yes"
  with pytest.raises(InputError, match="must be true or false, got 'yes'"):
    geneval_files(write_lines(tmp_path / "r.jsonl", lines), [])
  del lines[0]["correct"]
  with pytest.raises(InputError, match="some lines have a verdict"):
    geneval_files(write_lines(tmp_path / "r.jsonl", lines), [])


def test_detections_need_the_metadata(tmp_path):
  with pytest.raises(InputError, match="give it"):
    geneval_files(write_lines(tmp_path / "d.jsonl", IMAGES), [])


@pytest.mark.parametrize(
  ("box", "message"),
  [
    ([0, 0, 1, 1], "a box is"),
    ([0, 0, 1, "1", 0.9], "a box is"),
    ([0, 0, 1, float("nan"), 0.9], "a box is"),
    ([0, 0, 1, 1, 0.9, 3], "a box is"),
    (3, "a box is"),
  ],
)
def test_bad_boxes_are_refused(score, box, message):
  with pytest.raises(InputError, match=message):
    score([IMAGES[0] | {"detections": {"cat": [box]}}])


@pytest.mark.parametrize(
  ("images", "message"),
  [
    (IMAGES[:2], "1 of 2 prompts have no image .1"),
    ([IMAGES[0]] * 2, "files are repeated"),
    ([IMAGES[0] | {"filename": "2/samples/0.png"}], "a prompt of 0 to 1"),
    ([IMAGES[0] | {"filename": "0.png"}], "NUMBER/samples/NUMBER.png"),
    ([{"filename": "x"}], 'no "detections"'),
  ],
)
def test_bad_images_are_refused(score, images, message):
  with pytest.raises(InputError, match=message):
    score(images)


@pytest.mark.parametrize(
  ("clause", "message"),
  [
    ({"class": "cat"}, 'no "count"'),
    ({"class": "cat", "count": 1, "position": ["near", 0]}, "position must be"),
    (
      {"class": "cat", "count": 1, "position": ["above", 0]},
      "position must be",
    ),
  ],
)
def test_bad_prompts_are_refused(score, clause, message):
  with pytest.raises(InputError, match=message):
    score(prompts=[{"tag": "colors", "include": [clause]}])
