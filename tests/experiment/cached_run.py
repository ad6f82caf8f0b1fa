"""Runs on a few pictures behind tiny frozen encoders, with and without caches.

The pictures lie in two sources, one of which has a cut image, a text that is
too long and several texts a picture.
"""

import dataclasses
import json
import pathlib

import numpy as np
from PIL import Image

from ddit_jax.experiment.config import Config
from ddit_jax.experiment.data import CacheRequest
from tests import converted_weights, tiny_run

SIDE, NUM_PICTURES = 16, 12
LONG = " ".join(["a red seven above a green two"] * 3)


def write_pictures(folder: pathlib.Path) -> None:
  """Noise in two folders, "many" with lists of captions."""
  rng = np.random.default_rng(0)
  entries = []
  for i in range(2 * NUM_PICTURES):
    name = "plain" if i < NUM_PICTURES else "many"
    path = folder / name / f"{i:02}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = rng.integers(0, 256, (20, 24, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    caption = f"a red seven {('above', 'below')[i % 2]} a green two"
    if name == "plain":
      path.with_suffix(".txt").write_text(caption)
    else:
      entry = {"image_path": path.name, "caption": [caption, "a two"]}
      entry["re_caption"] = LONG if i == 15 else "a green seven"
      entries.append(entry)
  cut = folder / "plain" / "05.png"
  cut.write_bytes(cut.read_bytes()[:-30])
  (folder / "many" / "list.json").write_text(json.dumps(entries))


def write_weights(folder: pathlib.Path) -> pathlib.Path:
  """Converted weights."""
  return converted_weights.write(folder)


def settings(
  pictures: pathlib.Path,
  weights: pathlib.Path,
  *,
  task: dict | None = None,
  **changes: str,
) -> Config:
  """A run's settings.

  Args:
    pictures: what `write_pictures` wrote.
    weights: what `write_weights` wrote.
    task: changes to both tasks.
    changes: as in `tiny_run.settings`.
  """
  base = tiny_run.settings(
    **{
      "model__size": "of_encoders",
      "model__encoders_from": str(weights),
      # What caches are kept in at full size.
      "model__encoder_dtype": "bfloat16",
      "loss__is_merged": "False",
      "loss__condition_dropout": "0.3",
      **changes,
    }
  )
  filters = {"min_short_side": SIDE}
  plain = {"kind": "image_folder", "path": str(pictures / "plain")}
  many = {"kind": "image_folder", "path": str(pictures / "many" / "list.json")}
  given = {
    "image_size": SIDE,
    "text_length": 12,
    "mixture": {"0": {"plain": 1.0, "many": 1.0}},
    "rewritten_probability": 0.5,
  } | (task or {})
  data = base.data
  data = dataclasses.replace(
    data,
    sources={
      "plain": plain | {"filters": filters},
      "many": many | {"filters": filters},
    },
    max_bad_share=0.5,
    text_to_image=dataclasses.replace(data.text_to_image, **given),
    image_to_text=dataclasses.replace(data.image_to_text, **given),
  )
  return dataclasses.replace(base, data=data)


def cached_settings(
  files: tuple[pathlib.Path, pathlib.Path],
  cache: pathlib.Path,
  *,
  task: dict | None = None,
  **changes: str,
) -> Config:
  """As `settings`, with both tasks from a cache."""
  task = {"cache": str(cache)} | (task or {})
  return settings(*files, task=task, **changes)


def request(out: pathlib.Path, **changes) -> CacheRequest:
  """Latents and T5's features of the image task."""
  given = CacheRequest(
    task="text_to_image",
    parts=("latents", "t5"),
    out=str(out),
    max_bad_rate=0.5,
  )
  return dataclasses.replace(given, **changes)
