"""Words of sources become ids, each once."""

import dataclasses

import pytest

from ddit_jax.data import source_words, tokenizers
from ddit_jax.data.example import BadRecord, Example
from ddit_jax.data.source_words import tokenizer_of_sources


@dataclasses.dataclass
class Texts:
  texts: list
  name: str = "texts"
  removed: dict = dataclasses.field(default_factory=dict)

  def __len__(self):
    return len(self.texts)

  def __getitem__(self, index):
    text = self.texts[index]
    if text is None:
      raise BadRecord("missing_file", "gone", str(index))
    return Example(
      record_id=str(index), image=None, texts=(text,), rewritten=("a dog.",)
    )

  def fingerprint(self):
    return ""


def test_all_words_come_back_and_frequent_ones_have_low_ids():
  tokenizer = tokenizer_of_sources([Texts(["a cat, a dog", None, "is it?"])])
  words = ["a", "dog", ".", "cat", ",", "is", "it", "?"]
  assert tokenizer.vocab_size == 4 + len(words)
  assert tokenizer.tokens([3]) == ["a"]
  for text in ("a cat, a dog.", "is it?"):
    ids = tokenizer.encode(text)
    assert tokenizer.unknown_pieces(text) == []
    assert tokenizer.decode(ids) == text
  assert tokenizer.unknown_pieces("a bird") == ["bird"]


def test_special_tokens_in_texts_are_no_words():
  texts = ["a </s> cat", "<extra_id_0> is <pad>", "<|endoftext|> a<unk>"]
  tokenizer = tokenizer_of_sources([Texts(texts)])
  assert tokenizer.vocab_size == 4 + len(
    ["a", "cat", "is", "dog", ".", "a<unk>"]
  )
  assert tokenizer.end_id == 1 and tokenizer.mask_id == 9
  assert tokenizer.end_id in tokenizer.encode(texts[0])
  assert tokenizer.mask_id in tokenizer.encode(texts[1])


def test_a_word_in_two_unicode_forms_is_one_word():
  composed, combining = "caf\u00e9", "cafe\u0301"
  tokenizer = tokenizer_of_sources([Texts([composed, combining])])
  (id_,) = tokenizer.encode(composed)
  assert tokenizer.encode(combining) == [id_]
  assert tokenizer.tokens([id_]) == [composed]
  assert tokenizer.unknown_pieces(f"a {combining}") == []
  assert tokenizer.unknown_pieces("a cafe\u0300") == ["caf\u00e8"]
  # Also after the tokenizer was stored.
  stored = tokenizers.from_files(tokenizer.files())
  assert stored.encode(combining) == [id_]


def test_more_words_follow_those_that_keep_their_ids():
  before = tokenizers.word_tokenizer(["a", "cat"])
  after = tokenizers.extended(before, ["dog", "cat", "dog"])
  assert tokenizers.words_of(after) == ["a", "cat", "dog"]
  assert after.encode("a cat") == before.encode("a cat")
  assert after.mask_id == before.mask_id + 1 == after.vocab_size - 1
  assert tokenizers.extended(before, ["cat"]) is before
  stored = tokenizers.from_files(after.files())
  assert tokenizers.words_of(stored) == ["a", "cat", "dog"]


def test_more_words_are_split_as_the_known_ones_were():
  # Before texts were normalised, two forms of a word were two words.
  before = tokenizers.word_tokenizer(["caf\u00e9", "cafe\u0301"])
  before.backend.normalizer = None
  after = tokenizers.extended(before, ["dog"])
  assert after.encode("caf\u00e9 cafe\u0301 dog") == [3, 4, 5]


def test_words_without_an_id_are_counted_by_text():
  source = Texts(["a cat", None, "a bird or two", "a bird"])
  tokenizer = tokenizers.word_tokenizer(["a", "cat", "dog", "."])
  found = source_words.unknown_words(source, tokenizer)
  # Each record has a rewritten caption, "a dog.".
  assert found == (6, 2, ["bird", "or", "two"])


def test_large_or_empty_sets_are_refused(monkeypatch):
  with pytest.raises(ValueError, match="have 0 words"):
    tokenizer_of_sources([Texts([None])])
  monkeypatch.setattr(source_words, "_MAX_RECORDS", 1)
  with pytest.raises(ValueError, match=r"at most 1 records, .* have 2: set"):
    tokenizer_of_sources([Texts(["a", "b"])])
