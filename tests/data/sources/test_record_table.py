"""A table gives back what was appended."""

import sys

import pytest

from ddit_jax.data.sources.image_table import FileRecord, RecordTable

RECORDS = [
  FileRecord("list:0", "a/ä.jpg", "Q: is it? A: ", ("yes", "no"), ("long",)),
  FileRecord("list:1", None, "", ('日本 🐕\n"quoted" \\ \u2028',)),
  FileRecord("", "", "", ()),
]


def table_of(records) -> RecordTable:
  table = RecordTable()
  for record in records:
    table.append(record)
  return table


def test_records_come_back():
  table = table_of(RECORDS)
  assert [table[i] for i in range(len(table))] == RECORDS


@pytest.mark.parametrize("index", [-1, 3, 2**70])
def test_indexes_outside_are_refused(index):
  with pytest.raises(IndexError, match="there are 3 records"):
    table_of(RECORDS)[index]


def test_the_digest_is_of_the_records():
  digest = table_of(RECORDS).digest()
  assert digest == table_of(RECORDS).digest()
  others = [RECORDS[:2], RECORDS[::-1], [RECORDS[0]._replace(prompt="")]]
  digests = {table_of(records).digest() for records in others}
  assert len(digests | {digest}) == 4


def test_a_record_takes_its_text_and_8_bytes():
  record = FileRecord("captions.json:0", "00/000000000.jpg", "", ("a dog",))
  table = table_of([record] * 20_000)
  text = 2 + sum(map(len, ("captions.json:0", "00/000000000.jpg", "a dog")))
  # Quotes, commas and brackets of JSON; the arrays grow an eighth at a time.
  most = 20_000 * (text + 25 + 8) * 9 / 8
  assert sys.getsizeof(table._text) + sys.getsizeof(table._ends) < most
