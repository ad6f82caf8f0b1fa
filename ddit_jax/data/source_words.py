"""A word tokenizer of one's own texts, for sets that are small enough."""

from collections.abc import Iterable

from ddit_jax.data.examples import BadRecord, Source
from ddit_jax.data.tokenizer import SPECIAL_TOKENS, Tokenizer, word_tokenizer

MAX_RECORDS = 100_000
MAX_WORDS = 20_000


def tokenizer_of_sources(sources: Iterable[Source]) -> Tokenizer:
  """Every word of every text, the most frequent first.

  Reads all records once. Unreadable ones are left out here, and so are special
  tokens that a text names: training counts such records.

  Raises:
    ValueError: too many records or words, or no word at all: such sets take a
      pretrained tokenizer.
  """
  sources = list(sources)
  num_records = sum(map(len, sources))
  if num_records > MAX_RECORDS:
    raise ValueError(
      f"a word tokenizer is made of at most {MAX_RECORDS} records, these "
      f"sources have {num_records}: set data.tokenizer to gpt2:FOLDER or "
      "t5:FOLDER"
    )
  # A tokenizer of no words shows how texts are split.
  split = word_tokenizer([]).backend.pre_tokenizer.pre_tokenize_str
  counts: dict[str, int] = {}
  for source in sources:
    for text in _texts(source):
      for word, _ in split(text):
        if word not in SPECIAL_TOKENS:
          counts[word] = counts.get(word, 0) + 1
  if not 0 < len(counts) <= MAX_WORDS:
    raise ValueError(
      f"these sources have {len(counts)} words and a word tokenizer takes 1 to "
      f"{MAX_WORDS}: set data.tokenizer to gpt2:FOLDER or t5:FOLDER"
    )
  words = sorted(counts, key=lambda word: (-counts[word], word))
  return word_tokenizer(words)


def _texts(source: Source):
  for index in range(len(source)):
    try:
      example = source[index]
    except BadRecord:
      continue
    yield from (example.prompt, *example.texts, *example.rewritten)
