"""`ddit sample`: reads requests, and writes images, captions or answers."""

import dataclasses
import json
import logging
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ddit_jax.data.example import BadRecord
from ddit_jax.data.image import ImageConfig, ImageTransform
from ddit_jax.data.image_header import (
  HeaderError,
  image_size_of_bytes,
  is_animation,
)
from ddit_jax.data.sources.annotations import TextError, json_lines
from ddit_jax.data.sources.paths import SafeFolder, file_facts
from ddit_jax.errors import InputError
from ddit_jax.experiment.config import SampleConfig
from ddit_jax.experiment.workdir import output_folder
from ddit_jax.pipelines.inputs import sample_config
from ddit_jax.pipelines.load import load, refuse_sd3
from ddit_jax.pipelines.pipeline import Pipeline
from ddit_jax.pipelines.sd3 import Sd3Pipeline
from ddit_jax.prng import check_seed

_log = logging.getLogger(__name__)

# The keys of a request for each task.
NEEDED = {
  "t2i": ("prompt",),
  "caption": ("image",),
  "vqa": ("image", "question"),
}
# The names by which `ddit sample` takes fields of `SampleConfig`, by task; all
# others are set by their dotted names.
_OF_TEXTS = {
  "batch_size": "batch_size",
  "order": "text.order",
  "preset": "text.preset",
  "steps": "text.num_steps",
  "temperature": "text.temperature",
}
SHORT_NAMES = {
  "t2i": {
    "batch_size": "batch_size",
    "guidance": "image.guidance_scale",
    "shift": "image.shift",
    "steps": "image.num_inference_steps",
  },
  "caption": _OF_TEXTS,
  "vqa": _OF_TEXTS,
}
# Exit code if only some requests could be run.
PARTIAL = 1
# Images of one prompt; far more than anyone looks at.
_MAX_IMAGES = 100_000


def read(
  task: str,
  *,
  prompts: list[str],
  images: list[str],
  questions: list[str],
  inputs: str | None,
) -> list[dict[str, str]]:
  """Collects requests from flags and, if given, from a JSONL file.

  One image may have many questions, and one question many images.

  Returns:
    For each request, the values of `NEEDED[task]`.

  Raises:
    InputError: there is no request, a key is missing, or the file is damaged.
  """
  needed = NEEDED[task]
  given = {"prompt": prompts, "image": images, "question": questions}
  extra = [key for key, values in given.items() if values and key not in needed]
  if extra:
    raise InputError(f"--task={task} does not take --{extra[0]}")
  rows = _from_flags(needed, given)
  if inputs is not None:
    rows += _from_file(pathlib.Path(inputs), needed)
  if not rows:
    flags = " and ".join(f"--{key}" for key in needed)
    raise InputError(f"nothing to do: give {flags}, or --inputs=FILE.jsonl")
  return rows


def read_image(
  path: str, side: int, crop: str = "centre"
) -> UInt8[np.ndarray, "side side 3"]:
  """An image file as training reads it.

  Args:
    path: of the file.
    side: in pixels.
    crop: "centre" or "pad", see `ImageConfig`.

  Raises:
    InputError: the file does not exist, or training would not take it either.
  """
  file = pathlib.Path(path).expanduser()
  folder = SafeFolder(file.parent, follow_links=True)
  try:
    data = folder.read(file.name, path)
    config = ImageConfig(image_size=side, crop=crop)
    pixels = ImageTransform(config=config)(
      data, np.random.default_rng(0), record_id=path, may_flip=False
    )
    size = image_size_of_bytes(data)
  except BadRecord as error:
    if error.reason == "missing_file":
      raise InputError(f"there is no image file {path}") from error
    raise InputError(
      f"{path} cannot be used: {error.detail} ({error.reason})"
    ) from error
  except HeaderError as error:
    raise InputError(f"{path} cannot be used: {error}") from error
  if is_animation(data):
    _log.info("%s is an animation: its first frame is used", path)
  if size.height != size.width and crop == "centre":
    _log.info("%s is cropped to its centre square", path)
  return pixels


