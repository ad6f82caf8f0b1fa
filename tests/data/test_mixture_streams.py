"""From image files to batches: one order, whatever threads and processes."""

import dataclasses
import threading

import grain
import numpy as np
import pytest
from grain.experimental import ElasticIterator

from ddit_jax.data.bad_records import (
  BadRecordLimits,
  ReadLog,
  TooManyBadRecords,
)
from ddit_jax.data.example import BadRecord, Example
from ddit_jax.data.image import ImageTransform
from ddit_jax.data.loader import (
  ArrayRecords,
  DualStream,
  MixtureStream,
  ReadAheadBatches,
  Stream,
  plan_read_ahead,
)
from ddit_jax.data.mixture import Mixture, parse_schedule
from ddit_jax.data.reader import ReadExamples
from ddit_jax.data.text import TextTransform
from ddit_jax.data.tokenizers import word_tokenizer
from ddit_jax.data.transforms import ImageToTextTransform, TextToImageTransform
from tests.data.transforms import pictures

SIZE, LENGTH, BATCH = 8, 4, 6
COUNT = 300
WEIGHTS = {"0": {"web": 2, "art": 1}, "3": {"art": 1}}
TOKENIZER = word_tokenizer([str(number) for number in range(COUNT)])
FILES = [pictures.jpeg(20 + 3 * n, 16 + n) for n in range(7)]


@dataclasses.dataclass
class Files:
  """Examples of a few pictures; every fifth text has none."""

  name: str
  is_broken: bool = False
  all_have_images: bool = True
  removed: tuple = ()

  def __len__(self):
    return COUNT

  def __getitem__(self, index):
    if self.is_broken:
      raise BadRecord("unreadable_file", "no permission", f"{index}")
    has_image = self.all_have_images or index % 5
    return Example(
      record_id=f"{index}",
      image=FILES[index % len(FILES)] if has_image else None,
      texts=(str(index),),
    )


def stream(path, kind=TextToImageTransform, *, num_threads=2, **options):
  transform = kind(
    images=ImageTransform(size=SIZE, crop="random", flip_probability=0.5),
    texts=TextTransform(tokenizer=TOKENIZER, length=LENGTH),
  )
  log = ReadLog(path / "bad.jsonl", BadRecordLimits())
  readers = {
    name: ReadExamples(Files(name, **options), transform, seed=1, log=log)
    for name in ("web", "art")
  }
  mixture = Mixture(
    readers, parse_schedule(WEIGHTS, readers), batch_size=BATCH, seed=2
  )
  return MixtureStream(mixture=mixture, num_threads=num_threads)


def take(iterator, count):
  return [next(iterator) for _ in range(count)]


def assert_equal(found, expected):
  for one, other in zip(found, expected, strict=True):
    assert set(one) == set(other)
    for name in one:
      np.testing.assert_array_equal(one[name], other[name])


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
  """Six batches by one thread."""
  iterator = stream(tmp_path_factory.mktemp("r"), num_threads=1).iterator()
  batches = take(iterator, 6)
  iterator.close()
  return batches


def test_threads_do_not_change_a_batch(tmp_path, reference):
  iterator = stream(tmp_path, num_threads=4).iterator()
  found = take(iterator, 6)
  iterator.close()
  assert_equal(found, reference)
  assert found[0]["images"].shape == (BATCH, SIZE, SIZE, 3)
  assert found[0]["images"].dtype == np.uint8
  assert found[0]["tokens"].shape == (BATCH, LENGTH)
  assert not (found[0]["images"] == found[1]["images"]).all()


def test_a_stream_goes_on_exactly_where_another_stopped(tmp_path, reference):
  first = stream(tmp_path).iterator()
  take(first, 2)
  state = first.get_state()
  first.close()
  second = stream(tmp_path, num_threads=3).iterator()
  second.set_state(state)
  assert_equal(take(second, 4), reference[2:])
  second.close()


def test_two_processes_read_what_one_reads(tmp_path, reference):
  halves = []
  for index in (0, 1):
    half = slice(index * BATCH // 2, (index + 1) * BATCH // 2)
    iterator = stream(tmp_path).iterator(
      lambda size, half=half: range(size)[half]
    )
    halves.append(take(iterator, 6))
    iterator.close()
  for whole, first, second in zip(reference, *halves, strict=True):
    for name in whole:
      rows = np.concatenate([first[name], second[name]])
      np.testing.assert_array_equal(rows, whole[name])


@pytest.mark.parametrize("shard", [(0, 1), (1, 3)])
def test_grains_elastic_iterator_gives_the_same(tmp_path, shard):
  mixture = stream(tmp_path).mixture
  grains = iter(
    ElasticIterator(
      grain.MapDataset.source(mixture),
      BATCH,
      grain.sharding.ShardOptions(*shard),
      read_options=grain.ReadOptions(0, 0),
    )
  )
  plan = plan_read_ahead(mixture.record_bytes, BATCH)
  ours = ReadAheadBatches(
    mixture,
    batch_size=BATCH,
    rows=range(shard[0], BATCH, shard[1]),
    read_ahead=plan,
  )
  assert_equal(take(ours, 3), take(grains, 3))
  assert ours.get_state() == grains.get_state()
  ours.close()
  grains.close()


def test_image_to_text_says_which_rows_have_an_image(tmp_path):
  iterator = stream(
    tmp_path, ImageToTextTransform, all_have_images=False
  ).iterator()
  batches = take(iterator, 5)
  iterator.close()
  has_image = np.concatenate([batch["has_image"] for batch in batches])
  images = np.concatenate([batch["images"] for batch in batches])
  assert (has_image.shape, has_image.dtype) == ((5 * BATCH,), bool)
  assert has_image.any() and not has_image.all()
  assert (images.any(axis=(1, 2, 3)) == has_image).all()


def test_a_dual_stream_takes_one_of_each_kind(tmp_path, reference, capfd):
  before = set(threading.enumerate())
  texts = ArrayRecords(
    {
      "images": np.zeros((400, SIZE, SIZE, 3), np.uint8),
      "tokens": np.zeros((400, LENGTH), np.int32),
      "loss_mask": np.ones((400, LENGTH), bool),
    }
  )
  dual = DualStream(stream(tmp_path), Stream(texts, 8, 0))
  (_, position), (batch, _) = take(dual, 2)
  np.testing.assert_array_equal(
    batch.text_to_image.tokens, reference[1]["tokens"]
  )
  dual.seek(position)
  again, _ = next(dual)
  np.testing.assert_array_equal(
    again.text_to_image.images, reference[1]["images"]
  )
  dual.close()
  assert set(threading.enumerate()) - before == set()
  assert capfd.readouterr() == ("", "")


def test_a_broken_source_stops_the_stream(tmp_path):
  iterator = stream(tmp_path, is_broken=True).iterator()
  with pytest.raises(TooManyBadRecords, match="and 8 replacements"):
    next(iterator)
  iterator.close()
  assert "no permission" in (tmp_path / "bad.jsonl").read_text()


def test_a_budget_below_one_record_is_refused(tmp_path):
  small = dataclasses.replace(stream(tmp_path), read_ahead_bytes=99)
  with pytest.raises(ValueError, match="may take 99 bytes but one record has"):
    small.iterator()
