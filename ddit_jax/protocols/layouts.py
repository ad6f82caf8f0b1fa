"""Outputs of a model in the files that scorers and servers take."""

import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from ddit_jax.files import replace_file
from ddit_jax.json_files import write_json, write_lines
from ddit_jax.protocols.item import Item
from ddit_jax.scoring import submissions

_Answers = Mapping[str, str]


def write_vqa(folder: pathlib.Path, items: Sequence[Item], answers: _Answers):
  """VQA's result list, and the same in the server's form; its path."""
  ids = [item.facts["id"] for item in items]
  of_id = {item.facts["id"]: answers[item.key] for item in items}
  upload = submissions.vqav2_upload(ids, of_id)
  write_json(folder / "upload.json", upload)
  results = [{"question_id": key, "answer": of_id[key]} for key in ids]
  return write_json(folder / "results.json", results)


def write_vizwiz(
  folder: pathlib.Path, items: Sequence[Item], answers: _Answers
):
  """VizWiz's result list, and the same in the server's form; its path.

  As in the D-DiT release, an answer that contains "unanswer" is
  "unanswerable".
  """
  pairs = [(item.facts["id"], _answerable(answers[item.key])) for item in items]
  write_json(folder / "upload.json", submissions.vizwiz_upload(pairs))
  results = [{"image": image, "answer": answer} for image, answer in pairs]
  return write_json(folder / "results.json", results)


def _answerable(answer: str) -> str:
  return "unanswerable" if "unanswer" in answer else answer


def write_gqa(folder: pathlib.Path, items: Sequence[Item], answers: _Answers):
  """GQA's predictions as LLaVA makes them; their path."""
  pairs = [(item.facts["id"], answers[item.key]) for item in items]
  return write_json(
    folder / "predictions.json", submissions.gqa_predictions(pairs)
  )


def write_pope(folder: pathlib.Path, items: Sequence[Item], answers: _Answers):
  """A folder with an answer file for each split, in its order."""
  out = _emptied(folder / "answers", "coco_pope_*.json")
  lines: dict[str, list[dict]] = {}
  for item in items:
    row = {"question": item.facts["question"], "answer": answers[item.key]}
    lines.setdefault(item.facts["split"], []).append(row)
  for split, rows in lines.items():
    write_lines(out / f"coco_pope_{split}.json", rows)
  return out


def write_mme(folder: pathlib.Path, items: Sequence[Item], answers: _Answers):
  """A folder with SUBTASK.txt: image, question, label, response."""
  out = _emptied(folder / "results", "*.txt")
  lines: dict[str, list[str]] = {}
  for item in items:
    facts = item.facts
    fields = (
      facts["image"],
      facts["question"],
      facts["expected"],
      " ".join(answers[item.key].split()),
    )
    lines.setdefault(facts["subtask"], []).append("\t".join(fields))
  for subtask, rows in lines.items():
    text = "".join(row + "\n" for row in rows)
    replace_file(out / f"{subtask}.txt", text.encode())
  return out


def _emptied(folder: pathlib.Path, pattern: str) -> pathlib.Path:
  """A folder without the files of an earlier run on more items.

  Its scorer reads all files that are there.
  """
  folder.mkdir(exist_ok=True)
  for path in folder.glob(pattern):
    path.unlink()
  return folder


def write_captions(
  folder: pathlib.Path, items: Sequence[Item], answers: _Answers
):
  """COCO's result list; its path."""
  results = [
    {"image_id": item.facts["id"], "caption": answers[item.key]}
    for item in items
  ]
  return write_json(folder / "captions_results.json", results)


def llava_answers(
  items: Sequence[Item],
  answers: _Answers,
  prompts: Mapping[str, str],
  model_id: str,
) -> list[dict[str, Any]]:
  """Lines of LLaVA's answer file.

  Args:
    items: in their order.
    answers: by key.
    prompts: what the model was given, by key.
    model_id: names the model.
  """
  return [
    {
      "question_id": item.facts.get("id", item.key),
      "prompt": prompts[item.key],
      "text": answers[item.key],
      "answer_id": item.key,
      "model_id": model_id,
      "metadata": {},
    }
    for item in items
  ]


def write_geneval(folder: pathlib.Path, items: Sequence[Item]) -> pathlib.Path:
  """Writes metadata.jsonl beside every prompt's samples."""
  for item in items:
    path = folder / item.facts["folder"] / "metadata.jsonl"
    if not path.exists():
      write_lines(path, [item.facts["metadata"]])
  return folder


def write_dpg(folder: pathlib.Path, items: Sequence[Item]) -> pathlib.Path:
  """Writes the 2 x 2 grid of every prompt's four images."""
  tiles: dict[str, list[pathlib.Path]] = {}
  for item in items:
    tiles.setdefault(item.facts["id"], []).append(folder / item.path)
  out = folder / "grids"
  out.mkdir(exist_ok=True)
  for key, paths in tiles.items():
    if not (out / f"{key}.png").exists():
      rows = [np.asarray(Image.open(path)) for path in paths]
      top, bottom = (np.concatenate(rows[i : i + 2], axis=1) for i in (0, 2))
      grid = Image.fromarray(np.concatenate([top, bottom]))
      save_png(out / f"{key}.png", grid)
  return out


def write_nothing(folder: pathlib.Path, items: Sequence[Item]) -> pathlib.Path:
  """The folder as it is."""
  del items
  return folder


def save_png(path: pathlib.Path, image: Image.Image) -> None:
  """Writes an image that is whole or not there, whatever stops the machine."""
  path.parent.mkdir(parents=True, exist_ok=True)
  encoded = io.BytesIO()
  image.save(encoded, format="PNG")
  replace_file(path, encoded.getvalue())
