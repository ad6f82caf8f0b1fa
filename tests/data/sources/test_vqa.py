"""The official files of five question sets are read as they are published."""

import json

import pytest

from ddit_jax.data.example import BadRecord, Example, instruction_of
from ddit_jax.data.prepare.prepare import PrepareOptions, prepare
from ddit_jax.data.sources.array_record import open_array_record
from ddit_jax.data.sources.vqa import (
  open_gqa,
  open_okvqa,
  open_pope,
  open_textvqa,
  open_vizwiz,
  open_vqav2,
)

SHORT = "Answer the question using a single word or phrase."
TEN = ["yes"] * 7 + ["no"] * 3


@pytest.fixture
def images(tmp_path):
  """Every image holds its own name."""
  folder = tmp_path / "images"
  folder.mkdir()
  for name in (
    "COCO_train2014_000000458752.jpg",
    "000000458752.jpg",
    "0054c91397f2fe05.jpg",
    "VizWiz_train_00000000.jpg",
    "n161313.jpg",
    "2354786.jpg",
  ):
    (folder / name).write_text(name)
  return folder


def write(folder, name, body) -> str:
  (folder / name).write_text(json.dumps(body))
  return str(folder / name)


def coco_files(folder, questions=None, annotations=None) -> dict:
  """A questions and an annotations file in the VQA v2.0 layout."""
  question = {
    "image_id": 458752,
    "question": "Is it raining?",
    "question_id": 458752000,
  }
  answers = [
    {
      "answer": answer,
      "raw_answer": f"{answer}, raw",
      "answer_confidence": "yes",
      "answer_id": number + 1,
    }
    for number, answer in enumerate(TEN)
  ]
  annotation = {
    "question_type": "is it",
    "multiple_choice_answer": "yes",
    "answers": answers,
    "image_id": 458752,
    "answer_type": "yes/no",
    "question_id": 458752000,
  }
  return {
    "questions": write(
      folder,
      "questions.json",
      {
        "info": {},
        "task_type": "Open-Ended",
        "data_type": "mscoco",
        "license": {},
        "data_subtype": "train2014",
        "questions": [question] if questions is None else questions(question),
      },
    ),
    "annotations": write(
      folder,
      "annotations.json",
      {
        "info": {},
        "data_subtype": "train2014",
        "annotations": [annotation]
        if annotations is None
        else annotations(annotation),
      },
    ),
  }


def test_vqa_v2_joins_questions_and_answers(images, tmp_path):
  source = open_vqav2("vqa", **coco_files(tmp_path), images=str(images))
  assert len(source) == 1 and source.removed == {}
  assert source[0] == Example(
    record_id="vqa:458752000",
    image=b"COCO_train2014_000000458752.jpg",
    prompt=f"Q: Is it raining? {SHORT} A: ",
    texts=tuple(TEN),
  )


def test_patterns_and_instructions_can_be_chosen(images, tmp_path):
  source = open_vqav2(
    "vqa",
    **coco_files(tmp_path),
    images=str(images),
    image_pattern="{image_id:012d}.jpg",
    instruction="",
  )
  assert source[0].image == b"000000458752.jpg"
  assert source[0].prompt == "Q: Is it raining? A: "


def test_the_instruction_is_remembered_also_by_prepared_shards(
  images, tmp_path
):
  files = coco_files(tmp_path) | {"images": str(images)}
  assert instruction_of(open_okvqa("ok", **files)) == SHORT
  assert instruction_of(open_vqav2("vqa", **files, instruction="")) == ""
  source = open_vqav2("vqa", **files, instruction="Be short.")
  prepare(source, tmp_path / "shards", PrepareOptions())
  shards = open_array_record("vqa", path=str(tmp_path / "shards"))
  assert instruction_of(shards) == instruction_of(source) == "Be short."
  assert shards[0].prompt == "Q: Is it raining? Be short. A: "


def test_okvqa_has_stemmed_and_raw_answers(images, tmp_path):
  files = coco_files(tmp_path) | {"images": str(images)}
  assert open_okvqa("ok", **files)[0].texts == tuple(TEN)
  raw = open_okvqa("ok", **files, answer_key="raw_answer")[0]
  assert raw.texts == tuple(f"{answer}, raw" for answer in TEN)
  with pytest.raises(
    ValueError, match=r"answer_key must be one of .*not 'all'"
  ):
    open_okvqa("ok", **files, answer_key="all")


def test_textvqa_is_read(images, tmp_path):
  entry = {
    "question": "what is the brand of this camera?",
    "image_id": "0054c91397f2fe05",
    "image_classes": ["Cassette deck"],
    "flickr_original_url": "https://example.org/a.jpg",
    "image_width": 1024,
    "image_height": 730,
    "answers": ["nous les gosses", "dakota", *["clos culombu"] * 8],
    "question_tokens": ["what", "is"],
    "question_id": 34602,
    "set_name": "train",
  }
  header = {"dataset_type": "train", "dataset_name": "textvqa"}
  path = write(tmp_path, "TextVQA_0.5.1_train.json", header | {"data": [entry]})
  source = open_textvqa("text", path=path, images=str(images))
  assert source[0] == Example(
    record_id="text:34602",
    image=b"0054c91397f2fe05.jpg",
    prompt=f"Q: what is the brand of this camera? {SHORT} A: ",
    texts=tuple(entry["answers"]),
  )


