"""Records depend on seed and visit alone; bad ones are replaced by rule."""

import concurrent.futures
import dataclasses
import pickle

import numpy as np
import pytest

from ddit_jax.data.bad_records import TooManyBadRecords
from ddit_jax.data.example import BadRecord, Example, TrainingRecord
from ddit_jax.data.image import ImageConfig, ImageTransform
from ddit_jax.data.reader import RecordReader
from ddit_jax.data.text import TextConfig, TextTransform
from ddit_jax.data.tokenizers import word_tokenizer
from ddit_jax.data.transforms import ImageToTextTransform
from tests.data import pictures

TOKENIZER = word_tokenizer([str(number) for number in range(40)])


@dataclasses.dataclass
class Numbered:
  """Examples whose text is their number; some cannot be read."""

  count: int
  bad: frozenset = frozenset()
  name: str = "web"
  removed: tuple = ()

  def __len__(self):
    return self.count

  def __getitem__(self, index):
    assert 0 <= index < self.count
    if index in self.bad:
      raise BadRecord("missing_file", "gone", f"record {index}")
    return Example(record_id=str(index), image=None, texts=(str(index),))


class NumberAndDraw:
  """A record of the example's number and one random number."""

  record_bytes = 12

  def __call__(self, example, rng):
    arrays = {"number": np.int32(example.texts[0]), "draw": rng.random()}
    return TrainingRecord(arrays=arrays, num_truncated=int(example.texts[0]))


def reader(source, seed=0):
  return RecordReader(source, NumberAndDraw(), seed=seed)


def draw(found, visit, index):
  return found.read(visit, index).arrays["draw"]


def number(record):
  return int(record.arrays["number"])


def test_the_draws_are_of_seed_source_and_visit():
  first = reader(Numbered(9))
  expected = draw(first, 12, 3)
  assert draw(first, 12, 3) == expected
  assert draw(reader(Numbered(9)), 12, 3) == expected
  others = [
    draw(first, 3, 3),
    draw(reader(Numbered(9), seed=1), 12, 3),
    draw(reader(Numbered(9, name="art")), 12, 3),
  ]
  assert expected not in others and len(set(others)) == 3


def test_draws_are_uniform_over_visits():
  found = reader(Numbered(9))
  draws = [draw(found, visit, 0) for visit in range(999)]
  # Four standard errors of the mean of 999 uniform numbers.
  assert abs(np.mean(draws) - 0.5) < 4 * np.sqrt(1 / 12 / 999)


def test_a_bad_record_is_replaced_by_the_same_one_each_time():
  count = 10_000
  bad = frozenset({5, (5 + 7919) % count})
  records = [reader(Numbered(count, bad)).read(1, 5) for _ in range(3)]
  assert {number(record) for record in records} == {5 + 2 * 7919 - count}
  # Its draws are the visit's own, however many attempts it took.
  whole = reader(Numbered(count)).read(1, 5)
  assert {r.arrays["draw"] for r in records} == {whole.arrays["draw"]}
  for record in records:
    assert record.source == "web"
    assert [(e.record_id, e.reason) for e in record.bad] == [
      ("record 5", "missing_file"),
      ("record 7924", "missing_file"),
    ]
  assert (whole.source, whole.bad) == ("web", ())


def test_a_replacement_is_another_record_whatever_their_number():
  for count in (2, 3, 7919, 2 * 7919, 7907):
    assert number(reader(Numbered(count, frozenset({1}))).read(0, 1)) != 1


@pytest.mark.parametrize(("num_bad", "is_read"), [(8, True), (9, False)])
def test_eight_replacements_are_tried(num_bad, is_read):
  bad = frozenset(k * 7919 % 100_000 for k in range(num_bad))
  found = reader(Numbered(100_000, bad))
  if is_read:
    record = found.read(0, 0)
    assert number(record) == 8 * 7919 and len(record.bad) == 8
    return
  with pytest.raises(
    TooManyBadRecords, match=r"record 0 of 'web' and 8 repl.* missing_file"
  ) as caught:
    found.read(0, 0)
  # Worker processes send it.
  error = pickle.loads(pickle.dumps(caught.value))
  assert (error.source, len(error.bad)) == ("web", 9)
  assert str(error) == str(caught.value)


def test_cut_texts_are_reported():
  found = reader(Numbered(4))
  assert [found.read(v, v).num_truncated for v in range(4)] == [0, 1, 2, 3]


def test_other_errors_are_not_swallowed():
  class Broken(Numbered):
    def __getitem__(self, index):
      raise ConnectionError("the disk is gone")

  with pytest.raises(ConnectionError):
    reader(Broken(3)).read(0, 0)


def test_an_empty_source_is_refused():
  empty = Numbered(0, removed={"ratio": 7})
  with pytest.raises(ValueError, match=r"'web' has no records .*'ratio': 7"):
    reader(empty)


def test_real_and_hostile_files_together():
  """Every third file is hostile; threads agree with a single one."""
  hostile = [data for data, _ in pictures.HOSTILE.values()]

  class Files(Numbered):
    def __getitem__(self, index):
      data = hostile[index // 3 % len(hostile)] if index % 3 == 1 else None
      return Example(
        record_id=f"file {index}",
        image=pictures.JPEG if data is None else data,
        texts=(str(index % 40), "1", "2"),
      )

  transform = ImageToTextTransform(
    images=ImageTransform(
      config=ImageConfig(image_size=16, crop="random", flip_probability=0.5)
    ),
    texts=TextTransform(tokenizer=TOKENIZER, config=TextConfig(text_length=3)),
  )
  found = RecordReader(Files(99), transform, seed=4)
  visits = range(150)
  indices = [visit % 99 for visit in visits]
  alone = list(map(found.read, visits, indices))
  with concurrent.futures.ThreadPoolExecutor(6) as pool:
    together = list(pool.map(found.read, visits, indices))
  assert {error.reason for record in alone for error in record.bad} == {
    "not_an_image",
    "truncated_image",
    "image_too_large",
  }
  for one, other in zip(alone, together, strict=True):
    assert list(map(str, one.bad)) == list(map(str, other.bad))
    assert set(one.arrays) == {"images", "tokens", "loss_mask", "has_image"}
    for name, array in one.arrays.items():
      np.testing.assert_array_equal(array, other.arrays[name])
