"""Parquet: Hugging Face's layouts, random order, threads, damage."""

import concurrent.futures
import random
import sys

import pyarrow as pa
import pytest
from pyarrow import parquet

from ddit_jax.data.example import BadRecord
from ddit_jax.data.sources import parquet_files
from ddit_jax.data.sources.parquet import open_parquet

IMAGES = [random.Random(i).randbytes(500) for i in range(25)]
TEXTS = [f"text {i} é" for i in range(25)]


def write(path, *, rows=slice(None), row_group_size=4, **changes):
  """One file; changes replace or add columns."""
  columns = {
    "image": [{"bytes": b, "path": f"{i}.jpg"} for i, b in enumerate(IMAGES)],
    "text": TEXTS,
  } | changes
  table = pa.table(columns)[rows]
  parquet.write_table(
    table, path, row_group_size=row_group_size, compression="none"
  )


@pytest.fixture
def folder(tmp_path):
  write(tmp_path / "train-00000-of-00002.parquet", rows=slice(0, 15))
  write(tmp_path / "train-00001-of-00002.parquet", rows=slice(15, 25))
  return tmp_path


def read(source):
  return [source[i] for i in range(len(source))]


def test_rows_come_in_the_order_of_files(folder):
  source = open_parquet("set", path=str(folder))
  examples = read(source)
  assert [e.image for e in examples] == IMAGES
  assert [e.texts for e in examples] == [(text,) for text in TEXTS]
  assert {(e.prompt, e.rewritten) for e in examples} == {("", ())}
  assert examples[13].record_id == "train-00000-of-00002.parquet:3:1"
  assert (source.name, source.removed) == ("set", {})
  for index in (-1, 25):
    with pytest.raises(IndexError, match="set has 25 records"):
      source[index]


def test_threads_and_any_order_with_a_cache_that_is_too_small(folder):
  source = open_parquet("set", path=str(folder), cached_row_groups=1)
  order = random.Random(0).choices(range(25), k=200)
  with concurrent.futures.ThreadPoolExecutor(8) as threads:
    images = [e.image for e in threads.map(source.__getitem__, order)]
  assert images == [IMAGES[i] for i in order]


def test_reading_in_order_reads_each_row_group_once(folder, monkeypatch):
  groups = []
  plain = parquet.ParquetFile.read_row_group

  def counted(self, group, **options):
    groups.append(group)
    return plain(self, group, **options)

  monkeypatch.setattr(parquet.ParquetFile, "read_row_group", counted)
  read(open_parquet("set", path=str(folder), cached_row_groups=1))
  assert groups == [0, 1, 2, 3, 0, 1, 2]


@pytest.mark.parametrize(
  "kind", [pa.binary(), pa.large_binary(), pa.binary_view()]
)
def test_binary_columns(tmp_path, kind):
  write(tmp_path / "a.parquet", jpg=pa.array(IMAGES, kind))
  source = open_parquet("set", path=str(tmp_path), image_column="jpg")
  assert [e.image for e in read(source)] == IMAGES


@pytest.mark.parametrize(
  "kind",
  [
    pa.string(),
    pa.large_string(),
    pa.dictionary(pa.int32(), pa.string()),
    pa.string_view(),
  ],
)
def test_text_columns(tmp_path, kind):
  texts = pa.array(TEXTS).cast(kind)
  write(tmp_path / "a.parquet", caption=texts)
  source = open_parquet("set", path=str(tmp_path), text_column="caption")
  assert [e.texts for e in read(source)] == [(text,) for text in TEXTS]


def test_lists_of_texts_rewritten_captions_and_no_images(tmp_path):
  answers = [[f"a{i}", "b"] for i in range(25)]
  rewritten = [None if i % 2 else f"new {i}" for i in range(25)]
  write(tmp_path / "a.parquet", answers=answers, re_caption=rewritten)
  source = open_parquet(
    "set",
    path=str(tmp_path / "a.parquet"),
    image_column=None,
    text_column="answers",
    rewritten_column="re_caption",
  )
  assert source[2].image is None
  assert source[2].texts == ("a2", "b")
  assert [source[i].rewritten for i in (2, 3)] == [("new 2",), ()]


def test_questions_become_prompts(tmp_path):
  questions = [f"what is\n{i} ?" for i in range(25)]
  write(tmp_path / "a.parquet", question=questions)
  source = open_parquet("set", path=str(tmp_path), question_column="question")
  assert source[3].prompt == "Q: what is 3 ? A: "
  assert source[3].texts == ("text 3 é",)


