"""One question, caption or image of a benchmark."""

import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ddit_jax.errors import InputError, first_few
from ddit_jax.files import is_unsafe

# Files of a benchmark by their role, e.g. "questions".
Files = Mapping[str, pathlib.Path]

# The release draws its VQA v2 subset with this seed, whatever its --seed is.
_SUBSET_SEED = 42


@dataclass(frozen=True, kw_only=True)
class Item:
  """What a model is given once.

  Attributes:
    key: names it within its benchmark.
    text: the question or the prompt.
    draw: its noise follows from this number and the seed.
    image: the image file that is shown; None where one is generated.
    path: where a generated image goes, below the benchmark's results.
    unit: items of one unit (the images of a prompt, the two questions of an
      image of MME) are only drawn together; the key if empty.
    facts: what the benchmark's files say of it.
  """

  key: str
  text: str
  draw: int
  image: pathlib.Path | None = None
  path: str = ""
  unit: str = ""
  facts: Mapping[str, Any] = field(default_factory=dict)


def chosen(items: Sequence[Item], num_units: int) -> list[Item]:
  """A subset in its drawn order, as the D-DiT release draws it.

  Args:
    items: of a benchmark.
    num_units: how many; 0 takes all, in their order.
  """
  units: dict[str, list[Item]] = {}
  for item in items:
    units.setdefault(item.unit or item.key, []).append(item)
  if not num_units or num_units >= len(units):
    return list(items)
  parts = list(units.values())
  order = np.random.RandomState(_SUBSET_SEED).permutation(len(parts))
  return [item for number in order[:num_units] for item in parts[number]]


def image_in(folder: pathlib.Path, name: str) -> pathlib.Path:
  """The image that a benchmark's file names; InputError outside the folder."""
  if is_unsafe(name):
    raise InputError(f"the image {name!r:.200} is not a path below {folder}")
  return folder / name


def check_images(items: Sequence[Item]) -> None:
  """Raises InputError unless the image of every item is there."""
  missing = {
    item.image: None
    for item in items
    if item.image is not None and not item.image.is_file()
  }
  if missing:
    raise InputError(
      f"{len(missing)} of the images are missing ({first_few(missing)}): give "
      "the folder that holds them"
    )


def check_keys(items: Sequence[Item], name: str) -> None:
  """Raises InputError unless there are items, with keys of their own."""
  if not items:
    raise InputError(f"{name} has no items")
  seen, repeated = set(), []
  for item in items:
    if item.key in seen:
      repeated.append(item.key)
    seen.add(item.key)
  if repeated:
    raise InputError(
      f"{name} names {len(repeated)} items twice ({first_few(repeated)})"
    )
