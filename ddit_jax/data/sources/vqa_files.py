"""VQA v2, OK-VQA, TextVQA, VizWiz and GQA, from their official files."""

import pathlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from ddit_jax.data.sources import entry_files, file_lists
from ddit_jax.data.sources.file_lists import PathSpec
from ddit_jax.data.sources.file_source import FileSource
from ddit_jax.data.sources.question_prompts import (
  MAY_BE_UNANSWERABLE,
  SHORT_ANSWER,
)
from ddit_jax.data.sources.question_rows import QuestionRows
from ddit_jax.data.sources.safe_files import SafeFolder, images_folder

COCO_PATTERN = "COCO_{subset}_{image_id:012d}.jpg"
ID_PATTERN = "{image_id}.jpg"
OKVQA_ANSWERS = ("answer", "raw_answer")


class _Asked(NamedTuple):
  """One question as a file has it; fields may be of any type."""

  question_id: Any
  question: Any
  answers: Any
  image_id: Any
  subset: str = ""


# A question, or the reason why there is none.
_AllAsked = Iterable[_Asked | str]


def open_vqav2(
  name: str,
  *,
  questions: str,
  annotations: str,
  images: str,
  image_pattern: str = COCO_PATTERN,
  instruction: str = SHORT_ANSWER,
  follow_links: bool = False,
) -> FileSource:
  """Opens VQA v2: v2_OpenEnded_mscoco_*_questions.json and its annotations.

  Left out and counted, besides what cannot be used: "no_answer" (a question
  without annotation) and "no_question" (an annotation without question).

  Args:
    name: as the config calls it.
    questions: official questions file.
    annotations: official annotations file, with ten answers a question.
    images: folder of the split's images.
    image_pattern: an image's file below it; {subset} is the questions file's
      data_subtype, e.g. train2014.
    instruction: stands between question and "A:"; "" for none.
    follow_links: True reads images through links that leave the folder.

  Raises:
    ValueError: a file is missing or of another layout, the pattern is wrong,
      or no question can be used.
  """
  asked = _coco(questions, annotations, answer_key="answer")
  folder = images_folder(images, follow_links=follow_links)
  return _source(name, asked, folder, image_pattern, instruction=instruction)


def open_okvqa(
  name: str,
  *,
  questions: str,
  annotations: str,
  images: str,
  image_pattern: str = COCO_PATTERN,
  instruction: str = SHORT_ANSWER,
  answer_key: str = OKVQA_ANSWERS[0],
  follow_links: bool = False,
) -> FileSource:
  """Opens OK-VQA: OpenEnded_mscoco_*_questions.json and its annotations.

  As `open_vqav2`, but `answer_key` chooses between "answer", the stemmed words
  that the official score compares with, and "raw_answer".
  """
  if answer_key not in OKVQA_ANSWERS:
    raise ValueError(
      f"answer_key must be one of {OKVQA_ANSWERS}, not {answer_key!r}"
    )
  asked = _coco(questions, annotations, answer_key=answer_key)
  folder = images_folder(images, follow_links=follow_links)
  return _source(name, asked, folder, image_pattern, instruction=instruction)


def open_textvqa(
  name: str,
  *,
  path: str,
  images: str,
  image_pattern: str = ID_PATTERN,
  instruction: str = SHORT_ANSWER,
  follow_links: bool = False,
) -> FileSource:
  """Opens TextVQA_0.5.1_train.json or _val.json; raises as `open_vqav2`."""
  asked = _textvqa(path)
  folder = images_folder(images, follow_links=follow_links)
  return _source(name, asked, folder, image_pattern, instruction=instruction)


def open_vizwiz(
  name: str,
  *,
  path: str,
  images: str,
  instruction: str = f"{SHORT_ANSWER} {MAY_BE_UNANSWERABLE}",
  follow_links: bool = False,
) -> FileSource:
  """Opens VizWiz's train.json or val.json; raises as `open_vqav2`."""
  asked = _vizwiz(path)
  folder = images_folder(images, follow_links=follow_links)
  return _source(name, asked, folder, "{image_id}", instruction=instruction)


def open_gqa(
  name: str,
  *,
  path: PathSpec,
  images: str,
  image_pattern: str = ID_PATTERN,
  instruction: str = SHORT_ANSWER,
  follow_links: bool = False,
) -> FileSource:
  """Opens GQA, e.g. train_balanced_questions.json; raises as `open_vqav2`.

  Args:
    name: as the config calls it.
    path: questions files, see `file_lists.list_files`; the complete training
      set is a folder of ten.
    images: folder of all images.
    image_pattern: an image's file below it.
    instruction: stands between question and "A:"; "" for none.
    follow_links: as there.
  """
  asked = _gqa(file_lists.list_files(path, suffixes=(".json",)))
  folder = images_folder(images, follow_links=follow_links)
  return _source(name, asked, folder, image_pattern, instruction=instruction)


