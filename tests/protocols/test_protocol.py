"""Official files to items, and outputs to official files, for every row."""

import json

import numpy as np
import pytest

from ddit_jax.errors import InputError
from ddit_jax.experiment.config import SampleConfig
from ddit_jax.pipelines.inputs import sample_config
from ddit_jax.protocols.config import BenchmarksConfig
from ddit_jax.protocols.item import chosen
from ddit_jax.protocols.protocol import (
  PROTOCOLS,
  file_notes,
  hashed_files,
  shown_prompt,
)
from ddit_jax.scoring.benchmarks import BENCHMARKS, score_files
from tests.protocols import official_files

COUNT = 6


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  folder = tmp_path_factory.mktemp("benchmarks")
  official_files.write_all(folder, COUNT)
  return folder


def read(root, name, **changes):
  protocol = PROTOCOLS[name]
  files = BenchmarksConfig(folder=str(root), **changes).paths(name, protocol)
  return protocol, files, protocol.items(files)


TEXTS = [name for name, one in PROTOCOLS.items() if one.kind != "image"]


@pytest.mark.parametrize("num_units", [0, 2])
@pytest.mark.parametrize("name", TEXTS)
def test_perfect_answers_score_as_the_annotators_agree(
  root, tmp_path, name, num_units
):
  protocol, files, items = read(root, name)
  some = chosen(items, num_units)
  outputs = {item.key: item.facts["expected"] for item in some}
  predictions = protocol.write(tmp_path, some, outputs)
  if protocol.subset is not None and num_units:
    files = protocol.subset(files, some, tmp_path)
  part = protocol.parts[""]
  references = [files[role] for role in part.references if role in files]
  scored = score_files(part.scorer, predictions, references)
  headline = BENCHMARKS[part.scorer].headline
  if name == "mme":
    # A subset has no totals; all of it is right.
    assert set(scored.figures["subtasks"].values()) == {200.0}
  else:
    # Nine of ten annotators agree with the answer, POPE's labels are it.
    want = {"pope": 1.0, "coco_captions": None}.get(name, 100.0)
    assert want is None or scored.figures[headline] == want


@pytest.mark.parametrize("name", ["pope", "mme"])
def test_answers_of_a_larger_run_in_the_folder_are_not_scored(
  root, tmp_path, name
):
  protocol, files, items = read(root, name)
  protocol.write(tmp_path, items, dict.fromkeys((i.key for i in items), "no"))
  some = chosen(items, 1)
  outputs = {item.key: item.facts["expected"] for item in some}
  predictions = protocol.write(tmp_path, some, outputs)
  assert len(list(predictions.iterdir())) == 1
  if name == "pope":
    files = protocol.subset(files, some, tmp_path)
    references = [path for role, path in files.items() if role != "images"]
    assert score_files("pope", predictions, references).figures["accuracy"] == 1


@pytest.mark.parametrize("name", ["vqav2", "okvqa", "textvqa", "vizwiz"])
def test_a_split_without_annotations_has_no_references_to_cut(
  root, tmp_path, name
):
  protocol, files, items = read(root, name)
  files = {role: files[role] for role in files if role != "annotations"}
  assert protocol.subset(files, chosen(items, 2), tmp_path) == files
  references = protocol.parts[""].references
  assert "annotations" in protocol.optional and references == ("annotations",)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_item_has_a_key_and_draw_of_its_own(root, name):
  protocol, _, items = read(root, name)
  assert len({item.key for item in items}) == len(items)
  if name == "geneval":
    # The published script starts each prompt with the same seed.
    assert [item.draw for item in items] == [0, 1, 2, 3] * COUNT
  else:
    assert [item.draw for item in items] == list(range(len(items)))
  if protocol.kind == "image":
    assert len({item.path for item in items}) == len(items)
  else:
    assert all(item.image.is_file() for item in items)


