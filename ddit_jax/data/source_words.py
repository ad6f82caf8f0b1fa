"""The words of small sources: those of a tokenizer, and those it lacks."""

from collections.abc import Iterable, Iterator

from ddit_jax.data.example import BadRecord, Source
from ddit_jax.data.tokenizers import (
  SPECIAL_TOKENS,
  Tokenizer,
  word_tokenizer,
)

_MAX_RECORDS = 100_000
_MAX_WORDS = 20_000


def tokenizer_of_sources(sources: Iterable[Source]) -> Tokenizer:
  """Every word of every text, most frequent first; see `words_of_sources`."""
  return word_tokenizer(words_of_sources(sources, word_tokenizer([])))


def words_of_sources(
  sources: Iterable[Source], tokenizer: Tokenizer
) -> list[str]:
  """Every word of every text, most frequent first.

  Reads all records once. Unreadable ones are skipped, and so are special
  tokens in texts; training counts such records.

  Args:
    sources: with texts.
    tokenizer: a word tokenizer, which splits the texts.

  Raises:
    ValueError: too many records or words, or no words; use a
      pretrained tokenizer instead.
  """
  sources = list(sources)
  num_records = sum(map(len, sources))
  if num_records > _MAX_RECORDS:
    raise ValueError(
      f"a word tokenizer is made of at most {_MAX_RECORDS} records, these "
      f"sources have {num_records}: set data.tokenizer to gpt2:FOLDER or "
      "t5:FOLDER"
    )
  counts: dict[str, int] = {}
  for source in sources:
    for text in _texts(source, range(len(source))):
      for word in tokenizer.words(text):
        if word not in SPECIAL_TOKENS:
          counts[word] = counts.get(word, 0) + 1
  if not 0 < len(counts) <= _MAX_WORDS:
    raise ValueError(
      f"these sources have {len(counts)} words and a word tokenizer takes 1 to "
      f"{_MAX_WORDS}: set data.tokenizer to gpt2:FOLDER or t5:FOLDER"
    )
  return sorted(counts, key=lambda word: (-counts[word], word))


def unknown_words(
  source: Source, tokenizer: Tokenizer
) -> tuple[int, int, list[str]]:
  """(texts read, those that hold words without an id, these words).

  Of a large source, evenly spaced records are read.
  """
  stride = -(-len(source) // _MAX_RECORDS)
  num_texts, num_unknown, words = 0, 0, {}
  for text in _texts(source, range(0, len(source), stride)):
    found = tokenizer.unknown_pieces(text)
    num_texts, num_unknown = num_texts + 1, num_unknown + bool(found)
    words |= dict.fromkeys(found)
  return num_texts, num_unknown, list(words)


def _texts(source: Source, indices: Iterable[int]) -> Iterator[str]:
  for index in indices:
    try:
      example = source[index]
    except BadRecord:
      continue
    texts = (example.prompt, *example.texts, *example.rewritten)
    yield from filter(None, texts)
