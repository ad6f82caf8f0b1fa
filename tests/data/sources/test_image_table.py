"""A source of files gives its table's records with their images."""

import pytest

from ddit_jax.data.example import BadRecord, Example
from ddit_jax.data.sources.image_table import (
  FileRecord,
  FileSource,
  RecordTable,
  Skipped,
)
from ddit_jax.data.sources.paths import SafeFolder


def source_of(records, folder, removed=None) -> FileSource:
  table, skipped = RecordTable(), Skipped()
  skipped.removed.update(removed or {})
  for record in records:
    table.append(record)
  return FileSource("set", table, images=SafeFolder(folder), skipped=skipped)


def test_examples_have_the_bytes_of_their_files(tmp_path):
  (tmp_path / "a.jpg").write_bytes(b"image")
  records = [
    FileRecord("l:0", "a.jpg", "Q: x? A: ", ("yes", "no"), ("long",)),
    FileRecord("l:1", None, "", ("text only",)),
  ]
  source = source_of(records, tmp_path, {"ratio": 2})
  assert (len(source), source.name, source.removed) == (2, "set", {"ratio": 2})
  assert source[0] == Example(
    record_id="l:0",
    image=b"image",
    prompt="Q: x? A: ",
    texts=("yes", "no"),
    rewritten=("long",),
  )
  assert source[1] == Example(record_id="l:1", image=None, texts=("text only",))


@pytest.mark.parametrize(
  ("path", "reason"), [("b.jpg", "missing_file"), ("../b.jpg", "unsafe_path")]
)
def test_files_that_cannot_be_read_are_bad_records(path, reason, tmp_path):
  source = source_of([FileRecord("l:7", path, "", ("a",))], tmp_path)
  with pytest.raises(BadRecord, match=f"^l:7: {reason}"):
    source[0]


def test_indexes_outside_are_refused(tmp_path):
  source = source_of([FileRecord("l:7", None, "", ("a",))], tmp_path)
  for index in (-1, 1):
    with pytest.raises(IndexError):
      source[index]


def test_an_empty_source_says_what_was_left_out(tmp_path):
  with pytest.raises(ValueError, match="skipped: 2 ratio, 1 bad_json"):
    source_of([], tmp_path, {"ratio": 2, "bad_json": 1})
  with pytest.raises(ValueError, match="none, it is empty"):
    source_of([], tmp_path)


def test_the_fingerprint_does_not_depend_on_the_place(tmp_path):
  records = [FileRecord("l:7", "a.jpg", "", ("a",))]
  here = source_of(records, tmp_path).fingerprint()
  assert here == source_of(records, tmp_path / "elsewhere").fingerprint()
  other = [records[0]._replace(texts=("b",))]
  assert here != source_of(other, tmp_path).fingerprint()
