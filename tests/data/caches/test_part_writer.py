"""One part's shards, read by the library's own reader."""

import concurrent.futures
import dataclasses

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader

from ddit_jax.data.bad_records import RecordTally
from ddit_jax.data.prepare import cache_format
from ddit_jax.data.prepare.cache_format import finished_part, part_names
from ddit_jax.data.prepare.cache_writer import PartWriter, RowReader
from ddit_jax.data.prepare.shards import UnfinishedFolder
from ddit_jax.data.text import caption_tokens
from tests.data.caches import tiny_cache as tiny

NAMES = part_names(0, 1, has_features=True)
RANGE = range(2, 14)


def run_part(folder, encoders=tiny.ENCODERS):
  reader = RowReader(
    source=tiny.TinySource(), images=tiny.IMAGES, texts=tiny.TEXTS
  )
  unfinished = UnfinishedFolder(folder)
  tally = RecordTally(len(RANGE), max_bad_rate=1.0, progress=None)
  with (
    unfinished.locked({}),
    concurrent.futures.ThreadPoolExecutor(2) as pool,
  ):
    part = PartWriter(tiny.plan(), unfinished, NAMES, tally)
    part.run(RANGE, reader, encoders, pool)
    return finished_part(unfinished, NAMES)


def records_of(path) -> list[bytes]:
  reader = ArrayRecordReader(str(path))
  return reader.read_all()


def test_every_record_and_text_lies_where_it_should(tmp_path):
  part = run_part(tmp_path)
  latents, features = (records_of(tmp_path / name) for name in NAMES)
  assert [s.num_records for s in part.shards] == [len(latents), len(features)]
  entry = 0
  for index, data in zip(RANGE, latents, strict=True):
    record = cache_format.decode(data, "here")
    if index == tiny.UNREADABLE:
      assert record.bad_record == ("missing_file", "gone")
      continue
    example = tiny.TinySource()[index]
    assert (record.record_id, record.texts) == (f"r{index}", example.texts)
    if index in (tiny.CUT_IMAGE, tiny.NO_IMAGE):
      assert record.moments is None
      assert (record.bad_image is None) == (index == tiny.NO_IMAGE)
    else:
      pixels = tiny.IMAGES(
        example.image, np.random.default_rng(0), record_id="", may_flip=False
      )
      expected = tiny.MOMENTS.pack(tiny.moments_of(pixels[None])[0])
      assert record.moments == expected
    texts = (*example.texts, *example.rewritten)
    for text, found in zip(texts, record.feature_entries, strict=True):
      if not text.strip():
        assert found is None
        continue
      assert found == entry
      tokens = caption_tokens(tiny.TOKENIZER, text, tiny.LENGTH)
      expected = tiny.FEATURE.pack(tiny.features_of(tokens[None])[0])
      assert features[entry] == expected
      entry += 1
  assert entry == len(features) == part.num_texts


def test_numbers_that_would_change_are_refused(tmp_path):
  encoders = dataclasses.replace(
    tiny.ENCODERS,
    images=lambda rows: tiny.ENCODERS.images(rows) + np.float32(0.001),
  )
  with pytest.raises(ValueError, match="bfloat16 does not hold exactly"):
    run_part(tmp_path, encoders)
