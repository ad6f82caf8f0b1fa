"""Questions about images: the VQA sets, POPE and Easy-VQA.

All but Easy-VQA, which is a package, are read from their official files.
"""

import os
from collections.abc import Iterable, Iterator
from typing import Any

from ddit_jax.data.sources.annotations import (
  entries,
  read_json_file,
  read_list,
)
from ddit_jax.data.sources.image_table import FileSource, QuestionRows
from ddit_jax.data.sources.paths import (
  PathSpec,
  SafeFolder,
  existing_file,
  images_folder,
  list_files,
)

_SHORT_ANSWER = "Answer the question using a single word or phrase."
# Added for VizWiz, whose photos often do not show the answer.
_MAY_BE_UNANSWERABLE = (
  "Reply unanswerable if information is not present in the image."
)
_COCO_PATTERN = "COCO_{subset}_{image_id:012d}.jpg"
_ID_PATTERN = "{image_id}.jpg"
_OKVQA_ANSWERS = ("answer", "raw_answer")
_EASY_VQA_SPLITS = ("train", "test")
# Characters of a bad id in messages.
_SHOWN = 80

# (question's id, question, answers, image's id) as a file has them, of any
# type; or the reason why there is no question.
_Asked = Iterable[tuple[Any, Any, Any, Any] | str]


def open_vqav2(
  name: str,
  *,
  questions: str,
  annotations: str,
  images: str,
  image_pattern: str = _COCO_PATTERN,
  instruction: str = _SHORT_ANSWER,
  answer_key: str = _OKVQA_ANSWERS[0],
  follow_links: bool = False,
) -> FileSource:
  """Opens VQA v2 or OK-VQA: official questions and their annotations.

  Skipped and counted, besides what cannot be used: "no_answer" (a question
  without annotation) and "no_question" (an annotation without question).

  Args:
    name: name in the config.
    questions: e.g. v2_OpenEnded_mscoco_train2014_questions.json.
    annotations: its annotations, with ten answers a question.
    images: folder of the split's images.
    image_pattern: an image's file below it; {subset} is the questions file's
      data_subtype, e.g. train2014.
    instruction: text between question and "A:"; "" for none.
    answer_key: of OK-VQA's answers: "answer", the stemmed words that the
      official score compares with, or "raw_answer".
    follow_links: True reads images through links that leave the folder.

  Raises:
    ValueError: a file is missing or of another form, the pattern is wrong, or
      no question can be used.
  """
  if answer_key not in _OKVQA_ANSWERS:
    raise ValueError(
      f"answer_key must be one of {_OKVQA_ANSWERS}, not {answer_key!r}"
    )
  header = _header(questions, what="questions")
  return _source(
    name,
    _coco(header, questions, annotations, answer_key),
    images_folder(images, follow_links=follow_links),
    image_pattern,
    instruction=instruction,
    subset=str(header.get("data_subtype", "")),
  )


open_okvqa = open_vqav2


def open_textvqa(
  name: str,
  *,
  path: str,
  images: str,
  image_pattern: str = _ID_PATTERN,
  instruction: str = _SHORT_ANSWER,
  follow_links: bool = False,
) -> FileSource:
  """Opens TextVQA_0.5.1_train.json or _val.json; raises as `open_vqav2`."""
  listed = _objects(_header(path, what="path").get("data"), path)
  keys = ("question_id", "question", "answers", "image_id")
  folder = images_folder(images, follow_links=follow_links)
  return _source(
    name, _fields(listed, keys), folder, image_pattern, instruction=instruction
  )


def open_vizwiz(
  name: str,
  *,
  path: str,
  images: str,
  instruction: str = f"{_SHORT_ANSWER} {_MAY_BE_UNANSWERABLE}",
  follow_links: bool = False,
) -> FileSource:
  """Opens VizWiz's train.json or val.json; raises as `open_vqav2`."""
  listed = (
    entry and entry | {"answers": _answers(entry, "answer")}
    for entry in _objects(read_list(existing_file(path, what="path")), path)
  )
  keys = ("image", "question", "answers", "image")
  folder = images_folder(images, follow_links=follow_links)
  return _source(
    name, _fields(listed, keys), folder, "{image_id}", instruction=instruction
  )


def open_gqa(
  name: str,
  *,
  path: PathSpec,
  images: str,
  image_pattern: str = _ID_PATTERN,
  instruction: str = _SHORT_ANSWER,
  follow_links: bool = False,
) -> FileSource:
  """Opens GQA, e.g. train_balanced_questions.json; raises as `open_vqav2`.

  `path` names questions files, see `paths.list_files`; the complete training
  set is a folder of ten.
  """

  def asked() -> _Asked:
    for file in list_files(path, suffixes=(".json",)):
      found = read_json_file(file)
      if not isinstance(found, dict):
        raise ValueError(
          f"{file} must hold a JSON object: questions by their id"
        )
      for question_id, entry in found.items():
        is_object = isinstance(entry, dict)
        listed = [entry | {"id": question_id}] if is_object else [None]
        yield from _fields(listed, ("id", "question", "answer", "imageId"))

  folder = images_folder(images, follow_links=follow_links)
  return _source(name, asked(), folder, image_pattern, instruction=instruction)


