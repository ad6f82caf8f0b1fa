"""Scenes of the digit world as a source of files, for dry runs."""

import hashlib
import io
import pathlib
import tempfile
from collections.abc import Mapping

import numpy as np
from PIL import Image

from ddit_jax.data.example import Example, Source
from ddit_jax.data.sources.plain_text import PackedDocuments
from ddit_jax.digits import datasets
from ddit_jax.digits.world import WORLDS
from ddit_jax.errors import suggest

# What the texts of a source are -> shares of kinds of text.
_SHARES = {
  "captions": {"caption": 1.0},
  "questions": {"what_number": 1.0, "what_color": 1.0},
  "alone": {"caption": 1.0},
}
_NUM_SCENES = 64
_CAPTIONS_IN_DOCUMENT = 4


class ToySource:
  """Images with captions, or with questions; see `Source`."""

  removed: Mapping[str, int] = {}

  def __init__(self, name: str, texts: str, *, has_images: bool = True):
    self.name, self._texts, self._has_images = name, texts, has_images
    self._pool = datasets.image_to_text_pool(
      WORLDS["one_digit"], "train", _NUM_SCENES, 0, _SHARES[texts]
    )

  def __len__(self) -> int:
    return _NUM_SCENES

  def __getitem__(self, index: int) -> Example:
    pool = self._pool
    image, texts = None, [pool.texts[index]]
    if self._has_images:
      image = _png(pool.images[index])
    else:
      others = range(index, index + _CAPTIONS_IN_DOCUMENT)
      texts = [" ".join(pool.texts[i % _NUM_SCENES] for i in others)]
    return Example(
      record_id=f"{self.name}:{index}",
      image=image,
      prompt=pool.prompts[index],
      texts=tuple(texts),
    )

  def fingerprint(self) -> str:
    """Of the kind of texts; the scenes are always the same."""
    return hashlib.sha256(f"toy {self._texts}".encode()).hexdigest()


def open_toy(name: str, *, texts: str = "captions") -> Source:
  """Opens generated scenes.

  Args:
    name: as the config calls it.
    texts: "captions", "questions", or "alone" for documents without images.

  Raises:
    ValueError: there are no such texts.
  """
  if texts not in _SHARES:
    hint = suggest(texts, _SHARES)
    raise ValueError(f"{name}: unknown texts {texts!r}: {hint}")
  if texts != "alone":
    return ToySource(name, texts)
  return PackedDocuments(
    ToySource(name, texts, has_images=False),
    folder=pathlib.Path(tempfile.gettempdir()) / "ddit_jax_toy",
    wanted_index_folder=None,
  )


def _png(pixels: np.ndarray) -> bytes:
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, "png")
  return file.getvalue()
