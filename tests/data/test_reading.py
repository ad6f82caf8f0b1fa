"""Records depend on seed and visit alone; bad ones are replaced by rule."""

import concurrent.futures
import dataclasses

import numpy as np
import pytest

from ddit_jax.data.bad_records import (
  BadRecordLimits,
  ReadLog,
  TooManyBadRecords,
)
from ddit_jax.data.example import BadRecord, Example
from ddit_jax.data.image import ImageTransform
from ddit_jax.data.reader import ReadExamples
from ddit_jax.data.text import TextTransform
from ddit_jax.data.tokenizers import word_tokenizer
from ddit_jax.data.transforms import ImageToTextTransform, TrainingRecord
from tests.data.transforms import pictures

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


@pytest.fixture
def log(tmp_path):
  return ReadLog(tmp_path / "bad.jsonl", BadRecordLimits(max_share=1.0))


def reader(log, source, seed=0):
  return ReadExamples(source, NumberAndDraw(), seed=seed, log=log)


def test_the_draws_are_of_seed_source_and_visit(log):
  first = reader(log, Numbered(9))
  draw = first.read(3, 12)["draw"]
  assert first.read(3, 12)["draw"] == draw
  assert reader(log, Numbered(9)).read(3, 12)["draw"] == draw
  others = [
    first.read(3, 3)["draw"],
    reader(log, Numbered(9), seed=1).read(3, 12)["draw"],
    reader(log, Numbered(9, name="art")).read(3, 12)["draw"],
  ]
  assert draw not in others and len(set(others)) == 3


def test_draws_are_uniform_over_visits(log):
  draws = [
    reader(log, Numbered(9)).read(0, visit)["draw"] for visit in range(999)
  ]
  # Four standard errors of the mean of 999 uniform numbers.
  assert abs(np.mean(draws) - 0.5) < 4 * np.sqrt(1 / 12 / 999)


def test_it_is_a_source_in_its_own_order(log):
  found = reader(log, Numbered(5))
  assert len(found) == 5
  assert [int(found[visit]["number"]) for visit in range(12)] == [
    *range(5),
    *range(5),
    0,
    1,
  ]
  assert found[1]["draw"] != found[6]["draw"]


def test_a_bad_record_is_replaced_by_the_same_one_each_time(log):
  count = 10_000
  bad = frozenset({5, (5 + 7919) % count})
  found = [reader(log, Numbered(count, bad)).read(5, 1) for _ in range(3)]
  assert {int(record["number"]) for record in found} == {5 + 2 * 7919 - count}
  assert len({record["draw"] for record in found}) == 1
  # Its draws are the visit's own, however many attempts it took.
  whole = reader(log, Numbered(count)).read(5, 1)
  assert whole["draw"] == found[0]["draw"]
  assert log.counts()["web/bad/missing_file"] == 6


def test_a_replacement_is_another_record_whatever_their_number(log):
  for count in (2, 3, 7919, 2 * 7919, 7907):
    found = reader(log, Numbered(count, frozenset({1}))).read(1, 0)
    assert found["number"] != 1


@pytest.mark.parametrize(("num_bad", "is_read"), [(8, True), (9, False)])
def test_eight_replacements_are_tried(log, num_bad, is_read):
  bad = frozenset(k * 7919 % 100_000 for k in range(num_bad))
  found = reader(log, Numbered(100_000, bad))
  if is_read:
    assert found.read(0, 0)["number"] == 8 * 7919
  else:
    with pytest.raises(
      TooManyBadRecords, match=r"record 0 of 'web' and 8 repl.* missing_file"
    ):
      found.read(0, 0)
  assert log.counts()["web/bad"] == num_bad


def test_too_many_bad_records_stop_the_run(tmp_path):
  limits = BadRecordLimits(max_share=0.05, min_reads=100)
  log = ReadLog(tmp_path / "bad.jsonl", limits)
  found = reader(log, Numbered(1000, frozenset(range(0, 1000, 10))))
  with pytest.raises(TooManyBadRecords, match=r"of 10\d records of 'web'"):
    for visit in range(1000):
      found[visit]
  assert 100 <= log.counts()["web/reads"] <= 110


def test_cut_texts_are_counted(log):
  found = reader(log, Numbered(4))
  for visit in range(4):
    found[visit]
  counts = log.counts()
  assert counts["web/truncated_texts"] == 3
  assert counts["web/truncated_tokens"] == 1 + 2 + 3


def test_other_errors_are_not_swallowed(log):
  class Broken(Numbered):
    def __getitem__(self, index):
      raise ConnectionError("the disk is gone")

  with pytest.raises(ConnectionError):
    reader(log, Broken(3))[0]


def test_an_empty_source_is_refused(log):
  empty = Numbered(0, removed={"ratio": 7})
  with pytest.raises(ValueError, match=r"'web' has no records .*'ratio': 7"):
    reader(log, empty)


def test_real_and_hostile_files_together(tmp_path):
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

  def read(num_threads, name):
    log = ReadLog(tmp_path / name, BadRecordLimits(max_share=1.0))
    transform = ImageToTextTransform(
      images=ImageTransform(size=16, crop="random", flip_probability=0.5),
      texts=TextTransform(tokenizer=TOKENIZER, length=3),
    )
    found = ReadExamples(Files(99), transform, seed=4, log=log)
    with concurrent.futures.ThreadPoolExecutor(num_threads) as pool:
      return list(pool.map(found.__getitem__, range(150))), log.counts()

  (alone, counts), (together, again) = read(1, "a"), read(6, "b")
  assert counts == again
  assert counts["web/reads"] - counts["web/bad"] == 150
  assert {key for key in counts if key.startswith("web/bad/")} == {
    "web/bad/not_an_image",
    "web/bad/truncated_image",
    "web/bad/image_too_large",
  }
  assert len((tmp_path / "a").read_text().splitlines()) == counts["web/bad"]
  for one, other in zip(alone, together, strict=True):
    assert set(one) == {"images", "tokens", "loss_mask", "has_image"}
    for name in one:
      np.testing.assert_array_equal(one[name], other[name])