def _from_flags(needed, given) -> list[dict[str, str]]:
  columns = {key: given[key] for key in needed}
  counts = {key: len(values) for key, values in columns.items()}
  if not any(counts.values()):
    return []
  if not all(counts.values()):
    missing = next(key for key, count in counts.items() if not count)
    raise InputError(f"--{missing} is missing")
  longest = max(counts.values())
  for key, count in counts.items():
    if count not in (1, longest):
      raise InputError(
        f"{counts} flags do not pair up: repeat --{key} once or {longest} times"
      )
  for key, values in columns.items():
    columns[key] = values * longest if len(values) == 1 else values
  rows = [
    dict(zip(columns, row, strict=True))
    for row in zip(*columns.values(), strict=True)
  ]
  for row in rows:
    _check_row(row, needed, "the command line")
  return rows


def _from_file(path: pathlib.Path, needed) -> list[dict[str, str]]:
  try:
    file_facts(path)
    lines = list(json_lines(path))
  except (OSError, ValueError) as error:
    raise InputError(f"--inputs={path} cannot be read: {error}") from error
  rows = []
  for number, row in lines:
    where = f"{path} line {number}"
    if isinstance(row, TextError):
      raise InputError(f"{where} is {row}")
    _check_row(row, needed, where)
    rows.append({key: row[key] for key in needed})
  if not rows:
    raise InputError(f"{path} is empty: write one JSON object per line")
  return rows


