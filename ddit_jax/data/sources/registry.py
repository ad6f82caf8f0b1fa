"""Opens any kind of source from a config's mapping.

To add a kind, write its `open_KIND(name, *, ...)`, which returns a `Source`,
and add its row to `SOURCE_KINDS` and to the table in docs/data.md, which
tests/data/sources/test_registry.py compares.
"""

import importlib
import inspect
import os
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from ddit_jax.data.example import Source
from ddit_jax.errors import check_known


class SourceKind(NamedTuple):
  """What is known of a kind of source before one is opened.

  Attributes:
    module: the module of this folder that has its function open_KIND.
    texts: what its texts are. A dry run replaces the source by a digit world of
      these texts, `{"kind": "digits", "texts": ...}`.
    without_images: the keys and values with which its examples are texts
      without images; {} if they always are, None if never.
  """

  module: str
  texts: Literal["captions", "questions", "documents", "pairs"]
  without_images: Mapping[str, Any] | None = None


SOURCE_KINDS: Mapping[str, SourceKind] = {
  "array_record": SourceKind("array_record", "captions"),
  "digits": SourceKind("digits", "questions", {"texts": "documents"}),
  "easy_vqa": SourceKind("vqa", "questions"),
  "gqa": SourceKind("vqa", "questions"),
  "image_folder": SourceKind("image_folder", "captions"),
  "llava": SourceKind("llava", "questions"),
  "okvqa": SourceKind("vqa", "questions"),
  "pairs": SourceKind("pairs", "pairs"),
  "parquet": SourceKind("parquet", "captions", {"image_column": None}),
  "plain_text": SourceKind("plain_text", "documents", {}),
  "pope": SourceKind("vqa", "questions"),
  "textvqa": SourceKind("vqa", "questions"),
  "tfds": SourceKind("tfds", "captions"),
  "vizwiz": SourceKind("vqa", "questions"),
  "vqav2": SourceKind("vqa", "questions"),
  "webdataset": SourceKind("webdataset", "captions"),
}
_MAX_CHARACTERS = 2000


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
  kind = SOURCE_KINDS.get(spec.get("kind"))
  keys = kind and kind.without_images
  return keys is None or any(
    key not in spec or spec[key] != value for key, value in keys.items()
  )


def generated_spec(kind: str) -> dict[str, str]:
  """A mapping that generates texts of a kind, and needs no file.

  Raises:
    ValueError: the kind is unknown.
  """
  _check_kind(kind)
  return {"kind": "digits", "texts": SOURCE_KINDS[kind].texts}


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
  _check_kind(kind)
  # Imported when used: some kinds need optional packages.
  module = f"ddit_jax.data.sources.{SOURCE_KINDS[kind].module}"
  try:
    return getattr(importlib.import_module(module), f"open_{kind}")
  except ImportError as error:
    raise ValueError(f"the kind {kind!r} cannot be used: {error}") from error


def _check_kind(kind: str) -> None:
  check_known([kind], SOURCE_KINDS, what="there is no source of kind")
