"""Questions about images: the VQA sets, Easy-VQA and LLaVA.

All but Easy-VQA, which is a package, are read from their official files.
"""

import os
from collections.abc import Iterable, Iterator
from typing import Any

from ddit_jax.data.sources.annotations import (
  TextError,
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

SHORT_ANSWER = "Answer the question using a single word or phrase."
# Added for VizWiz, whose photos often do not show the answer.
MAY_BE_UNANSWERABLE = (
  "Reply unanswerable if information is not present in the image."
)
COCO_PATTERN = "COCO_{subset}_{image_id:012d}.jpg"
ID_PATTERN = "{image_id}.jpg"
OKVQA_ANSWERS = ("answer", "raw_answer")
EASY_VQA_SPLITS = ("train", "test")
LLAVA_TURNS = ("first", "all")

_IMAGE_MARK = "<image>"

# (question's id, question, answers, image's id) as a file has them, of any
# type; or the reason why there is no question.
_Asked = Iterable[tuple[Any, Any, Any, Any] | str]


def open_vqav2(
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
  if answer_key not in OKVQA_ANSWERS:
    raise ValueError(
      f"answer_key must be one of {OKVQA_ANSWERS}, not {answer_key!r}"
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
  image_pattern: str = ID_PATTERN,
  instruction: str = SHORT_ANSWER,
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
  instruction: str = f"{SHORT_ANSWER} {MAY_BE_UNANSWERABLE}",
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
  image_pattern: str = ID_PATTERN,
  instruction: str = SHORT_ANSWER,
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
  if split not in EASY_VQA_SPLITS:
    raise ValueError(f"split must be one of {EASY_VQA_SPLITS}, not {split!r}")
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


def open_llava(
  name: str,
  *,
  path: str,
  images: str,
  turns: str = "first",
  follow_links: bool = False,
) -> FileSource:
  """Opens a file of conversations.

  A record is {"id", "image"?, "conversations": [{"from": "human" or "gpt",
  "value"}, ...]}; without "image" it is text only. Each question becomes a
  separate example, without the turns before it. The marker <image> is removed.
  Skipped and counted besides what cannot be read: "later_turn" (turns is
  "first"), "no_answer" (a last question), and "no_image" (the marker without an
  image).

  Args:
    name: name in the config.
    path: a JSON list, or JSON lines.
    images: folder that image paths start from.
    turns: "first", as the D-DiT release does, or "all".
    follow_links: True reads images through links that leave the folder, e.g. a
      link from coco to another disk.

  Raises:
    ValueError: a file is missing or no list, or no question can be used.
  """
  if turns not in LLAVA_TURNS:
    raise ValueError(f"turns must be one of {LLAVA_TURNS}, not {turns!r}")
  file = existing_file(path, what="path")
  folder = images_folder(images, follow_links=follow_links)
  rows = QuestionRows(name)
  for record_id, entry in entries(file):
    if isinstance(entry, TextError):
      rows.removed[entry.reason] += 1
      continue
    for turn, (question, answer) in enumerate(_turns(entry)):
      if turn and turns == "first":
        rows.removed["later_turn"] += 1
      elif question is None:
        rows.removed["bad_json"] += 1
      elif answer is None:
        rows.removed["no_answer"] += 1
      elif _IMAGE_MARK in question and entry.get("image") is None:
        rows.removed["no_image"] += 1
      else:
        rows.add(
          f"{record_id}:{turn}",
          question=question.replace(_IMAGE_MARK, " "),
          answers=answer,
          image=entry.get("image"),
        )
  return rows.source(folder)


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
      f"image_pattern {image_pattern!r} must be like {COCO_PATTERN!r} or "
      f"{ID_PATTERN!r}"
    )
  rows = QuestionRows(name, instruction=instruction)
  for one in asked:
    if isinstance(one, str):
      rows.removed[one] += 1
      continue
    question_id, question, answers, image_id = one
    image = _image_name(image_pattern, subset, image_id)
    if image is None or not _is_id(question_id):
      rows.removed["bad_json"] += 1
    else:
      record_id = f"{name}:{question_id}"
      rows.add(record_id, question=question, answers=answers, image=image)
  return rows.source(folder)


def _coco(
  header: dict[str, Any], questions: str, annotations: str, answer_key: str
) -> _Asked:
  """Joins questions and annotations by question_id."""
  answers: dict[Any, list | None] = {}
  annotated = _header(annotations, what="annotations").get("annotations")
  for entry in _objects(annotated, annotations):
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


def _image_name(pattern: str, subset: str, image_id: Any) -> str | None:
  """An image's file name, or None if pattern and id do not match."""
  if not _is_id(image_id):
    return None
  try:
    return pattern.format(subset=subset, image_id=image_id)
  except (AttributeError, IndexError, KeyError, ValueError):
    return None


def _turns(
  entry: dict[str, Any],
) -> Iterator[tuple[str | None, str | None]]:
  """(question, answer) of each pair of turns.

  (None, None) marks turns that are no pair; the answer alone is None
  where the conversation ends with a question.
  """
  turns = entry.get("conversations")
  if not isinstance(turns, list) or not turns:
    yield None, None
    return
  for start in range(0, len(turns), 2):
    human, gpt = _said(turns, start, "human"), _said(turns, start + 1, "gpt")
    is_last = start + 1 == len(turns)
    is_pair = human is not None and (gpt is not None or is_last)
    yield (human, gpt) if is_pair else (None, None)


def _said(turns: list, position: int, speaker: str) -> str | None:
  """The text of a turn, or None if it is another speaker's."""
  turn = turns[position] if position < len(turns) else None
  if not isinstance(turn, dict) or turn.get("from") != speaker:
    return None
  value = turn.get("value")
  return value if isinstance(value, str) else None
