"""VQA v2, OK-VQA, TextVQA, VizWiz and GQA, from their official files."""

import collections
import logging
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from ddit_jax.data.sources import annotations, paths
from ddit_jax.data.sources.annotations import TextError
from ddit_jax.data.sources.image_table import (
  FileRecord,
  FileSource,
  RecordTable,
)
from ddit_jax.data.sources.paths import (
  PathSpec,
  SafeFolder,
  images_folder,
  is_unsafe,
)

SHORT_ANSWER = "Answer the question using a single word or phrase."
# Added for VizWiz, whose photos often do not show what is asked for.
MAY_BE_UNANSWERABLE = (
  "Reply unanswerable if information is not present in the image."
)


def question_prompt(question: str, instruction: str = "") -> str:
  """ "Q: {question} {instruction} A: ", with its trailing blank.

  Runs of blanks and line ends become one blank: LLaVA puts line ends before
  instructions and options, D-DiT blanks.
  """
  words = " ".join(f"{question} {instruction}".split())
  return f"Q: {words} A: "


_log = logging.getLogger(__name__)


class QuestionRows:
  """Questions so far, and what was left out.

  Attributes:
    removed: reason to the number of questions left out.
  """

  def __init__(self, name: str, *, instruction: str = ""):
    """Args are the source's name, and what each prompt ends with."""
    if not isinstance(instruction, str):
      raise ValueError(f"instruction must be a text, not {instruction!r}")
    self.removed: collections.Counter = collections.Counter()
    self._name, self._instruction = name, instruction
    self._table, self._num_blank = RecordTable(), 0
    self._seen: set = set()

  def add(
    self, record_id: str, *, question: Any, answers: Any, image: Any
  ) -> None:
    """Adds a question, or counts why it cannot be used.

    Args:
      record_id: for logs; the same one a second time is left out.
      question: a text.
      answers: a text or a list of texts; blank ones are left out and counted
        in a warning.
      image: path below the images' folder; None for text only.
    """
    try:
      reason = self._append(record_id, question, answers, image)
    except TextError as error:
      reason = error.reason
    if reason:
      self.removed[reason] += 1

  def source(self, images: SafeFolder) -> FileSource:
    """All questions, with the folder of their images.

    Raises:
      ValueError: there is none.
    """
    if self._num_blank:
      _log.warning("%s: %d blank answers left out", self._name, self._num_blank)
    return FileSource(
      self._name, self._table, images=images, removed=self.removed
    )

  def _append(
    self, record_id: str, question: Any, answers: Any, image: Any
  ) -> str | None:
    if record_id in self._seen:
      return "duplicate_id"
    self._seen.add(record_id)
    annotations.clean_text(record_id)
    question = annotations.clean_text(question)
    given = answers if isinstance(answers, list) else [answers]
    texts = annotations.clean_texts(given)
    if image is not None:
      image = annotations.clean_text(image)
      if is_unsafe(image):
        return "unsafe_path"
    if not question or not texts:
      return "empty_text"
    self._num_blank += len(given) - len(texts)
    prompt = question_prompt(question, self._instruction)
    self._table.append(FileRecord(record_id, image, prompt, texts))
    return None


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
    path: questions files, see `paths.list_files`; the complete training
      set is a folder of ten.
    images: folder of all images.
    image_pattern: an image's file below it.
    instruction: stands between question and "A:"; "" for none.
    follow_links: as there.
  """
  asked = _gqa(paths.list_files(path, suffixes=(".json",)))
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
  file = paths.existing_file(path, what="path")
  for entry in _objects(annotations.read_list(file), path):
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
    questions = annotations.read_json(file)
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
  file = paths.existing_file(path, what=what)
  value = annotations.read_json(file)
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


SPLITS = ("train", "test")


def open_easy_vqa(
  name: str, *, split: str = "train", instruction: str = ""
) -> FileSource:
  """Opens a split of the installed package.

  Args:
    name: as the config calls it.
    split: "train" or "test".
    instruction: stands between question and "A:"; "" for none.

  Raises:
    ValueError: no such split, or the package is not installed.
  """
  if split not in SPLITS:
    raise ValueError(f"split must be one of {SPLITS}, not {split!r}")
  try:
    import easy_vqa
  except ImportError as error:
    raise ValueError(
      f"Easy-VQA needs its package ({error}): pip install easy-vqa"
    ) from error
  if split == "train":
    asked, paths = easy_vqa.get_train_questions, easy_vqa.get_train_image_paths
  else:
    asked, paths = easy_vqa.get_test_questions, easy_vqa.get_test_image_paths
  files = paths()
  folder = os.path.commonpath(map(os.path.dirname, files.values()))
  rows = QuestionRows(name, instruction=instruction)
  for number, (question, answer, image_id) in enumerate(
    zip(*asked(), strict=True)
  ):
    rows.add(
      f"easy_vqa/{split}:{number}",
      question=question,
      answers=answer,
      image=os.path.relpath(files[image_id], folder),
    )
  return rows.source(SafeFolder(folder))


TURNS = ("first", "all")

_IMAGE_MARK = "<image>"


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
  "value"}, ...]}; without "image" it is text only. Each question becomes an
  example of its own, without the turns before it. The mark <image> is taken
  out. Left out and counted besides what cannot be read: "later_turn" (turns is
  "first"), "no_answer" (a last question), and "no_image" (the mark without an
  image).

  Args:
    name: as the config calls it.
    path: a JSON list, or JSON lines.
    images: folder that image paths start from.
    turns: "first", as the D-DiT release does, or "all".
    follow_links: True reads images through links that leave the folder, e.g. a
      link from coco to where COCO lies.

  Raises:
    ValueError: a file is missing or no list, or no question can be used.
  """
  if turns not in TURNS:
    raise ValueError(f"turns must be one of {TURNS}, not {turns!r}")
  file = paths.existing_file(path, what="path")
  folder = images_folder(images, follow_links=follow_links)
  rows = QuestionRows(name)
  for record_id, entry in annotations.entries(file):
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


def _turns(
  entry: dict[str, Any],
) -> Iterator[tuple[str | None, str | None]]:
  """(question, answer) of each pair of turns.

  (None, None) stands for turns that are no such pair; the answer alone is None
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
  """What a turn says, or None if it is not this speaker's."""
  turn = turns[position] if position < len(turns) else None
  if not isinstance(turn, dict) or turn.get("from") != speaker:
    return None
  value = turn.get("value")
  return value if isinstance(value, str) else None