def _source(
  name: str,
  asked: _AllAsked,
  folder: SafeFolder,
  image_pattern: str,
  *,
  instruction: str,
) -> FileSource:
  if _image_name(image_pattern, "subset", 1) is None:
    raise ValueError(
      f"image_pattern {image_pattern!r} must be like {COCO_PATTERN!r} or "
      f"{ID_PATTERN!r}"
    )
  rows = QuestionRows(name, instruction=instruction)
  for one in asked:
    if isinstance(one, str):
      rows.removed[one] += 1
      continue
    image = _image_name(image_pattern, one.subset, one.image_id)
    if image is None or not _is_id(one.question_id):
      rows.removed["bad_json"] += 1
      continue
    rows.add(
      f"{name}:{one.question_id}",
      question=one.question,
      answers=one.answers,
      image=image,
    )
  return rows.source(folder)


def _coco(questions: str, annotations: str, *, answer_key: str) -> _AllAsked:
  """Joins questions and annotations by question_id."""
  header = _header(questions, what="questions")
  subset = str(header.get("data_subtype", ""))
  answers: dict[Any, list | None] = {}
  annotated = _header(annotations, what="annotations")
  for entry in _objects(annotated.get("annotations"), annotations):
    question_id = entry.get("question_id") if entry else None
    if not _is_id(question_id):
      yield "bad_json"
    elif question_id in answers:
      yield "duplicate_id"
    else:
      answers[question_id] = _answers(entry, answer_key)
  found = set()
  for entry in _objects(header.get("questions"), questions):
    question_id = entry.get("question_id") if entry else None
    if not _is_id(question_id):
      yield "bad_json"
    elif question_id not in answers:
      yield "no_answer"
    else:
      found.add(question_id)
      yield _Asked(
        *(question_id, entry.get("question"), answers[question_id]),
        *(entry.get("image_id"), subset),
      )
  yield from ["no_question"] * len(answers.keys() - found)


def _textvqa(path: str) -> _AllAsked:
  header = _header(path, what="path")
  for entry in _objects(header.get("data"), path):
    yield (
      "bad_json"
      if entry is None
      else _Asked(
        *(entry.get("question_id"), entry.get("question")),
        *(entry.get("answers"), entry.get("image_id")),
      )
    )


def _vizwiz(path: str) -> _AllAsked:
  file = file_lists.existing_file(path, what="path")
  for entry in _objects(entry_files.read_list(file), path):
    yield (
      "bad_json"
      if entry is None
      else _Asked(
        *(entry.get("image"), entry.get("question")),
        *(_answers(entry, "answer"), entry.get("image")),
      )
    )


def _gqa(files: list[pathlib.Path]) -> _AllAsked:
  for file in files:
    questions = entry_files.read_json(file)
    if not isinstance(questions, dict):
      raise ValueError(f"{file} must hold a JSON object: questions by their id")
    for question_id, entry in questions.items():
      yield (
        "bad_json"
        if not isinstance(entry, dict)
        else _Asked(
          *(question_id, entry.get("question")),
          *(entry.get("answer"), entry.get("imageId")),
        )
      )


def _header(path: str, *, what: str) -> dict[str, Any]:
  """The object of a whole official file."""
  file = file_lists.existing_file(path, what=what)
  value = entry_files.read_json(file)
  if not isinstance(value, dict):
    raise ValueError(
      f"{file} must hold a JSON object, as the official file does, not "
      f"{type(value).__name__}"
    )
  return value


def _objects(values: Any, path: str) -> Iterator[dict[str, Any] | None]:
  """The objects of a list; None for what is no object."""
  if not isinstance(values, list):
    raise ValueError(f"{path} lacks the list of the official file")
  for value in values:
    yield value if isinstance(value, dict) else None


def _answers(entry: dict[str, Any], key: str) -> list | None:
  """The annotators' answers, or None if they have another form."""
  answers = entry.get("answers")
  if not isinstance(answers, list):
    return None
  if not all(isinstance(answer, dict) for answer in answers):
    return None
  return [answer.get(key) for answer in answers]


def _is_id(value: Any) -> bool:
  return type(value) in (int, str)


def _image_name(pattern: str, subset: str, image_id: Any) -> str | None:
  """An image's file name, or None if pattern and id do not fit."""
  if not _is_id(image_id):
    return None
  try:
    return pattern.format(subset=subset, image_id=image_id)
  except (AttributeError, IndexError, KeyError, ValueError):
    return None
