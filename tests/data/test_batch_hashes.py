"""Batches are those that earlier versions of this package gave, bit for bit.

The hashes were computed with the version of November 2026 that read the digit
world and files by code of their own. A run that is under way, and every
published number, rests on this order; so they are never to be updated.
"""

import hashlib
import pathlib

import jax
import numpy as np
import pytest

from ddit_jax.config.load import load_config
from ddit_jax.experiment.config import Config
from ddit_jax.experiment.data import open_data, open_sources
from ddit_jax.experiment.vocabulary import make_tokenizer
from tests import tiny_run

OWN_IMAGES = str(tiny_run.ROOT / "configs" / "own_images.py:dry")

# name: (first step, hashes of its batches, hash of the validation batch)
GOLDEN = {
  "digits": (
    0,
    [
      "1310a8d14ed49cb8",
      "fd5518368e488b91",
      "8a3858e08fc5c1fe",
      "e3849a2ba4b4b646",
      "7d6ad88a04179347",
      "03d772ca417e669d",
    ],
    "24f6db09858f5135",
  ),
  # Over a change of the weights, at step 1000, and many epochs in.
  "digits, seed 3": (
    998,
    [
      "f5c276f52ccaa02e",
      "e4344d12702c203b",
      "a6fefaede4a668aa",
      "96a9ac3ba2927339",
    ],
    "24f6db09858f5135",
  ),
  "own_images": (
    0,
    [
      "3f3053684440c716",
      "944ab67f2975ef24",
      "e365a5cfc1661c4a",
      "788a27e2bb373915",
      "1a753162d9894948",
      "719257cc5acb7012",
    ],
    "ba2cf2007966edac",
  ),
  "own_images, late": (
    998,
    [
      "89da3754fc6d6d54",
      "905983bfbaf49ab1",
    ],
    "ba2cf2007966edac",
  ),
}


def config_of(name: str) -> Config:
  if name.startswith("own_images"):
    # Those versions held no records out.
    return load_config(Config, OWN_IMAGES, {"data.held_out_share": "0.0"})
  if name == "digits":
    return tiny_run.settings()
  return tiny_run.settings(seed="3", data__text_to_image__pool_size="30")


def digest(batch) -> str:
  """Of all arrays, in the order of the batch's fields."""
  found = hashlib.sha256()
  for leaf in jax.tree.leaves(batch):
    array = np.ascontiguousarray(leaf)
    found.update(f"{array.dtype} {array.shape}".encode())
    found.update(array.tobytes())
  return found.hexdigest()[:16]


@pytest.mark.parametrize("name", GOLDEN)
def test_batches_are_those_of_earlier_versions(name, tmp_path: pathlib.Path):
  first, hashes, of_validation = GOLDEN[name]
  config = config_of(name)
  sources = open_sources(config.data)
  tokenizer = make_tokenizer(config.data, None, sources)
  data = open_data(config, tokenizer, sources, tmp_path)
  loader = data.training_loader()
  position = {"global_next_index": first * 8}
  loader.seek({"text_to_image": position, "image_to_text": position})
  assert [digest(next(loader)[0]) for _ in hashes] == hashes
  loader.close()
  assert digest(data.validation_batch()) == of_validation
