"""LLaVA's conversations about images."""

from collections.abc import Iterator, Sequence
from typing import Any

from ddit_jax.data.sources.annotations import TextError, entries
from ddit_jax.data.sources.image_table import FileSource, QuestionRows
from ddit_jax.data.sources.paths import existing_file, images_folder

_LLAVA_TURNS = ("first", "all")

_IMAGE_MARKS = ("<image>", "<video>")
# LLaVA's names and those of other exports of conversations.
_SPEAKERS = {
  "human": "human",
  "user": "human",
  "gpt": "gpt",
  "assistant": "gpt",
  "chatgpt": "gpt",
  "system": "system",
}


def open_llava(
  name: str,
  *,
  path: str,
  images: str,
  turns: str = "first",
  history_characters: int = 0,
  follow_links: bool = False,
) -> FileSource:
  """Opens a file of conversations.

  A record is {"id", "image"?, "conversations": [{"from": "human" or "gpt",
  "value"}, ...]}, or has the names "messages", "role" and "content" of OpenAI's
  format; without "image", or with a blank one, it is text only, and a list of
  one image is that image. Each question becomes a separate example. The marker
  <image> is removed. A system turn is passed over, and so are answers before
  the first question, counted as "no_question". Skipped and counted besides what
  cannot be read: "later_turn" (turns is "first"), "no_answer" (a last
  question), "no_image" (the marker without an image), and "several_images".

  Args:
    name: name in the config.
    path: a JSON list, or JSON lines.
    images: folder that image paths start from.
    turns: "first", as the D-DiT release does, or "all".
    history_characters: with turns "all", each prompt begins with as many whole
      turns before its question as have no more characters than that, the
      nearest ones; 0 leaves them out.
    follow_links: True reads images through links that leave the folder, e.g. a
      link from coco to another disk.

  Raises:
    ValueError: a file is missing or no list, or no question can be used.
  """
  if turns not in _LLAVA_TURNS:
    raise ValueError(f"turns must be one of {_LLAVA_TURNS}, not {turns!r}")
  if history_characters < 0 or (history_characters and turns != "all"):
    raise ValueError(
      f"history_characters is {history_characters} and turns {turns!r}: write "
      '0, or a positive number with turns="all"'
    )
  file = existing_file(path, what="path")
  folder = images_folder(images, follow_links=follow_links)
  rows = QuestionRows(name)
  for record_id, entry in entries(file):
    if isinstance(entry, TextError):
      rows.skipped.add(entry.reason, record_id, str(entry))
      continue
    earlier: list[_Asked] = []
    for turn, asked in enumerate(_questions(entry, rows)):
      if turn and turns == "first":
        rows.skipped.add("later_turn")
      else:
        told = _history(earlier, history_characters)
        _add(rows, f"{record_id}:{turn}", entry, asked, told)
      earlier.append(asked)
  return rows.source(folder)


# (question, answer) of a pair of turns. (None, None) marks turns that are no
# pair; the answer alone is None where the conversation ends with a question.
_Asked = tuple[str | None, str | None]


def _history(earlier: Sequence[_Asked], most: int) -> str:
  """The nearest of the turns before a question, as they stand in its prompt.

  Args:
    earlier: pairs of turns in order; it ends at one that is no pair.
    most: characters.
  """
  told = ""
  for question, answer in reversed(earlier):
    is_pair = (question or "").strip() and (answer or "").strip()
    longer = f"{question} A: {answer} Q: {told}"
    if not is_pair or len(longer) > most:
      break
    told = longer
  return told


def _add(
  rows: QuestionRows,
  record_id: str,
  entry: dict[str, Any],
  asked: _Asked,
  told: str,
) -> None:
  question, answer = asked
  image = entry.get("image", entry.get("images"))
  listed = [] if image is None or image == "" else [image]
  listed = image if isinstance(image, list) else listed
  if question is None:
    rows.skipped.add("bad_json", record_id, "turns that are no pair")
  elif answer is None:
    rows.skipped.add("no_answer")
  elif len(listed) > 1:
    rows.skipped.add("several_images")
  elif not listed and any(mark in told + question for mark in _IMAGE_MARKS):
    rows.skipped.add("no_image")
  else:
    # A blank question remains one, and is counted.
    told = told if question.strip() else ""
    rows.add(
      record_id,
      question=(told + question).replace(_IMAGE_MARKS[0], " "),
      answers=answer,
      image=listed[0] if listed else None,
    )


def _questions(entry: dict[str, Any], rows: QuestionRows) -> Iterator[_Asked]:
  turns = entry.get("conversations", entry.get("messages"))
  if not isinstance(turns, list) or not turns:
    yield None, None
    return
  said = [turn for turn in map(_said, turns) if turn[0] != "system"]
  if not said:
    rows.skipped.add("no_question")
  while said and said[0][0] == "gpt":
    rows.skipped.add("no_question")
    said = said[1:]
  for start in range(0, len(said), 2):
    pair = said[start : start + 2]
    speakers = [speaker for speaker, _ in pair]
    if speakers == ["human", "gpt"][: len(pair)]:
      texts = [text for _, text in pair]
      yield (*texts, None)[:2]
    else:
      yield None, None


def _said(turn: Any) -> tuple[str | None, str | None]:
  """(speaker, text) of a turn; (None, None) if it has another form."""
  if not isinstance(turn, dict):
    return None, None
  speaker = turn.get("from", turn.get("role"))
  text = turn.get("value", turn.get("content"))
  if not isinstance(speaker, str) or not isinstance(text, str):
    return None, None
  return _SPEAKERS.get(speaker), text
