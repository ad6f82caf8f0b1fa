"""Sources of one stream give records of one form."""

import numpy as np
import pytest

from ddit_jax.data.bad_records import ReadLog
from ddit_jax.data.example import Example, has_images
from ddit_jax.data.image import ImageTransform
from ddit_jax.data.loader import check_have_images, source_readers
from ddit_jax.data.sources.registry import open_source
from ddit_jax.data.text import TextTransform
from ddit_jax.data.tokenizers import word_tokenizer
from ddit_jax.data.transforms import ImageToTextTransform, TextToImageTransform
from tests.source_files import encoded

LENGTH = 3
TOKENIZER = word_tokenizer(["a", "b"])
PARTS = {
  "images": ImageTransform(size=4),
  "texts": TextTransform(tokenizer=TOKENIZER, length=LENGTH),
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
def readers(sources, tmp_path):
  def make(names, kind=ImageToTextTransform):
    return source_readers(
      {name: sources[name] for name in names},
      kind(**PARTS),
      seed=0,
      log=ReadLog(tmp_path / "bad.jsonl"),
    )

  return make


def texts_of(reader) -> list[list[str]]:
  return [TOKENIZER.tokens(reader[i]["tokens"]) for i in range(len(reader))]


def test_texts_alone_have_no_images_at_all(readers):
  found = readers(["lines", "rows"])
  for reader in found.values():
    assert set(reader[0]) == {"tokens", "loss_mask"}
    assert reader.record_bytes == 5 * LENGTH
  assert texts_of(found["lines"]) == [["a", "b", "b"], ["b", "</s>", "</s>"]]
  # By hand: a b b </s> b </s>, cut into threes.
  assert texts_of(found["rows"]) == [["a", "b", "b"], ["</s>", "b", "</s>"]]


def test_beside_images_texts_have_a_black_one(readers):
  found = readers(["lines", "rows", "web"])
  for name, reader in found.items():
    record = reader[0]
    assert set(record) == {"images", "tokens", "loss_mask", "has_image"}
    assert record["images"].shape == (4, 4, 3)
    assert (
      bool(record["has_image"]) == (name == "web") == record["images"].any()
    )
    assert reader.record_bytes == sum(a.nbytes for a in record.values())
  np.testing.assert_array_equal(found["rows"][1]["loss_mask"], True)


def test_bad_rows_are_replaced_and_counted(sources, tmp_path):
  log = ReadLog(tmp_path / "bad.jsonl")
  (reader,) = source_readers(
    {"rows": sources["rows"]}, ImageToTextTransform(**PARTS), seed=0, log=log
  ).values()
  # As long as before, so that it is still read; it has fewer tokens.
  (tmp_path / "t.txt").write_text("a   b\nb\n")
  # Both rows hold tokens of the changed document: nothing is left to take.
  with pytest.raises(ValueError, match="replacements could not be read"):
    reader[0]
  assert log.counts()["rows/bad/wrong_length"] == 9


def test_image_streams_refuse_texts_alone(sources, readers):
  assert [name for name in sources if has_images(sources[name])] == ["web"]
  check_have_images({"web": sources["web"]})
  with pytest.raises(ValueError, match="names 'rows', which holds texts alone"):
    check_have_images(sources | {"lines": sources["web"]})
  (reader,) = readers(["web"], TextToImageTransform).values()
  assert set(reader[0]) == {"images", "tokens"}