def test_vizwiz_may_be_unanswerable(images, tmp_path):
  answers = ["unanswerable"] * 8 + ["blank screen", "cannot repair"]
  entry = {
    "image": "VizWiz_train_00000000.jpg",
    "question": "What is this?",
    "answers": [{"answer": a, "answer_confidence": "yes"} for a in answers],
    "answer_type": "unanswerable",
    "answerable": 0,
  }
  path = write(tmp_path, "train.json", [entry])
  source = open_vizwiz("viz", path=path, images=str(images))
  assert source[0] == Example(
    record_id="viz:VizWiz_train_00000000.jpg",
    image=b"VizWiz_train_00000000.jpg",
    prompt=(
      f"Q: What is this? {SHORT} Reply unanswerable if information is not "
      "present in the image. A: "
    ),
    texts=tuple(answers),
  )


def gqa_question(image, question, answer) -> dict:
  return {
    "semantic": [{"operation": "select", "dependencies": [], "argument": "x"}],
    "entailed": [],
    "equivalent": [],
    "question": question,
    "imageId": image,
    "isBalanced": True,
    "groups": {"global": None, "local": "x"},
    "answer": answer,
    "semanticStr": "",
    "annotations": {"answer": {}, "question": {}, "fullAnswer": {}},
    "types": {"detailed": "x", "semantic": "rel", "structural": "query"},
    "fullAnswer": f"It is {answer}.",
  }


def test_gqa_is_read_from_one_file_or_a_folder(images, tmp_path):
  folder = tmp_path / "train_all_questions"
  folder.mkdir()
  first = {"02930152": gqa_question("2354786", "Is it dark?", "yes")}
  second = {"07333408": gqa_question("n161313", "What is it?", "cow")}
  path = write(folder, "train_all_questions_0.json", first)
  write(folder, "train_all_questions_1.json", second)
  assert len(open_gqa("gqa", path=path, images=str(images))) == 1
  source = open_gqa("gqa", path=str(folder), images=str(images))
  assert [source[i] for i in range(len(source))] == [
    Example(
      record_id="gqa:02930152",
      image=b"2354786.jpg",
      prompt=f"Q: Is it dark? {SHORT} A: ",
      texts=("yes",),
    ),
    Example(
      record_id="gqa:07333408",
      image=b"n161313.jpg",
      prompt=f"Q: What is it? {SHORT} A: ",
      texts=("cow",),
    ),
  ]


@pytest.mark.parametrize(
  ("change", "removed"),
  [
    ({"question_id": 7}, {"no_answer": 1}),
    ({"question_id": None}, {"bad_json": 1}),
    ({"question_id": [7]}, {"bad_json": 1}),
    ({}, {"duplicate_id": 1}),
    ({"question_id": 8, "image_id": "x"}, {"bad_json": 1}),
    ({"question_id": 8, "image_id": True}, {"bad_json": 1}),
    ({"question_id": 8, "question": ""}, {"empty_text": 1}),
    (None, {"bad_json": 1}),
  ],
)
def test_questions_that_cannot_be_used_are_counted(
  change, removed, images, tmp_path
):
  def questions(question):
    return [question, None if change is None else question | change]

  def annotations(annotation):
    more = (
      [annotation | {"question_id": 8}] if 8 in (change or {}).values() else []
    )
    return [annotation, *more]

  files = coco_files(tmp_path, questions, annotations)
  source = open_vqav2("vqa", **files, images=str(images))
  assert source.removed == removed and len(source) == 1


@pytest.mark.parametrize(
  ("change", "removed"),
  [
    ({"question_id": 7}, {"no_question": 1}),
    ({"question_id": None}, {"bad_json": 1}),
    ({}, {"duplicate_id": 1}),
    (None, {"bad_json": 1}),
  ],
)
def test_annotations_that_cannot_be_used_are_counted(
  change, removed, images, tmp_path
):
  def annotations(annotation):
    return [annotation, None if change is None else annotation | change]

  files = coco_files(tmp_path, annotations=annotations)
  source = open_vqav2("vqa", **files, images=str(images))
  assert source.removed == removed and len(source) == 1


@pytest.mark.parametrize("answers", [None, "yes", [7], [{"answer": 7}]])
def test_answers_of_another_form_are_counted(answers, images, tmp_path):
  def questions(question):
    return [question, question | {"question_id": 8}]

  def annotations(annotation):
    return [annotation, annotation | {"question_id": 8, "answers": answers}]

  files = coco_files(tmp_path, questions, annotations)
  source = open_vqav2("vqa", **files, images=str(images))
  assert source.removed == {"bad_text": 1} and len(source) == 1


