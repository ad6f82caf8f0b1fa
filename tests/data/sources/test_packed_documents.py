"""Documents are packed with a tokenizer, and counted where it may write."""

import itertools
import os

import numpy as np
import pytest

from ddit_jax.data.source_words import tokenizer_of_sources, word_tokenizer
from ddit_jax.data.sources.registry import open_source

TEXTS = ["a b c", "b", "c a b c a", "a a"]


@pytest.fixture
def folder(tmp_path):
  (tmp_path / "texts.txt").write_text("\n".join(TEXTS) + "\n")
  return tmp_path


def opened(folder, **options):
  spec = {"kind": "plain_text", "path": str(folder / "texts.txt")}
  spec |= {"documents": "line", "is_packed": True}
  return open_source("books", spec | options)


def joined(tokenizer) -> list[int]:
  """By hand: words and end tokens behind each other."""
  words = [(*text.split(), "</s>") for text in TEXTS]
  return [
    tokenizer.backend.token_to_id(word) for word in itertools.chain(*words)
  ]


@pytest.mark.parametrize("length", [1, 4, 7, 15])
def test_rows_are_the_joined_documents_cut_up(length, folder):
  tokenizer = word_tokenizer(["a", "b", "c"])
  rows = opened(folder).rows(tokenizer, length)
  found = np.concatenate([rows[i] for i in range(len(rows))]).tolist()
  assert found == joined(tokenizer)[: len(rows) * length]
  assert len(joined(tokenizer)) - len(found) < length


def test_as_a_source_it_gives_documents_for_a_word_tokenizer(folder):
  source = opened(folder)
  assert [source[i].texts for i in range(len(source))] == [(t,) for t in TEXTS]
  tokenizer = tokenizer_of_sources([source])
  assert sorted(tokenizer.encode("a b c")) == [3, 4, 5]
  assert source.has_images is False
  plain = opened(folder, is_packed=False)
  assert source.fingerprint() == plain.fingerprint()


def test_each_tokenizer_has_its_own_counts_beside_the_texts(folder):
  source = opened(folder)
  first = source.rows(word_tokenizer(["a", "b", "c"]), 4)
  assert source.rows(word_tokenizer(["a", "b", "c"]), 4) is first
  assert len(list(folder.glob("packed-*.npy"))) == 1
  source.rows(word_tokenizer(["c", "b", "a"]), 4)
  assert len(list(folder.glob("packed-*.npy"))) == 2


def test_counts_go_where_they_may(folder, tmp_path_factory, monkeypatch):
  cache, wanted = (tmp_path_factory.mktemp(name) for name in ("cache", "own"))
  tokenizer = word_tokenizer(["a", "b", "c"])
  opened(folder, index_folder=str(wanted)).rows(tokenizer, 4)
  assert len(os.listdir(wanted)) == 2
  monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
  monkeypatch.setattr(os, "access", lambda path, mode: False)
  opened(folder).rows(tokenizer, 4)
  assert len(os.listdir(cache / "ddit_jax" / "packed_texts")) == 2
  assert os.listdir(folder) == ["texts.txt"]


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"is_packed": "yes"}, "books: is_packed is True or False, not 'yes'"),
    (
      {"is_packed": False, "index_folder": "x"},
      "books: index_folder is only used where is_packed is True",
    ),
  ],
)
def test_wrong_keys_are_one_line(options, message, folder):
  with pytest.raises(ValueError, match=message):
    opened(folder, **options)


def test_a_folder_that_cannot_be_made_is_one_line(folder):
  source = opened(folder, index_folder=str(folder / "texts.txt" / "x"))
  with pytest.raises(ValueError, match=r"cannot be stored: .*set index_folder"):
    source.rows(word_tokenizer(["a"]), 4)
