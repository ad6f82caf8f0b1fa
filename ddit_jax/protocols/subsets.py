"""References of a subset: official scorers want exactly the questions asked."""

import csv
import io
import pathlib
from collections.abc import Callable, Sequence

from ddit_jax.files import replace_file
from ddit_jax.json_files import write_json, write_lines
from ddit_jax.protocols.item import Files, Item
from ddit_jax.scoring import records
from ddit_jax.scoring.dpg import read_rows

Subset = Callable[[Files, Sequence[Item], pathlib.Path], Files]


def cut_vqa(files: Files, items: Sequence[Item], folder: pathlib.Path) -> Files:
  """The annotations of VQA, OK-VQA or TextVQA for some questions."""
  if "annotations" not in files:
    return files
  body = records.read_any(files["annotations"])
  name = "annotations" if "annotations" in body else "data"
  order = {item.facts["id"]: number for number, item in enumerate(items)}
  rows = [row for row in body[name] if row["question_id"] in order]
  rows.sort(key=lambda row: order[row["question_id"]])
  return _replaced(files, "annotations", folder, dict(body) | {name: rows})


def cut_vizwiz(
  files: Files, items: Sequence[Item], folder: pathlib.Path
) -> Files:
  """The annotations of some images."""
  if "annotations" not in files:
    return files
  names = {item.key for item in items}
  fields = {"image": records.TEXT}
  rows = records.read_records(files["annotations"], fields)
  rows = [row for row in rows if row["image"] in names]
  return _replaced(files, "annotations", folder, rows)


def cut_gqa(files: Files, items: Sequence[Item], folder: pathlib.Path) -> Files:
  """Some questions."""
  names = {item.key for item in items}
  body = records.read_any(files["questions"])
  rows = {key: row for key, row in body.items() if key in names}
  return _replaced(files, "questions", folder, rows)


def cut_pope(
  files: Files, items: Sequence[Item], folder: pathlib.Path
) -> Files:
  """The lines of some questions, in the order that they were asked."""
  numbers: dict[str, list[int]] = {}
  for item in items:
    split, _, number = item.key.partition("/")
    numbers.setdefault(split, []).append(int(number))
  found = {role: path for role, path in files.items() if role == "images"}
  for split, wanted in numbers.items():
    rows = records.read_lines(files[split], {"label": records.TEXT})
    found[split] = write_lines(
      folder / f"coco_pope_{split}.json", [rows[n - 1] for n in wanted]
    )
  return found


def cut_geneval(
  files: Files, items: Sequence[Item], folder: pathlib.Path
) -> Files:
  """Some prompts, each with its number among all."""
  rows = {
    item.facts["folder"]: dict(item.facts["metadata"])
    | {"number": int(item.facts["folder"])}
    for item in items
  }
  path = folder / "evaluation_metadata_of_subset.jsonl"
  return dict(files) | {"prompts": write_lines(path, rows.values())}


def cut_dpg(files: Files, items: Sequence[Item], folder: pathlib.Path) -> Files:
  """The rows of some prompts, in the order of the table."""
  names = {item.facts["id"] for item in items}
  read_rows(files["questions"])
  text = records.read_text(files["questions"])
  header, *rows = csv.reader(io.StringIO(text, newline=""))
  column = header.index("item_id")
  out = io.StringIO(newline="")
  writer = csv.writer(out)
  writer.writerow(header)
  writer.writerows(row for row in rows if row[column] in names)
  path = folder / "dpg_bench_of_subset.csv"
  replace_file(path, out.getvalue().encode())
  return dict(files) | {"questions": path}


def _replaced(
  files: Files, role: str, folder: pathlib.Path, body: object
) -> Files:
  path = folder / f"{role}_of_subset.json"
  return dict(files) | {role: write_json(path, body)}
