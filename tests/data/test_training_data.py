"""Sources of one task give records of one form."""

import numpy as np
import pytest

from ddit_jax.data.config import TaskConfig
from ddit_jax.data.example import Example, has_images
from ddit_jax.data.image import ImageConfig, ImageTransform
from ddit_jax.data.source_records import source_readers
from ddit_jax.data.sources.registry import open_source
from ddit_jax.data.text import TextConfig, TextTransform
from ddit_jax.data.tokenizers import word_tokenizer
from ddit_jax.data.training_data import SourceTask
from ddit_jax.data.transforms import ImageToTextTransform, TextToImageTransform
from tests.source_files import encoded

LENGTH = 3
TOKENIZER = word_tokenizer(["a", "b"])
PARTS = {
  "images": ImageTransform(config=ImageConfig(image_size=4)),
  "texts": TextTransform(
    tokenizer=TOKENIZER, config=TextConfig(text_length=LENGTH)
  ),
}


class Pictures:
  """Two pictures with captions."""

  name, removed = "web", {}

  def __len__(self):
    return 2

  def __getitem__(self, index):
    return Example(record_id="w", image=encoded(9, 9), texts=("a",))


@pytest.fixture
def sources(tmp_path):
  """Documents as they are, the same ones packed, and pictures."""
  path = tmp_path / "t.txt"
  path.write_text("a b b\nb\n")
  spec = {"kind": "plain_text", "path": str(path), "documents": "line"}
  return {
    "lines": open_source("lines", spec),
    "rows": open_source("rows", spec | {"is_packed": True}),
    "web": Pictures(),
  }


@pytest.fixture
def readers(sources):
  def make(names, kind=ImageToTextTransform):
    return source_readers(
      {name: sources[name] for name in names},
      kind(**PARTS),
      seed=0,
    )

  return make


def texts_of(reader) -> list[list[str]]:
  return [TOKENIZER.tokens(first(reader, i)["tokens"]) for i in range(2)]


def first(reader, index=0):
  return reader.read(0, index).arrays


def test_texts_alone_have_no_images_at_all(readers):
  found = readers(["lines", "rows"])
  for reader in found.values():
    assert set(first(reader)) == {"tokens", "loss_mask"}
    assert reader.record_bytes == 5 * LENGTH
  assert texts_of(found["lines"]) == [["a", "b", "b"], ["b", "</s>", "</s>"]]
  # By hand: a b b </s> b </s>, cut into threes.
  assert texts_of(found["rows"]) == [["a", "b", "b"], ["</s>", "b", "</s>"]]


def test_beside_images_texts_have_a_black_one(readers):
  found = readers(["lines", "rows", "web"])
  for name, reader in found.items():
    record = first(reader)
    assert set(record) == {"images", "tokens", "loss_mask", "has_image"}
    assert record["images"].shape == (4, 4, 3)
    assert (
      bool(record["has_image"]) == (name == "web") == record["images"].any()
    )
    assert reader.record_bytes == sum(a.nbytes for a in record.values())
  np.testing.assert_array_equal(first(found["rows"], 1)["loss_mask"], True)


def test_bad_rows_are_replaced_and_reported(sources, readers, tmp_path):
  (reader,) = readers(["rows"]).values()
  # As long as before, so that it is still read; it has fewer tokens.
  (tmp_path / "t.txt").write_text("a   b\nb\n")
  # Both rows hold tokens of the changed document: nothing is left to take.
  with pytest.raises(ValueError, match="replacements could not be read") as e:
    reader.read(0, 0)
  assert [error.reason for error in e.value.bad] == ["wrong_length"] * 9


def test_the_image_loss_takes_no_text_only_source(sources, readers):
  assert [name for name in sources if has_images(sources[name])] == ["web"]

  def task(*names, name="text_to_image"):
    config = TaskConfig(batch_size=1, mixture={"0": dict.fromkeys(names, 1)})
    transform = TextToImageTransform(**PARTS)
    return SourceTask(
      name, config, sources=sources, transform=transform, seed=0
    )

  assert task("web").mixture().batch_size == 1
  task("web", "rows", name="image_to_text")
  with pytest.raises(ValueError, match="mixture names 'rows', which is text-o"):
    task("web", "rows")
  with pytest.raises(ValueError, match="mixture names 'wbe': did you mean 'w"):
    task("wbe")
  (reader,) = readers(["web"], TextToImageTransform).values()
  assert set(first(reader)) == {"images", "tokens"}