def test_cells_that_hold_nothing(tmp_path):
  images = [None, {"bytes": None, "path": "../a.jpg"}, {"bytes": b"x"}] * 9
  texts = ["a", "b", None, "c", "d", " "] * 5
  write(tmp_path / "a.parquet", image=images[:25], text=texts[:25])
  source = open_parquet("set", path=str(tmp_path))
  reasons = []
  for index in (0, 1, 2, 5):
    with pytest.raises(BadRecord) as caught:
      source[index]
    reasons.append((caught.value.reason, caught.value.detail))
  assert reasons == [
    ("missing_file", "image is null"),
    ("missing_file", "no bytes, only the path '../a.jpg'"),
    ("empty_text", "no text, or only blank ones"),
    ("empty_text", "no text, or only blank ones"),
  ]


def test_text_that_is_not_utf8(tmp_path):
  raw = pa.array([b"\xff"] * 25)
  text = pa.Array.from_buffers(pa.string(), 25, raw.buffers())
  write(tmp_path / "a.parquet", text=text)
  source = open_parquet("set", path=str(tmp_path))
  with pytest.raises(BadRecord, match="bad_text"):
    source[0]


def test_a_damaged_row_group_spoils_its_rows_only(folder):
  path = folder / "train-00000-of-00002.parquet"
  source = open_parquet("set", path=str(folder))
  start = parquet.ParquetFile(path).metadata.row_group(1).column(0)
  data = bytearray(path.read_bytes())
  place = start.dictionary_page_offset or start.data_page_offset
  data[place : place + 40] = b"\xff" * 40
  path.write_bytes(data)
  bad = []
  for index in range(25):
    try:
      assert source[index].image == IMAGES[index]
    except BadRecord as error:
      bad.append((index, error.reason))
  assert bad == [(i, "corrupt_shard") for i in range(4, 8)]


def test_the_fingerprint_tells_files_and_columns_apart(folder):
  def fingerprint(**options):
    return open_parquet("s", path=str(folder), **options).fingerprint()

  before = fingerprint()
  assert before == fingerprint(cached_row_groups=3)
  assert before != fingerprint(image_column=None)
  write(folder / "train-00001-of-00002.parquet", rows=slice(15, 24))
  assert before != fingerprint()


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"path": "none"}, "none is not a file, a folder or"),
    ({"path": "train-*", "text_column": "txt"}, "has 0 columns 'txt' instead"),
    ({"path": "train-*", "text_column": "image"}, "is struct<.*not string"),
    ({"path": "train-*", "image_column": "text"}, "is string, not binary"),
    ({"path": "train-*", "cached_row_groups": 0}, "of at least 1, got 0"),
    ({"path": "*.txt"}, "is not a whole parquet file"),
    ({"path": "empty"}, "have no rows"),
  ],
)
def test_what_cannot_be_opened(folder, options, message):
  (folder / "a.txt").write_text("no parquet")
  write(folder / "empty", rows=slice(0, 0))
  with pytest.raises(ValueError, match=message) as caught:
    open_parquet("set", **options | {"path": str(folder / options["path"])})
  assert "\n" not in str(caught.value)


def test_splits_are_not_mixed(folder):
  write(folder / "test-00000-of-00001.parquet")
  with pytest.raises(ValueError, match="splits test and train: choose"):
    open_parquet("set", path=str(folder))
  assert len(open_parquet("set", path=f"{folder}/train-*.parquet")) == 25


def test_without_pyarrow_the_way_out_is_named(folder, monkeypatch):
  monkeypatch.setitem(sys.modules, "pyarrow", None)
  with pytest.raises(ValueError, match="pip install pyarrow"):
    open_parquet("set", path=str(folder))


def test_equal_values_take_memory_once(tmp_path):
  """Sixty rows of the same 16 MB: a file of two kilobytes."""
  same = bytes(2**24)
  table = pa.table(
    {"image": [{"bytes": same, "path": "x"}] * 60, "text": [["a"] * 3] * 60}
  )
  parquet.write_table(table, tmp_path / "a.parquet", compression="zstd")
  assert (tmp_path / "a.parquet").stat().st_size < 4096
  source = open_parquet("set", path=str(tmp_path))
  assert source[59].image == same and source[59].texts == ("a",) * 3
  assert source._tables[0].nbytes < 2**25


def test_a_row_group_that_takes_too_much_is_refused(tmp_path, monkeypatch):
  table = pa.table({"image": [bytes(2**20)] * 8, "text": ["a"] * 8})
  path = tmp_path / "a.parquet"
  options = {"compression": "zstd", "use_dictionary": False}
  parquet.write_table(table, path, **options)
  monkeypatch.setattr(parquet_files, "_MAX_GROUP_BYTES", 2**22)
  with pytest.raises(ValueError, match=r"row group 0 takes .* fewer rows in a"):
    open_parquet("set", path=str(tmp_path))
  parquet.write_table(table, path, **options, row_group_size=2)
  assert open_parquet("set", path=str(tmp_path))[7].image == bytes(2**20)
