"""Parts of an unfinished cache: done only when all shards lie in place."""

import json

import pytest

from ddit_jax.data.prepare import cache_format
from ddit_jax.data.prepare.cache_format import FinishedPart
from ddit_jax.data.prepare.shards import UnfinishedFolder

NAMES = cache_format.part_names(2, 16, has_features=True)


def test_names_of_shards():
  assert NAMES == [
    "latents-00002-of-00016.array_record",
    "features-00002-of-00016.array_record",
  ]
  assert cache_format.part_names(2, 16, has_features=False) == NAMES[:1]


@pytest.fixture
def folder(tmp_path):
  unfinished = UnfinishedFolder(tmp_path / "out")
  with unfinished.locked({"a": 1}):
    yield unfinished


@pytest.fixture
def part(folder):
  for name in NAMES:
    folder.partial_path(name).write_bytes(b"data")
  paths = map(folder.partial_path, NAMES)
  return FinishedPart(
    shards=tuple(cache_format.written_shard(path, 7) for path in paths),
    bad_records=({"index": 1, "reason": "x"},),
    bad_texts={"empty_text": 2},
    num_texts=7,
    num_truncated=3,
  )


def test_a_finished_part_is_found_again(folder, part):
  assert part.shards[0].num_bytes == 4
  assert cache_format.finished_part(folder, NAMES) is None
  cache_format.finish_part(folder, part)
  assert cache_format.finished_part(folder, NAMES) == part


@pytest.mark.parametrize("lost", NAMES)
@pytest.mark.parametrize("is_cut", [True, False])
def test_a_part_without_one_of_its_shards_is_not_done(
  folder, part, lost, is_cut
):
  cache_format.finish_part(folder, part)
  (folder.folder / lost).write_bytes(b"dat")
  if not is_cut:
    (folder.folder / lost).unlink()
  assert cache_format.finished_part(folder, NAMES) is None


@pytest.mark.parametrize("text", ["", "{}", '{"shards": [{}]}', "[]"])
def test_a_part_with_a_damaged_report_is_not_done(folder, part, text):
  cache_format.finish_part(folder, part)
  folder.partial_path(f"{NAMES[0]}.json").write_text(text)
  assert cache_format.finished_part(folder, NAMES) is None


def test_bad_records_are_lines(folder):
  entries = [{"index": 1, "reason": "x"}, {"index": 4, "reason": "ä"}]
  cache_format.list_bad_records(folder, entries)
  lines = (folder.folder / "bad_records.jsonl").read_text().splitlines()
  assert list(map(json.loads, lines)) == entries
