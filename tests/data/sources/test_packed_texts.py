"""Packed rows are the documents' tokens behind each other, none lost."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ddit_jax.data.example import BadRecord, Example
from ddit_jax.data.sources import packed_texts
from ddit_jax.data.sources.packed_texts import PackedTexts

END, MASK = 9, 0


class Documents:
  """Texts in memory; None cannot be read."""

  name, removed = "texts", {}

  def __init__(self, texts):
    self.texts = texts

  def __len__(self):
    return len(self.texts)

  def __getitem__(self, index):
    if self.texts[index] is None:
      raise BadRecord("bad_text", "not UTF-8", f"texts:{index}")
    return Example(
      record_id=f"texts:{index}", image=None, texts=(self.texts[index],)
    )

  def fingerprint(self):
    return repr(self.texts)


def digits(text: str) -> list[int]:
  return [int(letter) for letter in text]


class DigitTokenizer:
  """A token for each letter."""

  mask_id = MASK

  def __init__(self, encode=digits, name="digits", end_id=END):
    self.encode, self.end_id = encode, end_id
    self._name = name

  def files(self):
    return {"name": self._name.encode()}


def packed(texts, length, folder, **options):
  return PackedTexts(
    Documents(texts),
    DigitTokenizer(**options),
    length=length,
    index_folder=folder,
  )


def stream(texts) -> list[int]:
  """By hand: every document and an end token."""
  return [t for text in texts if text for t in [*digits(text), END]]


def rows_of(source) -> list[list[int]]:
  return [source[i].tolist() for i in range(len(source))]


TEXTS = ["123", "4", "56781234", "", "5", None, None, "66", "7", ""]


@pytest.mark.parametrize("length", range(1, 23))
def test_rows_are_pieces_of_the_stream(length, tmp_path):
  source = packed(TEXTS, length, tmp_path)
  tokens = [token for row in rows_of(source) for token in row]
  expected = stream(TEXTS)
  assert tokens + expected[len(tokens) :] == expected
  assert len(tokens) == len(source) * length
  assert source.num_tail_tokens == len(expected) - len(tokens) < length
  assert source.removed == {"bad_text": 2, "empty_text": 2}


def test_documents_that_name_a_special_token_are_left_out(tmp_path):
  source = packed(["12", f"3{END}4", f"{MASK}", "5"], 1, tmp_path)
  assert rows_of(source) == [[token] for token in stream(["12", "5"])]
  assert source.removed == {"bad_text": 2}


def test_rows_are_int32_of_the_length(tmp_path):
  row = packed(TEXTS, 4, tmp_path)[0]
  assert row.dtype == np.int32 and row.shape == (4,)


def test_any_order_and_any_thread_give_the_same(tmp_path):
  draw = np.random.default_rng(0)
  texts = ["1" * int(n) for n in draw.integers(0, 30, 300)]
  source = packed(texts, 7, tmp_path)
  expected = rows_of(source)
  order = draw.permutation(len(source)).tolist()
  with ThreadPoolExecutor(8) as pool:
    found = list(pool.map(lambda i: source[i].tolist(), order))
  assert found == [expected[i] for i in order]


def test_tokens_are_counted_once(tmp_path):
  first = packed(TEXTS, 5, tmp_path)
  calls = []

  def encode(text):
    calls.append(text)
    return digits(text)

  again = packed(TEXTS, 5, tmp_path, encode=encode)
  assert calls == [] and rows_of(again) == rows_of(first)
  assert again.removed == first.removed
  # Other lengths share the counts; another encoder or end token does not.
  packed(TEXTS, 3, tmp_path)
  assert len(os.listdir(tmp_path)) == 2
  packed(TEXTS, 5, tmp_path, name="other")
  packed(TEXTS, 5, tmp_path, end_id=8)
  assert len(os.listdir(tmp_path)) == 6


def test_counts_stay_on_disk_8_bytes_a_document(tmp_path):
  source = packed(TEXTS, 5, tmp_path)
  assert isinstance(source._ends.base, np.memmap)
  (path,) = tmp_path.glob("*.npy")
  counts = np.load(path, allow_pickle=False)
  assert counts.nbytes == 8 * len(TEXTS) and counts[-1] == len(stream(TEXTS))


@pytest.mark.parametrize("batch", [1, 3, 10, 1024])
def test_batches_do_not_change_the_counts(batch, tmp_path, monkeypatch):
  monkeypatch.setattr(packed_texts, "_BATCH", batch)
  packed(TEXTS, 5, tmp_path)
  (path,) = tmp_path.glob("*.npy")
  lengths = [len(text) + 1 if text else 0 for text in TEXTS]
  np.testing.assert_array_equal(np.load(path), np.cumsum(lengths))


def test_an_encoder_that_changed_is_noticed(tmp_path):
  packed(TEXTS, 5, tmp_path)
  source = packed(TEXTS, 5, tmp_path, encode=lambda text: digits(text) * 2)
  with pytest.raises(BadRecord, match=r"texts:0: wrong_length: 7 .* of 4"):
    source[0]


def test_counts_without_their_report_are_made_again(tmp_path):
  removed = packed(TEXTS, 5, tmp_path).removed
  (beside,) = tmp_path.glob("*.json")
  beside.unlink()
  assert packed(TEXTS, 5, tmp_path).removed == removed


def test_counting_that_is_interrupted_leaves_nothing(tmp_path):
  def encode(text):
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    packed(TEXTS, 5, tmp_path, encode=encode)
  assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("suffix", [".npy", ".json"])
def test_counts_with_one_flipped_bit_are_made_again(tmp_path, suffix, caplog):
  expected = packed(TEXTS, 5, tmp_path)
  (path,) = tmp_path.glob(f"*{suffix}")
  sound = path.read_bytes()
  for place in range(0, len(sound), 13):
    damaged = bytearray(sound)
    damaged[place] ^= 4
    path.write_bytes(damaged)
    found = packed(TEXTS, 5, tmp_path)
    assert path.read_bytes() == sound and found.removed == expected.removed
    np.testing.assert_array_equal(rows_of(found), rows_of(expected))
  assert "tokens are counted again" in caplog.text


def test_the_fingerprint_sees_everything(tmp_path):
  first = packed(TEXTS, 5, tmp_path).fingerprint()
  assert first == packed(TEXTS, 5, tmp_path).fingerprint()
  others = {
    packed(TEXTS, 4, tmp_path).fingerprint(),
    packed(TEXTS[:-1], 5, tmp_path).fingerprint(),
    packed(TEXTS, 5, tmp_path, end_id=8).fingerprint(),
    packed(TEXTS, 5, tmp_path, name="other").fingerprint(),
  }
  assert len(others | {first}) == 5


def test_what_fills_no_row_is_refused(tmp_path):
  with pytest.raises(ValueError, match="2 tokens, which fill no row of 5"):
    packed(["1"], 5, tmp_path)
  with pytest.raises(ValueError, match="0 tokens"):
    packed([], 5, tmp_path)
  for length in (0, -1, 2.5, True):
    with pytest.raises(ValueError, match="length must be a positive number"):
      packed(TEXTS, length, tmp_path)


def test_rows_outside_are_refused(tmp_path):
  source = packed(TEXTS, 5, tmp_path)
  for index in (-1, len(source)):
    with pytest.raises(IndexError, match="texts has 4 rows"):
      source[index]


def test_they_pickle_without_their_counts(tmp_path):
  """Worker processes get a copy each."""
  documents = Documents(TEXTS)
  source = PackedTexts(
    documents, DigitTokenizer(), length=5, index_folder=tmp_path
  )
  assert "_ends" not in source.__getstate__()
