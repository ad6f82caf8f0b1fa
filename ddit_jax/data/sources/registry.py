"""Opens any kind of source from a config's mapping."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ddit_jax.data.example import Source
from ddit_jax.errors import check_known

# Kind -> module of this folder; its function is open_KIND.
_MODULES = {
  "array_record": "array_record",
  "digits": "digits",
  "easy_vqa": "vqa",
  "gqa": "vqa",
  "image_folder": "image_folder",
  "llava": "vqa",
  "okvqa": "vqa",
  "parquet": "parquet",
  "plain_text": "plain_text",
  "textvqa": "vqa",
  "tfds": "tfds",
  "vizwiz": "vqa",
  "vqav2": "vqa",
  "webdataset": "webdataset",
}
SOURCE_KINDS = tuple(_MODULES)


def open_source(name: str, spec: Mapping[str, Any]) -> Source:
  """Opens a source such as {"kind": "webdataset", "path": "shards/*.tar"}.

  Args:
    name: name in the config.
    spec: "kind", one of SOURCE_KINDS, and the arguments of its open_KIND.

  Raises:
    ValueError: an unknown kind or key, with the nearest one; a key is missing;
      or an error of opening it. The message begins with the name.
  """
  try:
    return _opened(name, dict(spec))
  except ValueError as error:
    message = str(error)
    if message.startswith(f"{name}: "):
      raise
    raise ValueError(f"{name}: {message}") from error


def keys_of(kind: str) -> dict[str, bool]:
  """A kind's keys, and whether each is required.

  Raises:
    ValueError: the kind is unknown.
  """
  parameters = inspect.signature(_opener(kind)).parameters.values()
  return {
    parameter.name: parameter.default is parameter.empty
    for parameter in parameters
    if parameter.kind is parameter.KEYWORD_ONLY
  }


def _opened(name: str, spec: dict[str, Any]) -> Source:
  if "kind" not in spec:
    raise ValueError(
      f"the key 'kind' is missing: there are {', '.join(SOURCE_KINDS)}"
    )
  kind = spec.pop("kind")
  keys = keys_of(kind)
  check_known(spec, keys, what=f"a source of kind {kind!r} has no key")
  missing = [key for key, is_needed in keys.items() if is_needed]
  missing = [key for key in missing if key not in spec]
  if missing:
    raise ValueError(
      f"a source of kind {kind!r} needs the key {' and '.join(missing)}"
    )
  return _opener(kind)(name, **spec)


def _opener(kind: str) -> Callable[..., Source]:
  check_known([kind], SOURCE_KINDS, what="there is no source of kind")
  # Imported when used: some kinds need optional packages.
  module = f"ddit_jax.data.sources.{_MODULES[kind]}"
  try:
    return getattr(importlib.import_module(module), f"open_{kind}")
  except ImportError as error:
    raise ValueError(f"the kind {kind!r} cannot be used: {error}") from error
