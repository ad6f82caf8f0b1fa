"""Items of benchmarks that ask for images, from their official prompts."""

import pathlib

import numpy as np

from ddit_jax.errors import InputError
from ddit_jax.protocols.item import Files, Item
from ddit_jax.scoring import records

COMPBENCH_CATEGORIES = ("color", "shape", "texture")
# Prompts become names of files, which have at most 255 bytes; a number and the
# ending of a file that is being written are added to them.
_LONGEST_NAME = 255 - len("_000000.png.partial")
_NUM_COCO = 30_000
_COCO_SEED = 0


def read_geneval(files: Files, images_per_prompt: int) -> list[Item]:
  """GenEval: folders 00000, 00001, ... of a prompt's images.

  The published script starts every prompt with the same seed, so the first
  images of all prompts share their noise, and so on.
  """
  fields = {"tag": records.TEXT, "prompt": records.TEXT, "include": (list,)}
  rows = records.read_lines(files["prompts"], fields)
  return [
    Item(
      key=f"{number:05d}/{sample}",
      text=row["prompt"],
      draw=sample,
      path=f"{number:05d}/samples/{sample:05d}.png",
      unit=f"{number:05d}",
      facts={"metadata": row, "folder": f"{number:05d}"},
    )
    for number, row in enumerate(rows)
    for sample in range(images_per_prompt)
  ]


def read_compbench(files: Files, images_per_prompt: int) -> list[Item]:
  """T2I-CompBench: CATEGORY/samples/PROMPT_000000.png, numbered throughout."""
  items: list[Item] = []
  for category in COMPBENCH_CATEGORIES:
    prompts = _prompt_lines(files[category])
    for number, prompt in enumerate(
      prompt for prompt in prompts for _ in range(images_per_prompt)
    ):
      items.append(
        Item(
          key=f"{category}/{number:06d}",
          text=prompt,
          draw=len(items),
          path=f"{category}/samples/{prompt}_{number:06d}.png",
          unit=f"{category}/{number // images_per_prompt}",
          facts={"category": category},
        )
      )
  return items


def read_dpg(files: Files, images_per_prompt: int) -> list[Item]:
  """DPG-Bench: ID.txt a prompt; its images become one grid ID.png."""
  items: list[Item] = []
  for path in sorted(files["prompts"].glob("*.txt")):
    prompt = records.read_text(path).strip()
    for tile in range(images_per_prompt):
      items.append(
        Item(
          key=f"{path.stem}/{tile}",
          text=prompt,
          draw=len(items),
          path=f"tiles/{path.stem}_{tile}.png",
          unit=path.stem,
          facts={"id": path.stem},
        )
      )
  return items


def read_mjhq(files: Files, images_per_prompt: int) -> list[Item]:
  """MJHQ-30K: one image a prompt, CATEGORY/ID.png."""
  del images_per_prompt
  body = records.read_any(files["prompts"])
  if not isinstance(body, dict):
    raise InputError(f"{files['prompts']} must hold an object, id to prompt")
  for key, row in body.items():
    records.check_fields(
      row,
      {"category": records.TEXT, "prompt": records.TEXT},
      where=f"{files['prompts']}, {key!r}",
    )
  return [
    Item(
      key=key,
      text=row["prompt"],
      draw=number,
      path=f"{_file_name(row['category'])}/{_file_name(key)}.png",
      facts={"category": row["category"]},
    )
    for number, (key, row) in enumerate(body.items())
  ]


def read_coco30k(files: Files, images_per_prompt: int) -> list[Item]:
  """COCO-30k: one caption of each of 30,000 images, drawn with seed 0.

  Where the file has fewer images, one caption of each.
  """
  del images_per_prompt
  rows = records.read_list_in(
    files["annotations"],
    "annotations",
    {"image_id": (int,), "caption": records.TEXT},
  )
  of_image: dict[int, list[str]] = {}
  for row in rows:
    of_image.setdefault(row["image_id"], []).append(row["caption"])
  rng = np.random.default_rng(_COCO_SEED)
  images = rng.permutation(sorted(of_image))[:_NUM_COCO]
  return [
    Item(
      key=str(image),
      text=" ".join(
        of_image[image][rng.integers(len(of_image[image]))].split()
      ),
      draw=number,
      path=f"images/{image:012d}.png",
      facts={"id": int(image)},
    )
    for number, image in enumerate(images.tolist())
  ]


def _prompt_lines(path: pathlib.Path) -> list[str]:
  lines = [line.strip() for line in records.read_text(path).split("\n")]
  return [_file_name(line) for line in lines if line]


def _file_name(text: str) -> str:
  """The text, after checking that a file can have this name."""
  is_name = text not in (".", "..") and "/" not in text and "\0" not in text
  if not is_name or len(text.encode()) > _LONGEST_NAME:
    raise InputError(
      f"{text[:80]!r} cannot be the name of an image file, as the benchmark's "
      "layout wants it: leave it out"
    )
  return text
