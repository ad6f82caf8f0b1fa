"""Documents of text are found in files, lines and rows."""

import json
import os

import pytest

from ddit_jax.data.example import BadRecord, Example
from ddit_jax.data.sources import plain_text
from ddit_jax.data.sources.plain_text import open_plain_text


def texts_of(path, **options) -> list[str]:
  source = open_plain_text("texts", path=str(path), **options)
  return [source[i].texts[0] for i in range(len(source))]


def test_a_file_is_a_document(tmp_path):
  (tmp_path / "b.txt").write_text("second\n\nwith lines\n")
  (tmp_path / "a.TXT").write_bytes(b"\xef\xbb\xbffirst")
  (tmp_path / "empty.txt").touch()
  (tmp_path / "notes.md").write_text("no part of it")
  source = open_plain_text("texts", path=str(tmp_path))
  assert [source[i] for i in range(len(source))] == [
    Example(record_id="a.TXT:0", image=None, texts=("first",)),
    Example(record_id="b.txt:0", image=None, texts=("second\n\nwith lines",)),
  ]
  assert (source.name, source.removed) == ("texts", {"empty_text": 1})


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 2**24])
@pytest.mark.parametrize(
  ("data", "texts", "num_empty"),
  [
    (b"a\nbc\n", ["a", "bc"], 0),
    (b"a\nbc", ["a", "bc"], 0),
    (b"a\r\nbc\r\n", ["a", "bc"], 0),
    (b"\n\na\n\nbc\n\n", ["a", "bc"], 4),
    (b"\r\na\r\n\r\nbc", ["a", "bc"], 2),
    (b"\xef\xbb\xbfa\n\xc3\xa4\n", ["a", "ä"], 0),
    (b"a\rb\n\rc\r\n", ["a\rb", "c"], 0),
    ("a\u2028b\x0bc\nd".encode(), ["a\u2028b\x0bc", "d"], 0),
  ],
)
def test_lines_are_found_whatever_the_chunks(
  data, texts, num_empty, chunk, tmp_path, monkeypatch
):
  monkeypatch.setattr(plain_text, "_CHUNK_BYTES", chunk)
  (tmp_path / "a.txt").write_bytes(data)
  source = open_plain_text("texts", path=f"{tmp_path}/a.txt", documents="line")
  assert [source[i].texts[0] for i in range(len(source))] == texts
  assert source.removed.get("empty_text", 0) == num_empty


def test_record_ids_are_bytes_in_files(tmp_path):
  (tmp_path / "a.txt").write_bytes(b"a\n\nbc\n")
  (tmp_path / "b.txt").write_bytes(b"d\n")
  source = open_plain_text("texts", path=str(tmp_path), documents="line")
  ids = [source[i].record_id for i in range(3)]
  assert ids == ["a.txt:0", "a.txt:3", "b.txt:0"]


def test_json_lines_have_a_key(tmp_path):
  lines = [{"text": " a\nb ", "meta": {}}, {"text": "c", "title": "t"}]
  (tmp_path / "a.jsonl").write_text(
    "\n".join(json.dumps(line) for line in lines)
  )
  assert texts_of(tmp_path / "a.jsonl") == ["a\nb", "c"]
  source = open_plain_text(
    "texts", path=f"{tmp_path}/a.jsonl", text_key="title"
  )
  assert source[1].texts == ("t",)
  with pytest.raises(BadRecord, match="bad_json: there is no 'title'"):
    source[0]


def test_parquet_rows_are_documents(tmp_path):
  pyarrow = pytest.importorskip("pyarrow")
  from pyarrow import parquet

  for number in range(2):
    table = pyarrow.table({"body": [f"{number}a", f"{number}b"]})
    parquet.write_table(table, tmp_path / f"{number}.parquet")
  texts = texts_of(tmp_path, text_key="body")
  assert texts == ["0a", "0b", "1a", "1b"]
  with pytest.raises(ValueError, match="need one path"):
    open_plain_text("texts", path=[f"{tmp_path}/{n}.parquet" for n in (0, 1)])


