"""`ddit sample`: runs requests, and writes images, captions or answers."""

import dataclasses
import logging
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from ddit_jax.errors import InputError
from ddit_jax.experiment.config import SampleConfig
from ddit_jax.experiment.workdir import output_folder
from ddit_jax.files import replace_file
from ddit_jax.json_files import to_json_lines, write_json
from ddit_jax.pipelines.edit_inputs import edited_images, masks
from ddit_jax.pipelines.image_pipeline import check_num_images
from ddit_jax.pipelines.inputs import sample_config
from ddit_jax.pipelines.load import load, refuse_captioner, refuse_sd3
from ddit_jax.pipelines.pipeline import Pipeline
from ddit_jax.pipelines.requests import open_image, read_square_image
from ddit_jax.pipelines.sd3 import Sd3Pipeline
from ddit_jax.prng import check_seed
from ddit_jax.protocols.layouts import save_png
from ddit_jax.sampling.step_cache import StepCache

_log = logging.getLogger(__name__)

# The fields of `SampleConfig` that `ddit sample` also takes as flags, by task,
# named by their last part; all others are set by their dotted names.
_OF_TEXTS = (
  "batch_size",
  "text.num_steps",
  "text.order",
  "text.preset",
  "text.temperature",
)
FLAG_FIELDS = {
  "t2i": (
    "batch_size",
    "image.guidance_scale",
    "image.num_inference_steps",
    "image.shift",
    "image.solver",
    "image.strength",
  ),
  "caption": _OF_TEXTS,
  "vqa": _OF_TEXTS,
}
# Exit code if only some requests could be run.
_PARTIAL = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
  """What may be set for all requests of a call; None keeps the default.

  Attributes:
    seed: of the draws.
    sample: changes of the checkpoint's `SampleConfig`, by dotted name.
    indices: numbers of the requests to run; all if None.
    size: of the images, side or (height, width) in pixels; only t2i.
    num_images_per_prompt: only t2i.
    instruction: see `Pipeline.answer`; only vqa.
    step_cache: threshold of `StepCache`, whose steps are then calibrated on the
      first batch; only t2i.
  """

  seed: int = 0
  sample: Mapping[str, str] = dataclasses.field(default_factory=dict)
  indices: tuple[int, ...] | None = None
  size: int | tuple[int, int] | None = None
  num_images_per_prompt: int = 1
  instruction: str | None = None
  step_cache: float | None = None

  def __post_init__(self):
    check_seed(self.seed)
    check_num_images(self.num_images_per_prompt, "--num_images_per_prompt")
    if len(set(self.indices or ())) < len(self.indices or ()):
      raise ValueError(f"--indices names a result twice: {self.indices}")
    sample_config(SampleConfig(), self.sample)
    if self.step_cache is not None:
      StepCache(threshold=self.step_cache)

  def chosen(self, rows: list[dict[str, str]]) -> dict[int, dict[str, str]]:
    """The requests to run by their index, each prompt as often as wanted.

    Raises:
      InputError: there is no request of an index.
    """
    rows = [row for row in rows for _ in range(self.num_images_per_prompt)]
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
    The exit code: 0, or `_PARTIAL` if some requests could not be used.

  Raises:
    InputError: the checkpoint, options or folder are invalid, or no request can
      be used.
  """
  chosen = options.chosen(rows)
  with output_folder(out) as folder:
    # Checked before the weights are read, which takes minutes.
    if task != "t2i":
      refuse_sd3(checkpoint, f"--task={task}")
    if task != "caption":
      refuse_captioner(checkpoint, step, f"--task={task}")
    pipeline = load(checkpoint, weights=weights, step=step)
    usable, errors = _usable(pipeline, task, chosen, options)
    if task == "t2i":
      found = _images(pipeline, usable, options, folder)
    else:
      found = _texts(pipeline, task, usable, options)
    results = dict(zip(usable, found, strict=True))
    results |= {i: {**chosen[i], "error": text} for i, text in errors.items()}
    lines = to_json_lines(results[index] for index in chosen)
    replace_file(folder / "results.jsonl", lines)
  print(lines.decode(), end="")
  return _PARTIAL if errors else 0


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
  """The "pixels", and "mask_pixels", of a request; raises InputError."""
  if task == "t2i":
    if isinstance(pipeline, Pipeline):
      for key in ("prompt", "negative_prompt"):
        pipeline.caption_tokens(row.get(key, ""))
    found, sides = {}, pipeline.sides(options.size)
    if "image" in row:
      image = open_image(row["image"])
      (found["pixels"],) = edited_images(image, sides, 1)
    if "mask_image" in row:
      (found["mask_pixels"],) = masks(open_image(row["mask_image"]), sides, 1)
    return found
  if task == "vqa":
    (prompt,) = pipeline.prompts([row["question"]], options.instruction)
    pipeline.template(prompt)
  side, crop = pipeline.input_size, pipeline.input_crop
  return {"pixels": read_square_image(row["image"], side, crop)}


def _images(
  pipeline: Pipeline | Sd3Pipeline,
  rows: dict[int, dict[str, Any]],
  options: Options,
  folder: pathlib.Path,
) -> list[dict]:
  """Draws and writes the images, those of one kind of request together."""
  sample = options.sample
  if options.step_cache is not None:
    sample = {**sample, **_cached(pipeline, rows, options)}
  found, parts = {}, {}
  for index, row in rows.items():
    parts.setdefault(_edited_by(row), {})[index] = row
  for columns, part in parts.items():
    edit = {
      argument: [row[key] for row in part.values()]
      for key, argument in _EDIT_COLUMNS.items()
      if key in columns
    }
    drawn = pipeline.text_to_image(
      [row["prompt"] for row in part.values()],
      negative_prompt=[row.get("negative_prompt", "") for row in part.values()],
      seed=options.seed,
      sample=sample,
      size=options.size,
      indices=tuple(part),
      **edit,
    )
    for index, image in zip(part, drawn.images, strict=True):
      row = part[index]
      for key in columns:
        del row[key]
      if "image" in row:
        row["edited_image"] = row.pop("image")
      path = folder / f"{index:05d}.png"
      save_png(path, Image.fromarray(image))
      found[index] = {**row, "image": str(path), "seed": options.seed}
  settings = dataclasses.asdict(drawn.settings)
  write_json(folder / "settings.json", settings, indent=2)
  return [found[index] for index in rows]


def _cached(
  pipeline: Pipeline | Sd3Pipeline,
  rows: dict[int, dict[str, Any]],
  options: Options,
) -> dict[str, Any]:
  """The change of settings that reuses steps."""
  if any(_edited_by(row) for row in rows.values()):
    raise InputError("--step_cache draws from noise alone: leave out --image")
  count = sample_config(pipeline.sample, options.sample).batch_size
  first = list(rows.values())[:count]
  report = pipeline.calibrate_step_cache(
    [row["prompt"] for row in first],
    negative_prompt=[row.get("negative_prompt", "") for row in first],
    cache=StepCache(threshold=options.step_cache),
    seed=options.seed,
    sample=options.sample,
    size=options.size,
  )
  return {"image.reused_steps": report.reused_steps}


_EDIT_COLUMNS = {"pixels": "image", "mask_pixels": "mask_image"}


def _edited_by(row: dict[str, Any]) -> tuple[str, ...]:
  return tuple(key for key in _EDIT_COLUMNS if key in row)


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
