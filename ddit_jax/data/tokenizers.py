"""One interface to every tokenizer, and the word tokenizer of closed grammars.

Based on the `tokenizers` library: T5's and GPT-2's own files are written for
it, so all tokenizers share one implementation.
"""

import base64
import dataclasses
import json
import pathlib
from collections.abc import Iterable, Iterator, Sequence

from ddit_jax.files import local_path, read_regular
from ddit_jax.json_files import read_json_object

PAD, END, UNKNOWN, MASK = "<pad>", "</s>", "<unk>", "<extra_id_0>"
_GPT2_END = "<|endoftext|>"
# A tokenizer has exactly one of them.
_END_TOKENS = (END, _GPT2_END)
# Texts must not contain any of them.
SPECIAL_TOKENS = (PAD, *_END_TOKENS, UNKNOWN, MASK)
_TOKENIZER_FILE = "tokenizer.json"
_MAX_BYTES = 2**26


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

  @property
  def unknown_id(self) -> int | None:
    """Id of what is in no vocabulary; None if everything has ids."""
    return self.backend.token_to_id(UNKNOWN)

  def decode(self, ids: Sequence[int]) -> str:
    """Text of ids, up to the first end token if there is one."""
    ids = [int(i) for i in ids]
    if self.end_id in ids:
      ids = ids[: ids.index(self.end_id)]
    return self.backend.decode(ids, skip_special_tokens=False)

  def unknown_pieces(self, text: str) -> list[str]:
    """The parts of a text that are not in the vocabulary.

    They become <unk>, or are special tokens, which no text may contain.
    """
    added = self.backend.get_added_tokens_decoder()
    special = {id_ for id_, token in added.items() if token.special}
    special.add(self.unknown_id)
    # Offsets of what is normalised already count every character.
    text = self._normalised(text)
    encoding = self.backend.encode(text, add_special_tokens=False)
    found = (
      text[start:stop]
      for id_, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True)
      if id_ in special
    )
    return list(dict.fromkeys(found))

  def words(self, text: str) -> list[str]:
    """How a text is normalised and split before it is looked up."""
    split = self.backend.pre_tokenizer.pre_tokenize_str(self._normalised(text))
    return [word for word, _ in split]

  def _normalised(self, text: str) -> str:
    normalizer = self.backend.normalizer
    return text if normalizer is None else normalizer.normalize_str(text)

  def tokens(self, ids: Sequence[int]) -> list[str]:
    """The printable form of each id."""
    return [self.backend.id_to_token(int(i)) for i in ids]

  def files(self) -> dict[str, bytes]:
    """Files for a checkpoint, by name."""
    text = self.backend.to_str(pretty=True)
    return {_TOKENIZER_FILE: text.encode("utf-8")}


def from_files(files: dict[str, bytes]) -> Tokenizer:
  """The inverse of `Tokenizer.files`.

  Raises:
    ValueError: the file is missing, damaged, or lacks a special token.
  """
  if _TOKENIZER_FILE not in files:
    raise ValueError(
      f"no {_TOKENIZER_FILE} among the tokenizer's files {sorted(files)}"
    )
  return from_backend(read_backend(files[_TOKENIZER_FILE]))


def read_backend(data: bytes):
  """A `tokenizers.Tokenizer` from the contents of its file.

  Raises:
    ValueError: they are damaged; the library itself raises plain exceptions.
  """
  from tokenizers import Tokenizer as Backend
  from tokenizers import normalizers

  try:
    text = data.decode("utf-8")
    body = json.loads(text)
    # A damaged one would end the library in a panic, with its own traceback.
    for table in _character_tables(body):
      normalizers.Precompiled(table)
    return Backend.from_str(text)
  except Exception as error:
    raise ValueError(f"damaged {_TOKENIZER_FILE}: {_line(error)}") from error


def _character_tables(body: object) -> Iterator[bytes]:
  """Sentencepiece's normalisation tables in a tokenizer's JSON."""
  if isinstance(body, list):
    for value in body:
      yield from _character_tables(value)
  elif isinstance(body, dict):
    if "precompiled_charsmap" in body:
      yield base64.b64decode(body["precompiled_charsmap"] or "")
    for value in body.values():
      yield from _character_tables(value)


