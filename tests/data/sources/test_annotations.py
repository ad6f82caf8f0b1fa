"""Lists of records are read from JSON, JSON lines and CSV, or refused."""

import csv
import json

import pytest

from ddit_jax.data.sources import annotations
from ddit_jax.data.sources.annotations import (
  TextError,
  entries,
  read_json_file,
  read_list,
)


def read(path, data: bytes) -> list:
  """Entries, with the reason in the place of errors."""
  path.write_bytes(data)
  return [
    (record_id, e.reason if isinstance(e, TextError) else e)
    for record_id, e in entries(path)
  ]


ENTRIES = [{"image_path": "a.jpg", "caption": 'a "dog",\nbarking'}, {"b": None}]


def test_a_json_list_is_read(tmp_path):
  found = read(tmp_path / "l.json", json.dumps(ENTRIES).encode())
  assert found == [("l.json:0", ENTRIES[0]), ("l.json:1", ENTRIES[1])]
  assert read(tmp_path / "l.JSON", b"\xef\xbb\xbf[{}]") == [("l.JSON:0", {})]


def test_json_lines_are_counted_as_editors_do(tmp_path):
  data = b'\xef\xbb\xbf{"a": 1}\r\n\r\n  \n{"a": 2}'
  found = read(tmp_path / "l.jsonl", data)
  assert found == [("l.jsonl:1", {"a": 1}), ("l.jsonl:4", {"a": 2})]


def test_json_lines_may_be_called_json(tmp_path):
  found = read(tmp_path / "l.json", b'{"a": 1}\n{"a": 2}\n')
  assert found == [("l.json:1", {"a": 1}), ("l.json:2", {"a": 2})]


@pytest.mark.parametrize("name", ["l.json", "l.jsonl", "l.csv"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_lists_may_be_utf_16(name, encoding, tmp_path):
  text = {
    "l.json": '[{"a": "é"}]',
    "l.jsonl": '{"a": "é"}\r\n',
    "l.csv": "a\r\né\r\n",
  }[name]
  data = text.encode(encoding)
  assert [entry for _, entry in read(tmp_path / name, data)] == [{"a": "é"}]
  if name != "l.json":
    with pytest.raises(ValueError, match="is cut off or damaged"):
      read(tmp_path / name, data[:-1])


def test_bad_lines_and_items_cost_themselves(tmp_path):
  lines = [b"{}", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"a":1,"a":2}', b"{}"]
  found = read(tmp_path / "l.jsonl", b"\n".join(lines))
  assert [e for _, e in found] == [{}, *["bad_json"] * 5, {}]
  found = read(tmp_path / "l.json", b'[{}, 7, "a", null, []]')
  assert [e for _, e in found] == [{}, *["bad_json"] * 4]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_csv_is_read_with_any_line_end(newline, mark, tmp_path):
  path = tmp_path / "l.csv"
  with open(path, "w", newline="") as file:
    rows = csv.writer(file, lineterminator=newline)
    rows.writerow(["image_path", "caption"])
    rows.writerow(["a.jpg", 'a "dog", barking\nloudly'])
    rows.writerow(["b.jpg", ""])
  found = read(path, mark + path.read_bytes())
  assert [e for _, e in found] == [
    {"image_path": "a.jpg", "caption": 'a "dog", barking\nloudly'},
    {"image_path": "b.jpg", "caption": None},
  ]


def test_bad_rows_cost_themselves(tmp_path):
  data = b"a, b\n1,2\n\n1,2,3\n1\n\xff,2\n3,4\n"
  found = read(tmp_path / "l.csv", data)
  assert [e for _, e in found] == [
    {"a": "1", "b": "2"},
    "bad_text",
    "bad_text",
    {"a": "\udcff", "b": "2"},
    {"a": "3", "b": "4"},
  ]
  assert found[-1][0] == "l.csv:7"


@pytest.mark.parametrize(
  ("name", "data", "message"),
  [
    ("l.json", b'{"a": 1}', "must hold a JSON list .* not dict"),
    ("l.json", b"7", "must hold a JSON list"),
    ("l.json", b"", "not valid JSON"),
    ("l.json", b"[{}", "not valid JSON"),
    ("l.json", b"[" * 200_000, "not valid JSON"),
    ("l.json", b'[{"a": 1, "a": 2}]', "names 'a' twice"),
    ("l.csv", b"", "needs a header"),
    ("l.csv", b"a,a\n1,2\n", "needs a header of different names"),
    ("l.csv", b'a,b\n1,"2\n', "line 2: unexpected end of data"),
    ("l.txt", b"a", "must end in one of .json, .jsonl, .csv"),
  ],
)
def test_what_is_no_list_is_refused(name, data, message, tmp_path):
  with pytest.raises(ValueError, match=message):
    read(tmp_path / name, data)


def test_sizes_are_limited(tmp_path, monkeypatch):
  monkeypatch.setattr(annotations, "_MAX_JSON_BYTES", 10)
  monkeypatch.setattr(annotations, "_MAX_LINE", 10)
  monkeypatch.setattr(annotations, "_MAX_CELL_BYTES", 10)
  with pytest.raises(ValueError, match="write it as JSON lines"):
    read(tmp_path / "l.json", b'[{"a": "12345"}]')
  with pytest.raises(ValueError, match="line 2 is longer than 10 char"):
    read(tmp_path / "l.jsonl", b'{"a": 1}\n{"a": 123}\n')
  with pytest.raises(ValueError, match="line 2: field larger"):
    read(tmp_path / "l.csv", b"a\n12345678901\n")
  assert csv.field_size_limit() > 10


def test_whole_files_are_read(tmp_path):
  (tmp_path / "a.json").write_bytes(b'{"a": [1, 2]}')
  assert read_json_file(tmp_path / "a.json") == {"a": [1, 2]}
  with pytest.raises(ValueError, match="must hold a JSON list"):
    read_list(tmp_path / "a.json")