def open_easy_vqa(
  name: str, *, split: str = "train", instruction: str = ""
) -> FileSource:
  """Opens a split of the installed package.

  Args:
    name: name in the config.
    split: "train" or "test".
    instruction: text between question and "A:"; "" for none.

  Raises:
    ValueError: no such split, or the package is not installed.
  """
  if split not in _EASY_VQA_SPLITS:
    raise ValueError(f"split must be one of {_EASY_VQA_SPLITS}, not {split!r}")
  try:
    import easy_vqa
  except ImportError as error:
    raise ValueError(
      f"Easy-VQA needs its package ({error}): pip install easy-vqa"
    ) from error
  asked = getattr(easy_vqa, f"get_{split}_questions")()
  files = getattr(easy_vqa, f"get_{split}_image_paths")()
  folder = os.path.commonpath(map(os.path.dirname, files.values()))
  rows = QuestionRows(name, instruction=instruction)
  for number, (question, answer, image_id) in enumerate(
    zip(*asked, strict=True)
  ):
    rows.add(
      f"easy_vqa/{split}:{number}",
      question=question,
      answers=answer,
      image=os.path.relpath(files[image_id], folder),
    )
  return rows.source(SafeFolder(folder))


def open_pope(
  name: str,
  *,
  path: str,
  images: str,
  instruction: str = _SHORT_ANSWER,
  follow_links: bool = False,
) -> FileSource:
  """Opens POPE, e.g. coco_pope_random.json; raises as `open_vqav2`.

  Its lines are {"question_id", "image": file name, "text", "label"}.
  """
  file = existing_file(path, what="path")
  listed = (
    entry if isinstance(entry, dict) else None for _, entry in entries(file)
  )
  keys = ("question_id", "text", "label", "image")
  folder = images_folder(images, follow_links=follow_links)
  return _source(
    name, _fields(listed, keys), folder, "{image_id}", instruction=instruction
  )


def _source(
  name: str,
  asked: _Asked,
  folder: SafeFolder,
  image_pattern: str,
  *,
  instruction: str,
  subset: str = "",
) -> FileSource:
  if _image_name(image_pattern, "subset", 1) is None:
    raise ValueError(
      f"image_pattern {image_pattern!r} must be like {_COCO_PATTERN!r} or "
      f"{_ID_PATTERN!r}"
    )
  rows = QuestionRows(name, instruction=instruction)
  for one in asked:
    if isinstance(one, str):
      rows.skipped.add(one)
      continue
    question_id, question, answers, image_id = one
    record_id = f"{name}:{question_id}"
    image = _image_name(image_pattern, subset, image_id)
    if image is None or not _is_id(question_id):
      shown = f"{image_id!r}"[:_SHOWN]
      detail = f"image_pattern {image_pattern!r} does not fit image {shown}"
      rows.skipped.add("bad_json", record_id, detail)
    else:
      rows.add(record_id, question=question, answers=answers, image=image)
  return rows.source(folder)


def _coco(
  header: dict[str, Any], questions: str, annotations: str, answer_key: str
) -> _Asked:
  """Joins questions and annotations by question_id."""
  answers: dict[str, list | None] = {}
  annotated = _header(annotations, what="annotations").get("annotations")
  for entry in _objects(annotated, annotations):
    question_id = _question_id(entry)
    if question_id is None:
      yield "bad_json"
    elif question_id in answers:
      yield "duplicate_id"
    else:
      answers[question_id] = _answers(entry, answer_key)
  found = set()
  for entry in _objects(header.get("questions"), questions):
    question_id = _question_id(entry)
    if question_id is None:
      yield "bad_json"
    elif question_id not in answers:
      yield "no_answer"
    else:
      found.add(question_id)
      listed = [entry | {"answers": answers[question_id]}]
      keys = ("question_id", "question", "answers", "image_id")
      yield from _fields(listed, keys)
  yield from ["no_question"] * len(answers.keys() - found)


def _fields(
  listed: Iterable[dict[str, Any] | None], keys: tuple[str, str, str, str]
) -> _Asked:
  """Four fields of each object."""
  for entry in listed:
    yield "bad_json" if entry is None else tuple(map(entry.get, keys))


def _header(path: str, *, what: str) -> dict[str, Any]:
  """The object of an official file."""
  file = existing_file(path, what=what)
  value = read_json_file(file)
  if not isinstance(value, dict):
    raise ValueError(
      f"{file} must hold a JSON object, as the official file does, not "
      f"{type(value).__name__}"
    )
  return value


def _objects(values: Any, path: str) -> Iterator[dict[str, Any] | None]:
  """The objects of a list; None for anything else."""
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


def _question_id(entry: dict[str, Any] | None) -> str | None:
  """A question's id; one file may hold numbers, the other one digits."""
  value = entry.get("question_id") if entry else None
  return str(value) if _is_id(value) else None


def _image_name(pattern: str, subset: str, image_id: Any) -> str | None:
  """An image's file name, or None if pattern and id do not match.

  An id of digits may be a text where the pattern wants a number.
  """
  if not _is_id(image_id):
    return None
  for kind in (type(image_id), int):
    try:
      return pattern.format(subset=subset, image_id=kind(image_id))
    except (AttributeError, IndexError, KeyError, ValueError):
      continue
  return None
