"""Tiny benchmark files in the official formats, in words of the digit world."""

import json
import pathlib

import numpy as np
from PIL import Image

COLORS = ("red", "blue", "green", "yellow")
DIGITS = ("two", "seven", "three", "eight")
QUESTION = "what color is the number?"


def write(path: pathlib.Path, value) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  text = value if isinstance(value, str) else json.dumps(value)
  path.write_text(text)


def lines(rows) -> str:
  return "".join(json.dumps(row) + "\n" for row in rows)


def picture(path: pathlib.Path, number: int) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  rng = np.random.default_rng(number)
  Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(path)


def answers(number: int) -> list[dict]:
  """Ten annotators, who do not all agree."""
  right, wrong = COLORS[number % 4], COLORS[(number + 1) % 4]
  return [
    {
      "answer": wrong if one == 10 else right,
      "raw_answer": wrong if one == 10 else right,
      "answer_confidence": "yes",
      "answer_id": one,
    }
    for one in range(1, 11)
  ]


def vqa(folder: pathlib.Path, count: int, *, prefix: str = "v2_") -> None:
  """VQA v2, or OK-VQA without prefix."""
  ids = [{"question_id": 100 + n, "image_id": n // 2} for n in range(count)]
  asked = [row | {"question": QUESTION} for row in ids]
  write(
    folder / f"{prefix}OpenEnded_mscoco_val2014_questions.json",
    {"data_subtype": "val2014", "questions": asked},
  )
  annotated = [
    row
    | {
      "question_type": "what color",
      "answer_type": "other",
      "multiple_choice_answer": COLORS[n % 4],
      "answers": answers(n),
    }
    for n, row in enumerate(ids)
  ]
  write(
    folder / f"{prefix}mscoco_val2014_annotations.json",
    {"data_subtype": "val2014", "annotations": annotated},
  )
  for n in range(count):
    picture(folder / "images" / f"COCO_val2014_{n // 2:012d}.jpg", n // 2)


def okvqa(folder: pathlib.Path, count: int) -> None:
  vqa(folder, count, prefix="")


def textvqa(folder: pathlib.Path, count: int) -> None:
  rows = [
    {
      "question_id": n,
      "image_id": f"i{n}",
      "question": QUESTION,
      "answers": [one["answer"] for one in answers(n)],
    }
    for n in range(count)
  ]
  write(folder / "TextVQA_0.5.1_val.json", {"data": rows})
  for n in range(count):
    picture(folder / "train_images" / f"i{n}.jpg", n)


def vizwiz(folder: pathlib.Path, count: int) -> None:
  rows = [
    {
      "image": f"VizWiz_val_{n:08d}.jpg",
      "question": QUESTION,
      "answers": answers(n),
      "answer_type": "other",
      "answerable": n % 2,
    }
    for n in range(count)
  ]
  write(folder / "val.json", rows)
  for n, row in enumerate(rows):
    picture(folder / "val" / row["image"], n)


def gqa(folder: pathlib.Path, count: int) -> None:
  rows = {
    f"q{n}": {
      "question": QUESTION,
      "imageId": f"n{n}",
      "answer": COLORS[n % 4],
      "fullAnswer": COLORS[n % 4],
      "isBalanced": True,
      "types": {
        "structural": "query",
        "semantic": "attr",
        "detailed": "color",
      },
      "groups": {"global": "color", "local": "x"},
      "semantic": [
        {"operation": "query", "argument": "color", "dependencies": []}
      ],
      "entailed": [],
      "equivalent": [],
    }
    for n in range(count)
  }
  write(folder / "testdev_balanced_questions.json", rows)
  for n in range(count):
    picture(folder / "images" / f"n{n}.jpg", n)


def pope(folder: pathlib.Path, count: int) -> None:
  for split in ("random", "popular", "adversarial"):
    rows = [
      {
        "question_id": n,
        "image": f"COCO_val2014_{n // 2:012d}.jpg",
        "text": f"is there a {DIGITS[n % 4]}?",
        "label": ("yes", "no")[n % 2],
      }
      for n in range(count)
    ]
    write(folder / f"coco_pope_{split}.json", lines(rows))
  for n in range(count):
    picture(folder / "images" / f"COCO_val2014_{n // 2:012d}.jpg", n // 2)


def mme(folder: pathlib.Path, count: int) -> None:
  """All fourteen subtasks, in both layouts."""
  subtasks = (
    *("existence", "count", "position", "color", "posters", "celebrity"),
    *("scene", "landmark", "artwork", "OCR", "commonsense_reasoning"),
    *("numerical_calculation", "text_translation", "code_reasoning"),
  )
  for subtask in subtasks:
    for n in range(max(1, count // len(subtasks))):
      base = folder / "MME_Benchmark" / subtask
      is_flat = subtask in ("OCR", "count")
      images = base if is_flat else base / "images"
      texts = base if is_flat else base / "questions_answers_YN"
      picture(images / f"{n:04d}.png", n)
      write(
        texts / f"{n:04d}.txt",
        "is there a two?\tYes\nis there a seven?\tNo\n",
      )


def coco_captions(folder: pathlib.Path, count: int) -> None:
  images = [{"id": n, "file_name": f"{n}.jpg"} for n in range(count)]
  texts = [
    {
      "id": 5 * n + k,
      "image_id": n,
      "caption": f"a {COLORS[(n + k) % 4]} {DIGITS[n % 4]}",
    }
    for n in range(count)
    for k in range(5)
  ]
  write(
    folder / "captions_val2014.json",
    {"info": {}, "licenses": [], "images": images, "annotations": texts},
  )
  for n in range(count):
    picture(folder / "images" / f"{n}.jpg", n)


def coco30k(folder: pathlib.Path, count: int) -> None:
  coco_captions(folder, count)


def prompts(count: int) -> list[str]:
  return [
    f"a picture of a {COLORS[n % 4]} {DIGITS[n // 4 % 4]}" for n in range(count)
  ]


def geneval(folder: pathlib.Path, count: int) -> None:
  rows = [
    {
      "tag": "single_object",
      "include": [{"class": DIGITS[n // 4 % 4], "count": 1}],
      "prompt": prompt,
    }
    for n, prompt in enumerate(prompts(count))
  ]
  write(folder / "evaluation_metadata.jsonl", lines(rows))


def t2i_compbench(folder: pathlib.Path, count: int) -> None:
  for category in ("color", "shape", "texture"):
    text = "\n".join(prompts(count)) + "\n"
    write(folder / f"{category}_val.txt", text)


def dpg(folder: pathlib.Path, count: int) -> None:
  header = (
    "item_id,text,keywords,proposition_id,dependency,category_broad,"
    "category_detailed,tuple,question_natural_language\n"
  )
  rows = ""
  for n, prompt in enumerate(prompts(count)):
    write(folder / "prompts" / f"p{n}.txt", prompt + "\n")
    rows += f"p{n},{prompt},,1,0,entity,whole,entity - whole (x),Is it?\n"
  write(folder / "dpg_bench.csv", header + rows)


def mjhq(folder: pathlib.Path, count: int) -> None:
  rows = {
    f"id{n}": {"category": ("people", "animals")[n % 2], "prompt": prompt}
    for n, prompt in enumerate(prompts(count))
  }
  write(folder / "meta_data.json", rows)


MAKERS = {
  "vqav2": vqa,
  "textvqa": textvqa,
  "vizwiz": vizwiz,
  "okvqa": okvqa,
  "gqa": gqa,
  "pope": pope,
  "mme": mme,
  "coco_captions": coco_captions,
  "geneval": geneval,
  "t2i_compbench": t2i_compbench,
  "dpg": dpg,
  "mjhq": mjhq,
  "coco30k": coco30k,
}


def write_all(root: pathlib.Path, count: int) -> None:
  """The files of every benchmark, with `count` questions or prompts each."""
  for name, make in MAKERS.items():
    make(root / name, count)