def from_backend(backend) -> Tokenizer:
  """Reads the special ids of a `tokenizers.Tokenizer`.

  Raises:
    ValueError: a special token is missing, there are two end tokens, or the
      mask is not the last id.
  """
  ends = [t for t in _END_TOKENS if backend.token_to_id(t) is not None]
  mask_id = backend.token_to_id(MASK)
  if len(ends) != 1 or mask_id is None:
    raise ValueError(
      f"the tokenizer needs one of the end tokens {_END_TOKENS} and has "
      f"{ends}, and the mask token {MASK}, whose id is {mask_id}: use T5's, "
      "GPT-2's or one made by ddit_jax"
    )
  vocab_size = backend.get_vocab_size(with_added_tokens=True)
  if mask_id != vocab_size - 1:
    raise ValueError(
      f"the mask token {MASK} has id {mask_id} but must be the last of "
      f"{vocab_size} ids: the text head has one row per id"
    )
  # A stored file may contain both, which silently drop or add tokens.
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
  split at blanks, and the marks "?", ",", "." and "!" are separate words;
  letters keep their case. Texts are brought into Unicode's form NFC, so that a
  letter typed with a combining accent is the same as the accented letter.

  Raises:
    ValueError: a word is given twice, or is a special token.
  """
  from tokenizers import (
    AddedToken,
    Regex,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
  )
  from tokenizers import Tokenizer as Backend

  words = list(words)
  if len(set(words)) != len(words):
    raise ValueError("the word list has repetitions")
  if special := sorted({*words} & {*SPECIAL_TOKENS}):
    raise ValueError(f"the word list has the special tokens {special}")
  vocab = {word: i for i, word in enumerate([PAD, END, UNKNOWN, *words, MASK])}
  backend = Backend(models.WordLevel(vocab, unk_token=UNKNOWN))
  backend.normalizer = normalizers.NFC()
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


def words_of(tokenizer: Tokenizer) -> list[str] | None:
  """The words of a `word_tokenizer` by id; None if it is another kind."""
  from tokenizers import models

  if not isinstance(tokenizer.backend.model, models.WordLevel):
    return None
  *first, mask = tokenizer.tokens(range(tokenizer.vocab_size))
  special, words = first[:3], first[3:]
  return words if [*special, mask] == [PAD, END, UNKNOWN, MASK] else None


def extended(tokenizer: Tokenizer, words: Iterable[str]) -> Tokenizer:
  """A `word_tokenizer` with more words, which follow those it has.

  Its own words keep their ids; the mask remains the last id.
  """
  known = words_of(tokenizer)
  words = list(dict.fromkeys([*known, *words]))
  if len(words) == len(known):
    return tokenizer
  longer = word_tokenizer(words)
  # Its words were split by this one.
  longer.backend.normalizer = tokenizer.backend.normalizer
  return longer


_SPIECE, _VOCABULARY, _MERGES = "spiece.model", "vocab.json", "merges.txt"


@dataclasses.dataclass(frozen=True)
class _Kind:
  """A class of `transformers`, the files it reads, and how texts end."""

  class_name: str
  own_files: tuple[str, ...]
  end_token: str


_KINDS = {
  "t5": _Kind("T5Tokenizer", (_SPIECE,), END),
  "gpt2": _Kind("GPT2Tokenizer", (_VOCABULARY, _MERGES), _GPT2_END),
}
_KIND_NAMES = tuple(_KINDS)


def pretrained_tokenizer(kind: str, source: str | pathlib.Path) -> Tokenizer:
  """A published tokenizer, with D-DiT's mask token as its last id.

  T5 has the mask among its sentinels. GPT-2 has none, so that one is appended;
  it ends and pads texts with <|endoftext|>.

  Args:
    kind: "t5" or "gpt2".
    source: a folder with `tokenizer.json`, T5's `spiece.model`, or GPT-2's
      `vocab.json` and `merges.txt`; or a name on the Hugging Face hub, for
      those who are online.

  Raises:
    ValueError: no such kind; the folder lacks the files or they are damaged;
      the hub does not give them; the mask would not be the last id.
  """
  if kind not in _KINDS:
    raise ValueError(f"unknown tokenizer {kind!r}; there are {_KIND_NAMES}")
  folder = local_path(source, what="tokenizer")
  if not folder.is_dir():
    folder = _download(kind, str(source))
  try:
    backend = _read(kind, folder)
    if kind == "gpt2" and backend.token_to_id(MASK) is None:
      _append_mask(backend)
    tokenizer = from_backend(backend)
    _check_end(kind, tokenizer)
    return tokenizer
  except ValueError as error:
    raise ValueError(f"tokenizer {source}: {error}") from error


def _read(kind: str, folder: pathlib.Path):
  """Loads a folder's files as a `tokenizers.Tokenizer`."""
  own_files = _KINDS[kind].own_files
  try:
    if (folder / _TOKENIZER_FILE).is_file():
      # It is a complete tokenizer, which transformers would alter.
      return read_backend(read_regular(folder / _TOKENIZER_FILE))
    if all((folder / name).is_file() for name in own_files):
      return _read_own_files(kind, folder)
  except ValueError:
    raise
  except Exception as error:
    # The parsers may raise any exception.
    raise ValueError(f"damaged files: {_line(error)}") from error
  found = sorted(path.name for path in folder.iterdir())
  raise ValueError(
    f"needs {_TOKENIZER_FILE} or {' with '.join(own_files)}, found {found}"
  )


