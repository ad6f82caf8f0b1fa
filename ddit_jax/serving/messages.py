"""JSON bodies of requests to jobs, and results to JSON."""

import base64
import dataclasses
import re
import time
import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from ddit_jax.data.example import BadRecord
from ddit_jax.data.image import decode_image
from ddit_jax.errors import InputError, suggest
from ddit_jax.json_files import parse_json
from ddit_jax.monitor.image_grid import png_base64
from ddit_jax.pipelines.inputs import check_text, image_batch, sample_config
from ddit_jax.pipelines.pipeline import Pipeline
from ddit_jax.pipelines.sd3 import Sd3Pipeline
from ddit_jax.prng import MAX_SEED
from ddit_jax.serving.engine import ImageGroup, ImageRow, TextGroup, TextRow

_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")
_DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
  """What one request may ask for.

  Attributes:
    max_images: images, or texts, of one request.
    max_steps: of an image.
    max_pixels: of an image that is read.
  """

  max_images: int = 16
  max_steps: int = 200
  max_pixels: int = 2**24


# Fields of a request -> fields of `SampleConfig`.
_IMAGE_SETTINGS = {
  "guidance_scale": "image.guidance_scale",
  "num_inference_steps": "image.num_inference_steps",
  "solver": "image.solver",
}
_TEXT_SETTINGS = {"temperature": "text.temperature"}
_COMMON = ("model", "user", "n", "seed")
_IMAGE_FIELDS = (
  *_COMMON,
  *_IMAGE_SETTINGS,
  "negative_prompt",
  "prompt",
  "response_format",
  "size",
)
_CHAT_FIELDS = (*_COMMON, *_TEXT_SETTINGS, "messages", "stream")


def image_job(
  fields: dict[str, Any], pipeline: Pipeline | Sd3Pipeline, limits: Limits
) -> tuple[ImageGroup, list[ImageRow]]:
  """The job of a body of /v1/images/generations; raises InputError."""
  _check_fields(fields, _IMAGE_FIELDS)
  prompt, negative = (
    _text(fields, name, default)
    for name, default in (("prompt", None), ("negative_prompt", ""))
  )
  if fields.get("response_format", "b64_json") != "b64_json":
    raise InputError("response_format: there is only 'b64_json'")
  count = _whole(fields, "n", 1, 1, limits.max_images)
  seed = _whole(fields, "seed", 0, 0, MAX_SEED - count + 1)
  pipeline.prompt_ids([prompt, negative])
  size = _image_size(fields.get("size"), pipeline)
  changes = _changes(fields, _IMAGE_SETTINGS)
  sampling = sample_config(pipeline.sample, changes).image
  if sampling.num_inference_steps > limits.max_steps:
    raise InputError(
      f"num_inference_steps is {sampling.num_inference_steps}, at most "
      f"{limits.max_steps} are allowed"
    )
  if negative and not sampling.is_guided:
    raise InputError("negative_prompt has no effect with guidance_scale 1")
  rows = [ImageRow(prompt, negative, seed + i) for i in range(count)]
  return ImageGroup(size, tuple(changes.items())), rows


def chat_job(
  fields: dict[str, Any], pipeline: Pipeline | Sd3Pipeline, limits: Limits
) -> tuple[TextGroup, list[TextRow]]:
  """The job of a body of /v1/chat/completions; raises InputError."""
  if not isinstance(pipeline, Pipeline):
    raise InputError(
      "this checkpoint has no text head and only generates images: use "
      "/v1/images/generations"
    )
  _check_fields(fields, _CHAT_FIELDS)
  if fields.get("stream"):
    raise InputError("stream: texts are sent whole, leave it out")
  question, url = _message(fields.get("messages"))
  count = _whole(fields, "n", 1, 1, limits.max_images)
  seed = _whole(fields, "seed", 0, 0, MAX_SEED - count + 1)
  prompt = pipeline.prompts([question])[0] if question else ""
  template = pipeline.template(prompt)
  image = read_image(_data_of(url), "image_url", limits)
  (pixels,) = image_batch([image], pipeline.input_size, pipeline.input_crop)
  changes = _changes(fields, _TEXT_SETTINGS)
  sample_config(pipeline.sample, changes)
  rows = [TextRow(pixels, *template, seed + i) for i in range(count)]
  return TextGroup(tuple(changes.items())), rows


