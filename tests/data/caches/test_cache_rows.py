"""Records read for the encoders: whole, bad, and in order."""

import concurrent.futures
import threading

import numpy as np
import pytest

from ddit_jax.data.prepare.cache_writer import RowReader, one_ahead, read_chunks
from ddit_jax.data.prepare.shards import PrepareError
from ddit_jax.data.text import caption_tokens
from tests.data.caches import tiny_cache as tiny


def reader(texts=tiny.TEXTS, source=None):
  source = source or tiny.TinySource()
  return RowReader(source=source, images=tiny.IMAGES, texts=texts)


def test_a_row_holds_pixels_and_the_tokens_of_every_text():
  row = reader()(5)
  assert row.record.texts == ("a b", "c") and row.record.rewritten == ("e f",)
  expected = [
    caption_tokens(tiny.TOKENIZER, text, tiny.LENGTH)
    for text in ("a b", "c", "e f")
  ]
  np.testing.assert_array_equal(np.stack(row.tokens), expected)
  example = tiny.TinySource()[5]
  pixels = tiny.IMAGES(
    example.image, np.random.default_rng(9), record_id="r", may_flip=False
  )
  np.testing.assert_array_equal(row.pixels, pixels)
  assert (row.bad, row.num_truncated, row.bad_texts) == (None, 0, ())


def test_what_cannot_be_used_is_marked():
  read = reader()
  unreadable = read(tiny.UNREADABLE)
  assert unreadable.bad == ("missing_file", "gone")
  assert (unreadable.pixels, unreadable.tokens) == (None, ())
  cut = read(tiny.CUT_IMAGE)
  assert cut.bad[0] == "truncated_image" and cut.pixels is None
  assert len(cut.tokens) == 2
  alone = read(tiny.NO_IMAGE)
  assert (alone.pixels, alone.bad, alone.record.prompt) == (None, None, "a ")
  blank = read(tiny.BLANK_TEXT)
  assert blank.bad_texts == ("empty_text",) and blank.bad is None
  assert blank.tokens[0] is not None and blank.tokens[1] is None
  assert read(tiny.LONG_TEXT).num_truncated == 1


def test_without_features_no_text_is_looked_at():
  row = reader(texts=None)(tiny.BLANK_TEXT)
  assert (row.tokens, row.bad_texts) == ((), ())
  assert row.record.texts == ("a", "  ")


def test_a_failing_disk_stops():
  class Failing(tiny.TinySource):
    def __getitem__(self, index):
      raise OSError("disk")

  with pytest.raises(PrepareError, match=r"cannot be read \(disk\): run"):
    reader(source=Failing())(0)


@pytest.mark.parametrize("size", [1, 4, 9, 100])
def test_chunks_come_in_order(size):
  with concurrent.futures.ThreadPoolExecutor(3) as pool:
    chunks = list(read_chunks(reader(), range(2, 11), size=size, pool=pool))
  assert [row.index for chunk in chunks for row in chunk] == [*range(2, 11)]
  assert {len(chunk) for chunk in chunks[:-1]} <= {size}


def test_the_next_chunk_is_read_meanwhile():
  begun = threading.Event()

  class Noticing(tiny.TinySource):
    def __getitem__(self, index):
      if index == 2:
        begun.set()
      return super().__getitem__(index)

  with concurrent.futures.ThreadPoolExecutor(1) as pool:
    chunks = read_chunks(reader(source=Noticing()), range(5), size=2, pool=pool)
    next(chunks)
    assert begun.wait(timeout=10)
    chunks.close()


@pytest.mark.parametrize("items", [[], [1], [1, 2, 3]])
def test_one_ahead_gives_the_same_items(items):
  made = []

  def note(item):
    made.append(item)
    return item

  given = []
  for item in one_ahead(map(note, items)):
    given.append(item)
    assert len(made) == min(len(given) + 1, len(items))
  assert given == items
