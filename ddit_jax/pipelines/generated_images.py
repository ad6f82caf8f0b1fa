"""Drawn images beside what draws them again, in memory and in a folder."""

import dataclasses
import os
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ddit_jax.config.load import as_json, from_dict
from ddit_jax.errors import InputError, preparing
from ddit_jax.experiment.config import SampleConfig
from ddit_jax.files import local_path
from ddit_jax.json_files import read_json_object, write_json
from ddit_jax.pipelines.requests import open_image
from ddit_jax.protocols.layouts import save_png

# In the folder, beside one PNG file an image.
_FACTS = "images.json"
_MAX_BYTES = 2**28


@dataclasses.dataclass(frozen=True, kw_only=True)
class GeneratedImages:
  """Images with what draws them again; indexed and iterated like the pixels.

  Attributes:
    images: RGB pixels.
    prompts: of each image.
    negative_prompts: of each image.
    indices: of each image; with the seed they fix its noise.
    seed: of all.
    settings: of the sampler.
  """

  images: UInt8[np.ndarray, "images height width 3"]
  prompts: list[str]
  negative_prompts: list[str]
  indices: list[int]
  seed: int
  settings: SampleConfig

  def __len__(self) -> int:
    return len(self.images)

  def __getitem__(self, index) -> np.ndarray:
    return self.images[index]

  def __array__(self, dtype=None, copy=None) -> np.ndarray:
    return np.array(self.images, dtype=dtype, copy=copy)

  def pil(self) -> list[Image.Image]:
    """The images as Pillow images."""
    return [Image.fromarray(image) for image in self.images]

  def records(self) -> list[dict[str, Any]]:
    """What draws each image again, as JSON has it."""
    settings = dataclasses.asdict(self.settings.image)
    columns = self.prompts, self.negative_prompts, self.indices
    return [
      {
        "prompt": prompt,
        "negative_prompt": negative,
        "seed": self.seed,
        "index": index,
        "settings": settings,
      }
      for prompt, negative, index in zip(*columns, strict=True)
    ]

  def save(self, folder: str | os.PathLike) -> None:
    """Writes the images as PNG files, and images.json with all else.

    Args:
      folder: made if it is not there.

    Raises:
      InputError: it holds such images already, or cannot be written.
    """
    path = local_path(folder)
    if (path / _FACTS).exists():
      raise InputError(f"{folder} holds images already: choose another folder")
    facts = {
      field.name: getattr(self, field.name)
      for field in dataclasses.fields(self)
      if field.name != "images"
    }
    with preparing():
      for place, image in enumerate(self.pil()):
        save_png(path / _file_name(place), image)
      # Last, so that a folder with it is whole.
      facts["settings"] = as_json(self.settings)
      write_json(path / _FACTS, facts, indent=2)

  @classmethod
  def load(cls, folder: str | os.PathLike) -> "GeneratedImages":
    """What `save` wrote.

    Raises:
      InputError: a file is missing or damaged.
    """
    path = local_path(folder)
    with preparing():
      facts = read_json_object(path / _FACTS, max_bytes=_MAX_BYTES)
      wanted = {field.name for field in dataclasses.fields(cls)} - {"images"}
      if facts.keys() != wanted:
        raise InputError(
          f"{path / _FACTS} must have {', '.join(sorted(wanted))}, it has "
          f"{', '.join(sorted(facts))}"
        )
      facts["settings"] = from_dict(SampleConfig, facts["settings"])
      images = [
        np.asarray(open_image(str(path / _file_name(place))))
        for place in range(len(facts["indices"]))
      ]
      return cls(images=np.stack(images), **facts)


def _file_name(place: int) -> str:
  return f"{place:05d}.png"