def images_answer(images: Sequence[np.ndarray]) -> dict[str, Any]:
  """The body of drawn images, PNG files in base64."""
  return {
    "created": int(time.time()),
    "data": [{"b64_json": png_base64(image, "drawn")} for image in images],
  }


def chat_answer(texts: Sequence[str], model: str) -> dict[str, Any]:
  """The body of texts."""
  return {
    "id": f"chatcmpl-{uuid.uuid4().hex}",
    "object": "chat.completion",
    "created": int(time.time()),
    "model": model,
    "choices": [
      {
        "index": index,
        "message": {"role": "assistant", "content": text},
        "finish_reason": "stop",
      }
      for index, text in enumerate(texts)
    ],
  }


def fields_of(body: bytes) -> dict[str, Any]:
  """The fields of a request; raises InputError."""
  try:
    fields = parse_json(body)
  except ValueError as error:
    raise InputError(f"the body is not JSON: {error}") from error
  if not isinstance(fields, dict):
    raise InputError("the body must be a JSON object")
  # Clients send null for what they leave out.
  return {name: x for name, x in fields.items() if x is not None}


def read_image(data: bytes, name: str, limits: Limits) -> Image.Image:
  """An image that a user sent; raises InputError."""
  try:
    return decode_image(data, name, max_pixels=limits.max_pixels)
  except BadRecord as error:
    raise InputError(
      f"{name} cannot be used: {error.detail} ({error.reason})"
    ) from error


def _check_fields(fields: dict[str, Any], known: Sequence[str]) -> None:
  for name in fields:
    if name not in known:
      raise InputError(f"unknown field {name!r}: {suggest(name, known)}")


def _text(fields: dict[str, Any], name: str, default: str | None) -> str:
  value = fields.get(name, default)
  check_text(value, name)
  return value


def _whole(
  fields: dict[str, Any], name: str, default: int, low: int, high: int
) -> int:
  value = fields.get(name, default)
  if type(value) is not int or not low <= value <= high:
    raise InputError(f"{name} must be a whole number in {low} to {high}")
  return value


def _image_size(size: Any, pipeline: Pipeline | Sd3Pipeline) -> tuple[int, int]:
  """(height, width) of "WIDTHxHEIGHT"; the pipeline's if None or "auto"."""
  if size in (None, "auto"):
    return pipeline.image_size, pipeline.image_size
  match = _SIZE.fullmatch(size) if isinstance(size, str) else None
  if match is None:
    raise InputError(f"size must be 'WIDTHxHEIGHT' in pixels, got {size!r}")
  width, height = map(int, match.groups())
  return pipeline.sides((height, width))


def _changes(fields: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
  """Changes of the sampling config, in the order of `names`."""
  return {key: fields[name] for name, key in names.items() if name in fields}


def _message(messages: Any) -> tuple[str, str]:
  """(text, URL of the image) of the one message of a user."""
  if not isinstance(messages, list) or len(messages) != 1:
    raise InputError(
      "messages must be a list of one message: this model has no dialogues"
    )
  (message,) = messages
  if not isinstance(message, dict) or message.get("role") != "user":
    raise InputError("the message's role must be 'user'")
  parts = message.get("content")
  if not isinstance(parts, list):
    raise InputError(
      "the message's content must be a list of a text and an image_url"
    )
  texts, urls = [], []
  for part in parts:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
      texts.append(part["text"])
    elif kind == "image_url" and isinstance(part.get("image_url"), dict):
      urls.append(part["image_url"].get("url"))
    else:
      raise InputError("a part of the content is no text and no image_url")
  if len(urls) != 1 or len(texts) > 1:
    raise InputError(
      f"the message has {len(urls)} images and {len(texts)} texts: give one "
      "image, and one text that asks or none for a caption"
    )
  return (texts[0].strip() if texts else ""), urls[0]


def _data_of(url: Any) -> bytes:
  match = _DATA_URL.match(url) if isinstance(url, str) else None
  if match is None:
    raise InputError(
      "image_url must be 'data:image/...;base64,...': nothing is fetched"
    )
  try:
    return base64.b64decode(url[match.end() :], validate=True)
  # Of characters that are not ASCII, too.
  except ValueError as error:
    raise InputError(f"image_url is not base64: {error}") from error
