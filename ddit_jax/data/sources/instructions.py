"""LLaVA's conversations: LLaVA-Pretrain 558K, LLaVA-1.5 mix 665K and alike."""

from collections.abc import Iterator
from typing import Any

from ddit_jax.data.sources import entry_files, file_lists
from ddit_jax.data.sources.file_source import FileSource
from ddit_jax.data.sources.question_rows import QuestionRows
from ddit_jax.data.sources.safe_files import images_folder
from ddit_jax.data.sources.sample_texts import TextError

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
  file = file_lists.existing_file(path, what="path")
  folder = images_folder(images, follow_links=follow_links)
  rows = QuestionRows(name)
  for record_id, entry in entry_files.entries(file):
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