def test_ids_that_lead_out_of_the_folder_are_counted(images, tmp_path):
  questions = {
    "1": gqa_question("n161313", "What is it?", "cow"),
    "2": gqa_question("../secret", "What is it?", "cow"),
    "3": gqa_question("/etc/passwd", "What is it?", "cow"),
    "4": 7,
  }
  path = write(tmp_path, "q.json", questions)
  source = open_gqa("gqa", path=path, images=str(images))
  assert source.removed == {"unsafe_path": 2, "bad_json": 1}


@pytest.mark.parametrize(
  "pattern",
  ["{id}.jpg", "{0}.jpg", "{image_id", "{image_id.x}", "{image_id:q}"],
)
def test_wrong_patterns_are_refused(pattern, images, tmp_path):
  files = coco_files(tmp_path) | {"images": str(images)}
  with pytest.raises(ValueError, match=r"image_pattern .* must be like 'COCO_"):
    open_vqav2("vqa", **files, image_pattern=pattern)


def test_files_of_another_layout_are_refused(images, tmp_path):
  files = coco_files(tmp_path) | {"images": str(images)}
  as_list = write(tmp_path, "list.json", [])
  as_object = write(tmp_path, "object.json", {"data": 7})
  for function, options, message in (
    (open_vqav2, files | {"questions": as_list}, "object, as the official"),
    (open_vqav2, files | {"questions": as_object}, "lacks the list"),
    (open_vqav2, files | {"annotations": as_object}, "lacks the list"),
    (open_vqav2, files | {"annotations": "none"}, "annotations must be a file"),
    (open_vqav2, files | {"images": "none"}, "images must be a folder"),
    (open_textvqa, {"path": as_object}, "lacks the list"),
    (open_vizwiz, {"path": as_object}, "must hold a JSON list"),
    (open_gqa, {"path": as_list}, "must hold a JSON object"),
    (open_vizwiz, {"path": as_list}, "no record can be used"),
  ):
    with pytest.raises(ValueError, match=message):
      function("set", **{"images": str(images)} | options)


def opened_by_each(images, tmp_path, **options):
  """A source of one image by each of the five openers."""
  coco = coco_files(tmp_path)
  shared = {"images": str(images), **options}
  asked = {"question": "Wet?", "question_id": 1, "image_id": "0054c91397f2fe05"}
  textvqa = {"data": [asked | {"answers": TEN}]}
  vizwiz = [
    {
      "image": "VizWiz_train_00000000.jpg",
      "question": "Wet?",
      "answers": [{"answer": "no"}],
    }
  ]
  gqa = {"7": {"imageId": "2354786", "question": "Wet?", "answer": "no"}}
  return {
    "vqav2": open_vqav2("s", **coco, **shared),
    "okvqa": open_okvqa("s", **coco, **shared),
    "textvqa": open_textvqa(
      "s", path=write(tmp_path, "t.json", textvqa), **shared
    ),
    "vizwiz": open_vizwiz(
      "s", path=write(tmp_path, "v.json", vizwiz), **shared
    ),
    "gqa": open_gqa("s", path=write(tmp_path, "g.json", gqa), **shared),
  }


def test_linked_images_are_read_where_that_is_asked_for(images, tmp_path):
  linked = tmp_path / "links"
  linked.mkdir()
  for path in images.iterdir():
    (linked / path.name).symlink_to(path)
  for source in opened_by_each(linked, tmp_path).values():
    with pytest.raises(BadRecord, match="which follow_links allows"):
      source[0]
  followed = opened_by_each(linked, tmp_path, follow_links=True)
  plain = opened_by_each(images, tmp_path)
  for kind, source in followed.items():
    assert source[0] == plain[kind][0]


def test_ids_may_be_texts(images, tmp_path):
  """Other tools write numbers as texts, in one of the two files or in both."""
  files = coco_files(
    tmp_path,
    questions=lambda q: [
      q | {"image_id": "458752", "question_id": "458752000"},
      q | {"image_id": "train_7", "question_id": 7},
    ],
    annotations=lambda a: [a, a | {"question_id": "7"}],
  )
  source = open_vqav2("vqa", **files, images=str(images))
  assert source[0].image == b"COCO_train2014_000000458752.jpg"
  assert source.removed == {"bad_json": 1}
  assert source.faults[0].detail == (
    "image_pattern 'COCO_{subset}_{image_id:012d}.jpg' does not fit image "
    "'train_7'"
  )


def test_pope_is_read(images, tmp_path):
  lines = [
    {
      "question_id": 1,
      "image": "n161313.jpg",
      "text": "A cow?",
      "label": "yes",
    },
    {"question_id": 2, "image": "n161313.jpg", "text": "A cat?", "label": "no"},
    {"question_id": 3, "image": "n161313.jpg", "text": "A hat?"},
  ]
  path = tmp_path / "coco_pope_random.json"
  path.write_text("".join(json.dumps(line) + "\n" for line in lines))
  source = open_pope("pope", path=str(path), images=str(images))
  assert [source[i] for i in range(len(source))] == [
    Example(
      record_id=f"pope:{line['question_id']}",
      image=b"n161313.jpg",
      prompt=f"Q: {line['text']} {SHORT} A: ",
      texts=(line["label"],),
    )
    for line in lines[:2]
  ]
  assert source.removed == {"bad_text": 1}