def _read_own_files(kind: str, folder: pathlib.Path):
  """Loads the model's published files with transformers."""
  num_stored = (
    _num_pieces(folder / _SPIECE)
    if kind == "t5"
    else _num_merged_tokens(folder)
  )
  # Imported here: it takes a second, and the quickstart never needs it.
  import transformers

  tokenizer_class = getattr(transformers, _KINDS[kind].class_name)
  loaded = tokenizer_class.from_pretrained(
    folder, local_files_only=True, trust_remote_code=False
  )
  backend = loaded.backend_tokenizer
  # If a file is unusable, transformers continues with an empty vocabulary.
  if backend.get_vocab_size() < num_stored:
    raise ValueError(
      f"transformers read {backend.get_vocab_size()} of {num_stored} tokens: "
      f"these files are of no {kind} tokenizer"
    )
  return backend


def _num_pieces(model: pathlib.Path) -> int:
  try:
    import sentencepiece
  except ImportError as error:
    raise ValueError(
      f"{model.name} without {_TOKENIZER_FILE} needs the package "
      "sentencepiece: pip install sentencepiece"
    ) from error
  processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
  return processor.get_piece_size()


def _num_merged_tokens(folder: pathlib.Path) -> int:
  """GPT-2's tokens, each of which is a character or the result of a merge."""
  try:
    vocabulary = read_json_object(folder / _VOCABULARY, max_bytes=_MAX_BYTES)
  except ValueError as error:
    raise ValueError(f"{_VOCABULARY} is not JSON: {error}") from error
  text = (folder / _MERGES).read_text(encoding="utf-8")
  lines = [ln for ln in text.split("\n") if not ln.startswith("#version")]
  known = {"".join(line.split(" ")) for line in lines}
  lost = [t for t in vocabulary if len(t) > 1 and t not in known]
  lost = [t for t in lost if not (t.startswith("<") and t.endswith(">"))]
  if lost:
    raise ValueError(
      f"{len(lost)} tokens of {_VOCABULARY} come from no line of {_MERGES} "
      f"(first: {lost[0]!r}): it is cut off or of another model"
    )
  return len(vocabulary)


def _check_end(kind: str, tokenizer: Tokenizer) -> None:
  (end,), wanted = tokenizer.tokens([tokenizer.end_id]), _KINDS[kind].end_token
  if end != wanted:
    raise ValueError(
      f"ends texts with {end}, a {kind} tokenizer with {wanted}: name the "
      f"right kind, one of {_KIND_NAMES}"
    )


def _append_mask(backend) -> None:
  from tokenizers import AddedToken

  backend.add_special_tokens([AddedToken(MASK, special=True, normalized=False)])


def _download(kind: str, name: str) -> pathlib.Path:
  """The folder of a tokenizer of the hub, fetched or found in its cache."""
  files = (_TOKENIZER_FILE, *_KINDS[kind].own_files)
  if pathlib.Path(name).is_absolute() or name.count("/") > 1:
    raise ValueError(f"there is no folder {name}: give one that holds {files}")
  import huggingface_hub

  try:
    folder = huggingface_hub.snapshot_download(
      name, allow_patterns=[*files, "*_config.json", "special_tokens_map.json"]
    )
  except (OSError, ValueError) as error:
    raise ValueError(
      f"{name} is not a local folder and the hub did not give it "
      f"({_line(error)}): give a folder that holds {_TOKENIZER_FILE}"
    ) from error
  return pathlib.Path(folder)


def _line(error: Exception) -> str:
  return (str(error).strip().splitlines() or [type(error).__name__])[0]