@pytest.mark.parametrize(
  ("name", "data", "reason"),
  [
    ("a.txt", b"caf\xe9", "bad_text"),
    ("a.txt", b" \t ", "empty_text"),
    ("a.jsonl", b"{", "bad_json"),
    ("a.jsonl", b"[]", "bad_json"),
    ("a.jsonl", b"[" * 100_000, "bad_json"),
    ("a.jsonl", b'{"text": 7}', "bad_text"),
    ("a.jsonl", b'{"text": null}', "bad_text"),
    ("a.jsonl", b'{"text": "\\udc00"}', "bad_text"),
    ("a.jsonl", b'{"text": " "}', "empty_text"),
    ("a.jsonl", b'{"text": "a", "text": "b"}', "bad_json"),
  ],
)
def test_bad_documents_cost_themselves(name, data, reason, tmp_path):
  sound = b'{"text": "ok"}' if name.endswith("jsonl") else b"ok"
  (tmp_path / name).write_bytes(data + b"\n" + sound)
  source = open_plain_text("texts", path=f"{tmp_path}/{name}", documents="line")
  with pytest.raises(BadRecord, match=f"^{name}:0: {reason}"):
    source[0]
  assert source[1].texts == ("ok",)


def test_changed_and_missing_files_are_bad_records(tmp_path):
  for name in "abc":
    (tmp_path / f"{name}.txt").write_text("text")
  source = open_plain_text("texts", path=str(tmp_path))
  (tmp_path / "a.txt").unlink()
  (tmp_path / "b.txt").write_text("a longer text")
  for index, reason in ((0, "missing_file"), (1, "unreadable_file")):
    with pytest.raises(BadRecord, match=reason):
      source[index]
  assert source[2].texts == ("text",)


def test_long_documents_are_not_read(tmp_path, monkeypatch):
  monkeypatch.setattr(plain_text, "_MAX_DOCUMENT_BYTES", 3)
  (tmp_path / "a.txt").write_text("abc\nabcd")
  source = open_plain_text("texts", path=f"{tmp_path}/a.txt", documents="line")
  assert source[0].texts == ("abc",)
  with pytest.raises(BadRecord, match="wrong_length: 4 bytes"):
    source[1]
  with pytest.raises(IndexError):
    source[2]
  with pytest.raises(IndexError):
    source[-1]


def test_the_fingerprint_sees_files_and_settings(tmp_path):
  path = tmp_path / "a.txt"
  path.write_text("a\nb")
  whole = open_plain_text("texts", path=str(path)).fingerprint()
  assert whole == open_plain_text("texts", path=str(path)).fingerprint()
  lines = open_plain_text("texts", path=str(path), documents="line")
  assert whole != lines.fingerprint()
  os.utime(path, ns=(7, 7))
  assert whole != open_plain_text("texts", path=str(path)).fingerprint()


def test_wrong_paths_and_settings_are_refused(tmp_path):
  (tmp_path / "a.txt").write_text("a")
  (tmp_path / "b.jsonl").write_text("{}")
  (tmp_path / "c.md").write_text("c")
  (tmp_path / "d.txt").touch()
  for options, message in (
    ({"path": f"{tmp_path}/a.txt", "documents": "word"}, "not 'word'"),
    ({"path": str(tmp_path)}, "files of one kind"),
    ({"path": f"{tmp_path}/c.md"}, r"not \['.md'\]"),
    ({"path": f"{tmp_path}/d.txt"}, "there is no document"),
    ({"path": f"{tmp_path}/none"}, "is not a file"),
  ):
    with pytest.raises(ValueError, match=message):
      open_plain_text("texts", **options)


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".parquet"])
def test_a_pipe_is_refused_before_it_is_opened(suffix, tmp_path):
  path = tmp_path / f"pipe{suffix}"
  os.mkfifo(path)
  with pytest.raises(ValueError, match=f"pipe{suffix} is not a regular file"):
    open_plain_text("texts", path=str(path), documents="line")


def test_a_file_may_be_utf_16_but_not_its_lines(tmp_path):
  (tmp_path / "a.txt").write_text("ä\nb", encoding="utf-16")
  assert texts_of(tmp_path) == ["ä\nb"]
  with pytest.raises(ValueError, match=r"is UTF-16, .* iconv -f utf-16"):
    texts_of(tmp_path, documents="line")
