"""Items of benchmarks that ask about images, from their official files."""

import pathlib
from collections import Counter
from collections.abc import Sequence

from ddit_jax.errors import InputError
from ddit_jax.protocols.item import Files, Item, image_in
from ddit_jax.scoring import gqa, records
from ddit_jax.scoring.pope import POPE_SPLITS
from ddit_jax.scoring.vqa import read_annotations

_QUESTION = {
  "question_id": records.ID,
  "image_id": records.ID,
  "question": records.TEXT,
}
# MME's subtasks keep their questions beside the images or in folders.
_MME_FOLDERS = ("images", "questions_answers_YN")
_SUFFIXES = (".jpg", ".png", ".jpeg")


def read_vqa(files: Files) -> list[Item]:
  """VQA v2 and OK-VQA: images named COCO_val2014_000000000001.jpg."""
  path = files["questions"]
  body = records.read_any(path)
  subtype = body.get("data_subtype", "") if isinstance(body, dict) else ""
  expected = _annotated(files)
  return [
    _asked(
      row["question_id"],
      row["question"],
      image_in(files["images"], f"COCO_{subtype}_{row['image_id']:012d}.jpg"),
      number,
      expected.get(row["question_id"]),
    )
    for number, row in enumerate(
      records.list_in(body, path, "questions", _QUESTION | {"image_id": (int,)})
    )
  ]


def read_textvqa(files: Files) -> list[Item]:
  """TextVQA: images named IMAGE_ID.jpg."""
  rows = records.read_list_in(files["questions"], "data", _QUESTION)
  expected = _annotated(files)
  return [
    _asked(
      row["question_id"],
      row["question"],
      image_in(files["images"], f"{row['image_id']}.jpg"),
      number,
      expected.get(row["question_id"]),
    )
    for number, row in enumerate(rows)
  ]


def read_vizwiz(files: Files) -> list[Item]:
  """VizWiz: every image has one question, and names it."""
  fields = {"image": records.TEXT, "question": records.TEXT}
  return [
    _asked(
      row["image"],
      row["question"],
      image_in(files["images"], row["image"]),
      number,
      _most_common(_vizwiz_answers(row, files["questions"])),
    )
    for number, row in enumerate(
      records.read_records(files["questions"], fields)
    )
  ]


def read_gqa(files: Files) -> list[Item]:
  """GQA: all questions of the file, of which the balanced ones are scored."""
  questions = gqa.read_questions(files["questions"])
  return [
    _asked(
      key,
      row["question"],
      image_in(files["images"], f"{row['imageId']}.jpg"),
      number,
      row["answer"],
    )
    for number, (key, row) in enumerate(questions.items())
  ]


def read_pope(files: Files) -> list[Item]:
  """POPE: the three files of 3,000 questions each, in their order."""
  fields = {"image": records.TEXT, "text": records.TEXT, "label": records.TEXT}
  items: list[Item] = []
  for split in POPE_SPLITS:
    for number, row in enumerate(records.read_lines(files[split], fields), 1):
      items.append(
        Item(
          key=f"{split}/{number}",
          text=row["text"],
          draw=len(items),
          image=image_in(files["images"], row["image"]),
          facts={
            "split": split,
            "question": row["text"],
            "expected": row["label"],
          },
        )
      )
  return items


def read_mme(files: Files) -> list[Item]:
  """MME: a folder a subtask, with two questions and answers for each image.

  A text file NAME.txt has a line of question and answer, with a tab between.
  It lies beside the image, or in questions_answers_YN beside images.
  """
  folder = files["questions"]
  subtasks = [path for path in sorted(folder.iterdir()) if path.is_dir()]
  items: list[Item] = []
  for subtask in subtasks:
    images, texts = (subtask / name for name in _MME_FOLDERS)
    if not texts.is_dir():
      images = texts = subtask
    for number, text in enumerate(sorted(texts.glob("*.txt")), 1):
      unit = f"{subtask.name}/{number}"
      items += _mme_pair(unit, text, images, len(items))
  return items


def read_captions(files: Files) -> list[Item]:
  """COCO captions: the images of the annotations, or those of a split.

  The role "split" is a JSON list of image ids, or Karpathy's dataset_coco.json,
  of which the images of "test" are taken.
  """
  rows, texts = records.read_lists_in(
    files["annotations"],
    {
      "images": {"id": (int,), "file_name": records.TEXT},
      "annotations": {"image_id": (int,), "caption": records.TEXT},
    },
  )
  expected = {row["image_id"]: row["caption"] for row in reversed(texts)}
  if "split" in files:
    wanted = _split_ids(files["split"])
    missing = wanted - {row["id"] for row in rows}
    if missing:
      raise InputError(
        f"{files['split']} names {len(missing)} images that "
        f"{files['annotations']} does not have"
      )
    rows = [row for row in rows if row["id"] in wanted]
  return [
    Item(
      key=str(row["id"]),
      text="",
      draw=number,
      image=image_in(files["images"], row["file_name"]),
      facts={"id": row["id"], "expected": expected.get(row["id"], "")},
    )
    for number, row in enumerate(rows)
  ]


def _asked(
  key: int | str,
  text: str,
  image: pathlib.Path,
  number: int,
  expected: str | None,
) -> Item:
  facts = {"id": key, "question": text}
  if expected is not None:
    facts["expected"] = expected
  return Item(key=str(key), text=text, draw=number, image=image, facts=facts)


def _annotated(files: Files) -> dict[int | str, str | None]:
  """The most common answer of each question, where there are annotations."""
  if "annotations" not in files:
    return {}
  return {
    one.question_id: _most_common(one.answers)
    for one in read_annotations(files["annotations"])
  }


def _vizwiz_answers(row: records.Record, path: pathlib.Path) -> list[str]:
  """The annotators' answers, which the test split lacks."""
  if "answers" not in row:
    return []
  where = f"{path}, {row['image']!r}, answer"
  fields = {"answer": records.TEXT}
  found = records.checked(row["answers"], fields, where=where)
  return [one["answer"] for one in found]


def _most_common(answers: Sequence[str]) -> str | None:
  return Counter(answers).most_common(1)[0][0] if answers else None


def _mme_pair(
  unit: str, path: pathlib.Path, images: pathlib.Path, draw: int
) -> list[Item]:
  lines = [line.split("\t") for line in _lines(path)]
  if len(lines) != 2 or any(len(line) != 2 for line in lines):
    raise InputError(
      f"{path} must hold two lines of a question, a tab and Yes or No"
    )
  candidates = [images / f"{path.stem}{suffix}" for suffix in _SUFFIXES]
  image = next((one for one in candidates if one.is_file()), candidates[0])
  return [
    Item(
      key=f"{unit}/{number}",
      text=question,
      draw=draw + number,
      image=image,
      unit=unit,
      facts={
        "subtask": unit.partition("/")[0],
        "image": image.name,
        "question": question,
        "expected": label.strip(),
      },
    )
    for number, (question, label) in enumerate(lines)
  ]


def _lines(path: pathlib.Path) -> list[str]:
  return [line for line in records.read_text(path).split("\n") if line.strip()]


def _split_ids(path: pathlib.Path) -> set[int]:
  body = records.read_any(path)
  if isinstance(body, list):
    if not all(type(one) is int for one in body):
      raise InputError(f"{path} must be a list of whole numbers, image ids")
    return set(body)
  rows = records.list_in(
    body, path, "images", {"cocoid": (int,), "split": records.TEXT}
  )
  return {row["cocoid"] for row in rows if row["split"] == "test"}
