"""Opens any kind of source from a config's mapping."""

import importlib
import inspect
import os
import types
import typing
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
  "llava": "llava",
  "okvqa": "vqa",
  "pairs": "pairs",
  "parquet": "parquet",
  "pope": "vqa",
  "plain_text": "plain_text",
  "textvqa": "vqa",
  "tfds": "tfds",
  "vizwiz": "vqa",
  "vqav2": "vqa",
  "webdataset": "webdataset",
}
# Kind -> the keys with which its examples are texts without images.
_WITHOUT_IMAGES: Mapping[str, Mapping[str, Any]] = {
  "digits": {"texts": "documents"},
  "parquet": {"image_column": None},
  "plain_text": {},
}
_MAX_CHARACTERS = 2000
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
  except (ValueError, OSError) as error:
    # Values from files may be of any size.
    message = " ".join(str(error)[:_MAX_CHARACTERS].split())
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


def may_have_images(spec: Mapping[str, Any]) -> bool:
  """`example.has_images` of the source of a mapping, without opening it."""
  keys = _WITHOUT_IMAGES.get(spec.get("kind"))
  return keys is None or any(
    key not in spec or spec[key] != value for key, value in keys.items()
  )


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
  opener = _opener(kind)
  hints = typing.get_type_hints(opener)
  for key, value in spec.items():
    _check_type(key, value, hints[key])
  return opener(name, **spec)


def _check_type(key: str, value: Any, hint: Any) -> None:
  """Raises ValueError if a value of a spec is of none of its key's types."""
  is_union = isinstance(hint, types.UnionType)
  kinds = typing.get_args(hint) if is_union else (hint,)
  # Mappings have checks of their own, and other classes than Python's.
  classes = [kind for kind in kinds if isinstance(kind, type)]
  if len(classes) < len(kinds):
    return
  accepted = [*classes, os.PathLike] if str in classes else classes
  if classes == [bool] and not isinstance(value, bool):
    raise ValueError(f"{key} is True or False, not {value!r:.80}")
  if not isinstance(value, tuple(accepted)):
    names = " or ".join(kind.__name__ for kind in classes)
    raise ValueError(
      f"{key} must be of type {names}, not {type(value).__name__} {value!r:.80}"
    )


def _opener(kind: str) -> Callable[..., Source]:
  check_known([kind], SOURCE_KINDS, what="there is no source of kind")
  # Imported when used: some kinds need optional packages.
  module = f"ddit_jax.data.sources.{_MODULES[kind]}"
  try:
    return getattr(importlib.import_module(module), f"open_{kind}")
  except ImportError as error:
    raise ValueError(f"the kind {kind!r} cannot be used: {error}") from error
