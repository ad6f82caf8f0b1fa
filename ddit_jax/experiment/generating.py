"""What `ddit sample` does."""

import json
import pathlib

import numpy as np
from PIL import Image

from ddit_jax.experiment.loading import load
from ddit_jax.experiment.pipeline import Pipeline
from ddit_jax.experiment.requests import Requests, read_image
from ddit_jax.experiment.run_folder import output_folder
from ddit_jax.experiment.sd3_loading import refuse_sd3


def generate(
  checkpoint: str,
  requests: Requests,
  *,
  out: str,
  weights: str,
  step: int | None,
  seed: int,
) -> int:
  """Runs the requests and writes their results into `out`; exit code 0.

  Raises:
    InputError: checkpoint, image files, prompts or folder cannot be used.
  """
  folder = output_folder(out)
  if requests.task != "t2i":
    # Before its weights are read, which takes minutes.
    refuse_sd3(checkpoint, f"--task={requests.task}")
  pipeline = load(checkpoint, weights=weights, step=step)
  rows = requests.rows
  if requests.task == "t2i":
    prompts = [row["prompt"] for row in rows]
    images = pipeline.text_to_image(prompts, seed=seed)
    results = [
      {"prompt": prompt, "image": _write_png(folder, number, image)}
      for number, (prompt, image) in enumerate(
        zip(prompts, images, strict=True)
      )
    ]
  else:
    results = _texts(pipeline, requests, seed)
  lines = [json.dumps(result) for result in results]
  (folder / "results.jsonl").write_text("\n".join(lines) + "\n")
  print("\n".join(lines))
  return 0


def _texts(pipeline: Pipeline, requests: Requests, seed: int) -> list[dict]:
  side = pipeline.image_size
  rows = requests.rows
  images = np.stack([read_image(row["image"], side) for row in rows])
  if requests.task == "caption":
    texts = pipeline.caption(images, seed=seed)
  else:
    prompts = [f"Q: {row['question']} A: " for row in rows]
    texts = pipeline.answer(images, prompts, seed=seed)
  key = "caption" if requests.task == "caption" else "answer"
  return [{**row, key: text} for row, text in zip(rows, texts, strict=True)]


def _write_png(folder: pathlib.Path, number: int, image: np.ndarray) -> str:
  path = folder / f"{number:05d}.png"
  Image.fromarray(image).save(path)
  return str(path)
