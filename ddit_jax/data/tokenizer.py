"""One interface to every tokenizer, and the word tokenizer of closed grammars.

The `tokenizers` library does the work: it is what T5's and GPT-2's own files
are written for, so all tokenizers share one implementation.
"""

import dataclasses
from collections.abc import Iterable, Sequence

PAD, END, UNKNOWN, MASK = "<pad>", "</s>", "<unk>", "<extra_id_0>"
GPT2_END = "<|endoftext|>"
# A tokenizer has one of them.
END_TOKENS = (END, GPT2_END)
# No word of a text may be one of them.
SPECIAL_TOKENS = (PAD, *END_TOKENS, UNKNOWN, MASK)
FILE_NAME = "tokenizer.json"


@dataclasses.dataclass(frozen=True)
class Tokenizer:
  """Text to ids and back, with the special ids D-DiT needs.

  Attributes:
    backend: a `tokenizers.Tokenizer`.
    end_id: id of the end token; also the padding (see `text_layout`).
    mask_id: id that stands for a masked token; the last one.
    vocab_size: number of ids, the rows of the text head.
  """

  backend: object
  end_id: int
  mask_id: int
  vocab_size: int

  def encode(self, text: str) -> list[int]:
    """Ids of a text, without an end token."""
    return self.backend.encode(text, add_special_tokens=False).ids

  def decode(self, ids: Sequence[int]) -> str:
    """Text of ids, up to the first end token if there is one."""
    ids = [int(i) for i in ids]
    if self.end_id in ids:
      ids = ids[: ids.index(self.end_id)]
    return self.backend.decode(ids, skip_special_tokens=False)

  def unknown_pieces(self, text: str) -> list[str]:
    """The parts of a text that have no id of their own.

    They become <unk>, or are special tokens, which no text may contain.
    """
    encoding = self.backend.encode(text, add_special_tokens=False)
    added = self.backend.get_added_tokens_decoder()
    special = {id_ for id_, token in added.items() if token.special}
    special.add(self.backend.token_to_id(UNKNOWN))
    found = (
      text[start:stop]
      for id_, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True)
      if id_ in special
    )
    return list(dict.fromkeys(found))

  def tokens(self, ids: Sequence[int]) -> list[str]:
    """Each id as its own printable piece."""
    return [self.backend.id_to_token(int(i)) for i in ids]

  def files(self) -> dict[str, bytes]:
    """What a checkpoint stores, by file name."""
    text = self.backend.to_str(pretty=True)
    return {FILE_NAME: text.encode("utf-8")}


def from_files(files: dict[str, bytes]) -> Tokenizer:
  """The inverse of `Tokenizer.files`.

  Raises:
    ValueError: the file is missing or lacks a special token.
  """
  from tokenizers import Tokenizer as Backend

  if FILE_NAME not in files:
    raise ValueError(
      f"no {FILE_NAME} among the tokenizer's files {sorted(files)}"
    )
  return from_backend(Backend.from_str(files[FILE_NAME].decode("utf-8")))


def from_backend(backend) -> Tokenizer:
  """Reads the special ids of a `tokenizers.Tokenizer`.

  Raises:
    ValueError: a special token is missing, there are two end tokens, or the
      mask is not the last id.
  """
  ends = [t for t in END_TOKENS if backend.token_to_id(t) is not None]
  mask_id = backend.token_to_id(MASK)
  if len(ends) != 1 or mask_id is None:
    raise ValueError(
      f"the tokenizer needs one of the end tokens {END_TOKENS} and has {ends}, "
      f"and the mask token {MASK}, whose id is {mask_id}: use T5's, GPT-2's or "
      "one made by ddit_jax"
    )
  vocab_size = backend.get_vocab_size(with_added_tokens=True)
  if mask_id != vocab_size - 1:
    raise ValueError(
      f"the mask token {MASK} has id {mask_id} but must be the last of "
      f"{vocab_size} ids: the text head has one row per id"
    )
  # A stored file may carry both: tokens would be lost or added unseen.
  backend.no_truncation()
  backend.no_padding()
  return Tokenizer(
    backend=backend,
    end_id=backend.token_to_id(ends[0]),
    mask_id=mask_id,
    vocab_size=vocab_size,
  )


def check_text_head(tokenizer: Tokenizer, num_rows: int) -> None:
  """Raises ValueError unless the text head has one row per tokenizer id."""
  if num_rows != tokenizer.vocab_size:
    raise ValueError(
      f"the text head has {num_rows} rows but the tokenizer "
      f"{tokenizer.vocab_size} ids: use the tokenizer the network was trained "
      "with"
    )


def word_tokenizer(words: Iterable[str]) -> Tokenizer:
  """A tokenizer of a closed set of words, with T5's special tokens.

  Ids: <pad>, </s>, <unk>, the words in the given order, <extra_id_0>. Text is
  split at blanks, and the marks "?", ",", "." and "!" are words of their own;
  letters keep their case.

  Raises:
    ValueError: a word is given twice, or is a special token.
  """
  from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
  from tokenizers import Tokenizer as Backend

  words = list(words)
  if len(set(words)) != len(words):
    raise ValueError("the word list has repetitions")
  if special := sorted({*words} & {*SPECIAL_TOKENS}):
    raise ValueError(f"the word list has the special tokens {special}")
  vocab = {word: i for i, word in enumerate([PAD, END, UNKNOWN, *words, MASK])}
  backend = Backend(models.WordLevel(vocab, unk_token=UNKNOWN))
  backend.pre_tokenizer = pre_tokenizers.Sequence(
    [
      pre_tokenizers.WhitespaceSplit(),
      pre_tokenizers.Split(Regex(r"[?,.!]"), behavior="isolated"),
    ]
  )
  # Joins words with blanks, without one before marks.
  backend.decoder = decoders.WordPiece(cleanup=True)
  backend.add_special_tokens(
    [AddedToken(t, special=True) for t in (PAD, END, UNKNOWN, MASK)]
  )
  return from_backend(backend)