def test_images_lie_where_the_tools_look_for_them(root, tmp_path):
  written = {}
  for name, protocol in PROTOCOLS.items():
    if protocol.kind == "image":
      _, _, items = read(root, name)
      for item in items:
        official_files.picture(tmp_path / name / item.path, item.draw)
      protocol.write(tmp_path / name, items)
      written[name] = {
        str(path.relative_to(tmp_path / name))
        for path in (tmp_path / name).rglob("*")
        if path.is_file()
      }
  assert {"00000/metadata.jsonl", "00005/samples/00003.png"} <= (
    written["geneval"]
  )
  metadata = tmp_path / "geneval" / "00001" / "metadata.jsonl"
  assert json.loads(metadata.read_text())["prompt"] == (
    "a picture of a blue two"
  )
  assert (
    "color/samples/a picture of a red two_000000.png"
    in (written["t2i_compbench"])
  )
  assert {"grids/p0.png", "tiles/p0_3.png"} <= written["dpg"]
  assert "animals/id1.png" in written["mjhq"]
  assert "images/000000000005.png" in written["coco30k"]


def test_a_grid_has_its_tiles_in_reading_order(tmp_path):
  from PIL import Image

  items = official_files_items(tmp_path)
  PROTOCOLS["dpg"].write(tmp_path, items)
  grid = np.asarray(Image.open(tmp_path / "grids" / "p0.png"))
  tiles = [np.asarray(Image.open(tmp_path / item.path)) for item in items[:4]]
  np.testing.assert_array_equal(grid[:16, 16:], tiles[1])
  np.testing.assert_array_equal(grid[16:, :16], tiles[2])


def official_files_items(tmp_path):
  official_files.dpg(tmp_path / "files" / "dpg", 1)
  _, _, items = read(tmp_path / "files", "dpg")
  for item in items:
    official_files.picture(tmp_path / item.path, item.draw)
  return items


def test_the_subset_is_that_of_the_release(root):
  _, _, items = read(root, "vqav2")
  order = np.random.RandomState(42).permutation(COUNT)[:3]
  assert [item.key for item in chosen(items, 3)] == [
    str(100 + number) for number in order
  ]
  # The images of a prompt stay together.
  _, _, items = read(root, "geneval")
  assert len(chosen(items, 2)) == 8


def test_prompts_are_those_of_the_published_numbers(root):
  protocol, _, items = read(root, "vizwiz")
  assert shown_prompt(protocol, items[0]) == (
    "Q: what color is the number? Answer the question using a single word or "
    "phrase. Reply unanswerable if information is not present in the image. A: "
  )
  captions = PROTOCOLS["coco_captions"]
  for one, num_steps in ((protocol, 16), (captions, 64)):
    text = sample_config(SampleConfig(), one.sampling).text
    assert (text.order, text.num_steps) == ("ancestral", num_steps)
    assert text.temperature == text.top_p == 1
  geneval = PROTOCOLS["geneval"]
  assert geneval.sampling["image.num_inference_steps"] == 28
  assert geneval.sampling["image.guidance_scale"] == 7.0
  assert geneval.images_per_prompt == 4
  for name, one in PROTOCOLS.items():
    assert one.source, name


def test_files_of_another_size_are_said_to_be_so(root):
  _, files, _ = read(root, "gqa")
  assert file_notes("gqa", files, {}, 6) == [
    "6 items, the published files have 12,578"
  ]
  assert file_notes("gqa", files, {}, 12_578) == []
  _, files, _ = read(root, "geneval")
  (note,) = file_notes("geneval", files, hashed_files(files), 2212)
  assert note.startswith("prompts is not the file of djghosh13/geneval at")


def test_unanswerable_is_recognised_as_in_the_release(root, tmp_path):
  protocol, _, items = read(root, "vizwiz")
  outputs = dict.fromkeys((item.key for item in items), "unanswered, sorry")
  path = protocol.write(tmp_path, items, outputs)
  answers = {row["answer"] for row in json.loads(path.read_text())}
  assert answers == {"unanswerable"}


