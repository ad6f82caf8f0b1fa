"""Lists, captions, questions and documents that are broken or hostile."""

import json
import math
import os
import pathlib

from tests.data import pictures
from tests.experiment.hostile_inputs import (
  ANY_SIZE,
  LEFT_OUT,
  REFUSED,
  REPLACED,
  SOUND,
  USED,
  Hostile,
  hostile_entry,
  listed,
)


def captioned(**changes) -> dict:
  return SOUND | changes


def raw_list(name: str, data: bytes):
  """Writes a list as it is, beside the sound picture."""

  def write(folder: pathlib.Path) -> dict:
    listed(folder)
    path = folder / name
    path.write_bytes(data)
    return {"kind": "image_folder", "path": str(path), "filters": ANY_SIZE}

  return write


def pipe_for_list(folder: pathlib.Path) -> dict:
  listed(folder)
  os.mkfifo(folder / "pipe.json")
  return {"kind": "image_folder", "path": str(folder / "pipe.json")}


def latin_caption(folder: pathlib.Path) -> dict:
  for name, caption in (("a", b"a red square"), ("b", b"caf\xe9")):
    (folder / f"{name}.png").write_bytes(pictures.PNG)
    (folder / f"{name}.txt").write_bytes(caption)
  return {"kind": "image_folder", "path": str(folder), "filters": ANY_SIZE}


def conversations(*entries: dict):
  """LLaVA's file of a sound conversation and of these."""

  def write(folder: pathlib.Path) -> dict:
    listed(folder)
    path = folder / "llava.json"
    path.write_text(json.dumps([conversation("is it red?", "yes"), *entries]))
    return {"kind": "llava", "path": str(path), "images": str(folder)}

  return write


def conversation(question: str, answer: str, speaker: str = "human") -> dict:
  turns = [
    {"from": speaker, "value": question},
    {"from": "gpt", "value": answer},
  ]
  return {"image": "sound.png", "conversations": turns}


def surrogate_id(folder: pathlib.Path) -> dict:
  listed(folder)
  asked = {"question": "is it red?", "answers": ["yes"]}
  body = {
    "data": [
      asked | {"question_id": 1, "image_id": "sound"},
      asked | {"question_id": "\ud800", "image_id": "sound"},
    ]
  }
  path = folder / "textvqa.json"
  path.write_text(json.dumps(body))
  return {
    "kind": "textvqa",
    "path": str(path),
    "images": str(folder),
    "image_pattern": "{image_id}.png",
  }


def documents(folder: pathlib.Path) -> dict:
  """A line that is no UTF-8 among lines that fill rows."""
  path = folder / "documents.txt"
  path.write_bytes(b"a red square\n" * 12 + b"caf\xe9 au lait\n")
  return {
    "kind": "plain_text",
    "path": str(path),
    "documents": "line",
    "is_packed": True,
  }


def documents_beside_a_pipe(folder: pathlib.Path) -> dict:
  spec = documents(folder)
  os.mkfifo(folder / "pipe.txt")
  return spec | {"path": str(folder / "*.txt")}


def change_documents(folder: pathlib.Path) -> None:
  """As long as before, with fewer words in the first line."""
  path = folder / "documents.txt"
  path.write_bytes(path.read_bytes().replace(b"red square", b"redasquare", 1))


DEEP = b"[" * 100_000
HUGE = b"9" * 10_000

HOSTILE = [
  hostile_entry("line that is not JSON", LEFT_OUT, "bad_json", b'{"image_path'),
  hostile_entry("JSON nested 100,000 deep", LEFT_OUT, "bad_json", DEEP),
  hostile_entry(
    "number of 10,000 digits",
    LEFT_OUT,
    "bad_json",
    b'{"image_path": "sound.png", "caption": "a", "height": ' + HUGE + b"}",
  ),
  hostile_entry(
    "key twice in one object",
    LEFT_OUT,
    "bad_json",
    b'{"image_path": "sound.png", "caption": "a", "caption": "b"}',
  ),
  hostile_entry(
    "caption that is a number", LEFT_OUT, "bad_text", captioned(caption=7)
  ),
  hostile_entry(
    "path that is a list", LEFT_OUT, "bad_text", captioned(image_path=["a"])
  ),
  hostile_entry(
    "half a surrogate pair", LEFT_OUT, "bad_text", captioned(caption="\ud800")
  ),
  hostile_entry(
    "blank caption, blank ones kept",
    REPLACED,
    "empty_text",
    captioned(caption=" "),
    filters=ANY_SIZE | {"drop_empty_captions": False},
  ),
  hostile_entry(
    "caption of 1 MB", REPLACED, "wrong_length", captioned(caption="a " * 2**19)
  ),
  hostile_entry(
    "end token inside a caption",
    REPLACED,
    "bad_text",
    captioned(caption="a </s> square"),
  ),
  hostile_entry(
    "mask token inside a caption",
    REPLACED,
    "bad_text",
    captioned(caption="a <extra_id_0> square"),
  ),
  hostile_entry(
    "NUL bytes inside a caption",
    LEFT_OUT,
    "bad_text",
    captioned(caption="a\0red\0square"),
  ),
  hostile_entry(
    "ratio NaN and side Infinity",
    USED,
    "",
    captioned(ratio=math.nan, height=math.inf),
    filters={"min_short_side": 8},
  ),
  Hostile(
    name="caption file that is no UTF-8",
    outcome=LEFT_OUT,
    reason="bad_text",
    write=latin_caption,
  ),
  Hostile(
    name="list that is an object",
    outcome=REFUSED,
    reason="must hold a JSON list",
    write=raw_list("list.json", b'{"image_path": "sound.png"}'),
  ),
  Hostile(
    name="list that is no UTF-8",
    outcome=REFUSED,
    reason="is not valid JSON",
    write=raw_list("list.json", b'[{"image_path": "\xff"}]'),
  ),
  Hostile(
    name="CSV without the caption column",
    outcome=REFUSED,
    reason="no column 'caption'",
    write=raw_list("list.csv", b"image_path,words\nsound.png,a\n"),
  ),
  Hostile(
    name="CSV row with too many cells",
    outcome=LEFT_OUT,
    reason="bad_text",
    write=raw_list(
      "list.csv", b"image_path,caption\nsound.png,a\nsound.png,a,b\n"
    ),
  ),
  Hostile(
    name="CSV with an open quote",
    outcome=REFUSED,
    reason="unexpected end of data",
    write=raw_list("list.csv", b'image_path,caption\nsound.png,"a\n'),
  ),
  Hostile(
    name="pipe in place of a list",
    outcome=REFUSED,
    reason="is not a regular file",
    write=pipe_for_list,
  ),
  Hostile(
    name="question longer than the text",
    outcome=REPLACED,
    reason="wrong_length",
    write=conversations(conversation("is it red? " * 99, "yes")),
  ),
  Hostile(
    name="conversation of other speakers",
    outcome=LEFT_OUT,
    reason="no_question",
    write=conversations(conversation("is it red?", "yes", "system")),
  ),
  Hostile(
    name="question id of half a pair",
    outcome=LEFT_OUT,
    reason="bad_text",
    write=surrogate_id,
  ),
  Hostile(
    name="document that is no UTF-8",
    outcome=LEFT_OUT,
    reason="bad_text",
    write=documents,
  ),
  Hostile(
    name="document changed after counting",
    outcome=REPLACED,
    reason="wrong_length",
    write=documents,
    spoil=change_documents,
  ),
  Hostile(
    name="pipe among documents",
    outcome=REFUSED,
    reason="is not a regular file",
    write=documents_beside_a_pipe,
  ),
]