def _check_row(row, needed, where: str) -> None:
  for key in needed:
    value = row.get(key)
    if not isinstance(value, str):
      raise InputError(f"{where} needs a text {key!r}")
    # The empty prompt is one that training uses, too.
    if key != "prompt" and not value.strip():
      raise InputError(f"{where} needs a non-empty text {key!r}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
  """What may be set for all requests of a call; None keeps the default.

  Attributes:
    seed: of the draws.
    sample: changes of the checkpoint's `SampleConfig`, by dotted name.
    indices: numbers of the requests to run; all if None.
    size: of the images, side or (height, width) in pixels; only t2i.
    num_images: images per prompt; only t2i.
    negative: negative prompt; only t2i.
    instruction: see `Pipeline.answer`; only vqa.
  """

  seed: int = 0
  sample: Mapping[str, str] = dataclasses.field(default_factory=dict)
  indices: tuple[int, ...] | None = None
  size: int | tuple[int, int] | None = None
  num_images: int = 1
  negative: str = ""
  instruction: str | None = None

  def __post_init__(self):
    check_seed(self.seed)
    if not 1 <= self.num_images <= _MAX_IMAGES:
      raise ValueError(
        f"--num_images must be in 1 to {_MAX_IMAGES}, got {self.num_images}"
      )
    if len(set(self.indices or ())) < len(self.indices or ()):
      raise ValueError(f"--indices names a result twice: {self.indices}")
    sample_config(SampleConfig(), self.sample)

  def chosen(self, rows: list[dict[str, str]]) -> dict[int, dict[str, str]]:
    """The requests to run by their index, each prompt `num_images` times.

    Raises:
      InputError: there is no request of an index.
    """
    rows = [row for row in rows for _ in range(self.num_images)]
    indices = range(len(rows)) if self.indices is None else self.indices
    for index in indices:
      if not 0 <= index < len(rows):
        raise InputError(
          f"--indices has {index}, but the results are numbered 0 to "
          f"{len(rows) - 1}"
        )
    return {index: rows[index] for index in indices}


def generate(
  checkpoint: str,
  task: str,
  rows: list[dict[str, str]],
  *,
  out: str,
  weights: str,
  step: int | None,
  options: Options,
) -> int:
  """Runs the requests and writes their results into `out`.

  A request that cannot be used gets an "error" in place of a result.

  Returns:
    The exit code: 0, or `PARTIAL` if some requests could not be used.

  Raises:
    InputError: the checkpoint, options or folder are invalid, or no request can
      be used.
  """
  chosen = options.chosen(rows)
  with output_folder(out) as folder:
    if task != "t2i":
      # Checked before the weights are read, which takes minutes.
      refuse_sd3(checkpoint, f"--task={task}")
    pipeline = load(checkpoint, weights=weights, step=step)
    usable, errors = _usable(pipeline, task, chosen, options)
    if task == "t2i":
      found = _images(pipeline, usable, options, folder)
    else:
      found = _texts(pipeline, task, usable, options)
    results = dict(zip(usable, found, strict=True))
    results |= {i: {**chosen[i], "error": text} for i, text in errors.items()}
    lines = [json.dumps(results[index]) for index in chosen]
    (folder / "results.jsonl").write_text("\n".join(lines) + "\n")
  print("\n".join(lines))
  return PARTIAL if errors else 0


def _usable(
  pipeline: Pipeline | Sd3Pipeline,
  task: str,
  rows: dict[int, dict[str, str]],
  options: Options,
) -> tuple[dict[int, dict[str, Any]], dict[int, str]]:
  """The requests that can be run, with their "pixels", and others' errors.

  Raises:
    InputError: none can be run; the message is that of the first.
  """
  usable, errors = {}, {}
  for index, row in rows.items():
    try:
      usable[index] = {**row, **_checked(pipeline, task, row, options)}
    except InputError as error:
      errors[index] = str(error)
  if not usable:
    raise InputError(next(iter(errors.values())))
  for index, text in errors.items():
    _log.warning("request %d is left out: %s", index, text)
  return usable, errors


def _checked(
  pipeline: Pipeline | Sd3Pipeline,
  task: str,
  row: dict[str, str],
  options: Options,
) -> dict[str, np.ndarray]:
  """The "pixels" of a request with an image; raises InputError."""
  if task == "t2i":
    if isinstance(pipeline, Pipeline):
      pipeline.caption_tokens(row["prompt"])
    return {}
  if task == "vqa":
    (prompt,) = pipeline.prompts([row["question"]], options.instruction)
    pipeline.template(prompt)
  side, crop = pipeline.input_size, pipeline.input_crop
  return {"pixels": read_image(row["image"], side, crop)}


def _images(
  pipeline: Pipeline | Sd3Pipeline,
  rows: dict[int, dict[str, Any]],
  options: Options,
  folder: pathlib.Path,
) -> list[dict]:
  images = pipeline.text_to_image(
    [row["prompt"] for row in rows.values()],
    negative=options.negative,
    seed=options.seed,
    sample=options.sample,
    size=options.size,
    indices=tuple(rows),
  )
  return [
    {**row, "image": _write_png(folder, index, image)}
    for (index, row), image in zip(rows.items(), images, strict=True)
  ]


def _texts(
  pipeline: Pipeline,
  task: str,
  rows: dict[int, dict[str, Any]],
  options: Options,
) -> list[dict]:
  images = np.stack([row.pop("pixels") for row in rows.values()])
  common = {
    "seed": options.seed,
    "sample": options.sample,
    "indices": tuple(rows),
  }
  if task == "caption":
    texts = pipeline.caption(images, **common)
  else:
    questions = [row["question"] for row in rows.values()]
    common["instruction"] = options.instruction
    texts = pipeline.answer(images, questions, **common)
  key = "caption" if task == "caption" else "answer"
  return [
    {**row, key: text} for row, text in zip(rows.values(), texts, strict=True)
  ]


def _write_png(folder: pathlib.Path, number: int, image: np.ndarray) -> str:
  path = folder / f"{number:05d}.png"
  Image.fromarray(image).save(path)
  return str(path)