def test_missing_files_are_named_with_the_way_out(root, tmp_path):
  with pytest.raises(InputError) as caught:
    read(tmp_path, "gqa")
  assert str(caught.value).endswith(
    "put it there, or set --config.benchmarks.files.gqa.questions"
  )
  with pytest.raises(InputError, match="has no 'question': did you mean"):
    read(root, "gqa", files={"gqa": {"question": "x"}})
  with pytest.raises(InputError, match="=nowhere does not exist"):
    read(root, "geneval", files={"geneval": {"detections": "nowhere"}})
  with pytest.raises(ValueError, match="has no benchmark 'gpa': did you mean"):
    BenchmarksConfig(files={"gpa": {"questions": "x"}})


def test_questions_that_lie_elsewhere_have_no_annotations_of_the_folder(root):
  """A test split beside the annotations of another split is not scored."""
  questions = root / "vizwiz" / "val.json"
  _, files, _ = read(
    root, "vizwiz", files={"vizwiz": {"questions": str(questions)}}
  )
  assert set(files) == {"questions", "images"}


@pytest.mark.parametrize("prompt", ["a/b", "x" * 300])
def test_prompts_that_cannot_be_names_are_refused(tmp_path, prompt):
  folder = tmp_path / "t2i_compbench"
  official_files.t2i_compbench(folder, 1)
  official_files.write(folder / "shape_val.txt", prompt + "\n")
  with pytest.raises(InputError, match="cannot be the name of an image file"):
    read(tmp_path, "t2i_compbench")


def test_a_folder_above_is_no_category(tmp_path):
  official_files.mjhq(tmp_path / "mjhq", 1)
  rows = {"id": {"category": "..", "prompt": "a dog"}}
  official_files.write(tmp_path / "mjhq" / "meta_data.json", rows)
  with pytest.raises(InputError, match="cannot be the name of an image file"):
    read(tmp_path, "mjhq")


# Benchmark, its file, and the key of an image's name in it.
_NAMES = [
  ("textvqa", "TextVQA_0.5.1_val.json", "image_id"),
  ("vizwiz", "val.json", "image"),
  ("gqa", "testdev_balanced_questions.json", "imageId"),
  ("pope", "coco_pope_random.json", "image"),
  ("coco_captions", "captions_val2014.json", "file_name"),
]


@pytest.mark.parametrize("image", ["/etc/a", "../a", "a/../../b", ""])
@pytest.mark.parametrize(("name", "file", "key"), _NAMES)
def test_images_lie_in_their_folder(tmp_path, name, file, key, image):
  official_files.MAKERS[name](tmp_path / name, 1)
  path = tmp_path / name / file
  text, found = path.read_text(), f'"{key}": "'
  assert text.count(found) == 1
  before, after = text.split(found)
  path.write_text(f'{before}{found}{image}"{after.partition(chr(34))[2]}')
  if image or name not in ("textvqa", "gqa"):
    with pytest.raises(InputError, match=r"is not a path below .*images|val"):
      read(tmp_path, name)
  else:
    assert read(tmp_path, name)[2][0].image.name == ".jpg"


@pytest.mark.parametrize("answers", [5, None, [1], [{"answer": 1}], [{}]])
def test_answers_of_another_form_are_refused(tmp_path, answers):
  rows = [{"image": "a.jpg", "question": "is it?", "answers": answers}]
  official_files.vizwiz(tmp_path / "vizwiz", 1)
  official_files.write(tmp_path / "vizwiz" / "val.json", rows)
  with pytest.raises(InputError, match=r"val.json, .a.jpg., answer"):
    read(tmp_path, "vizwiz")


@pytest.mark.parametrize("split", [[[]], [{}], ["1"], [1.0], [True]])
def test_a_split_lists_ids(tmp_path, split):
  official_files.coco_captions(tmp_path / "coco_captions", 1)
  path = tmp_path / "coco_captions" / "dataset_coco.json"
  official_files.write(path, split)
  with pytest.raises(InputError, match="list of whole numbers, image ids"):
    read(tmp_path, "coco_captions")
