"""T5's and GPT-2's own tokenizers, from folders or the hub."""

import dataclasses
import json
import pathlib

from ddit_jax.data.tokenizer import (
  END,
  FILE_NAME,
  GPT2_END,
  MASK,
  Tokenizer,
  from_backend,
)

_SPIECE, _VOCABULARY, _MERGES = "spiece.model", "vocab.json", "merges.txt"


@dataclasses.dataclass(frozen=True)
class _Kind:
  """A class of `transformers`, the files it reads, and how texts end."""

  class_name: str
  own_files: tuple[str, ...]
  end_token: str


_KINDS = {
  "t5": _Kind("T5Tokenizer", (_SPIECE,), END),
  "gpt2": _Kind("GPT2Tokenizer", (_VOCABULARY, _MERGES), GPT2_END),
}
KINDS = tuple(_KINDS)


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
    raise ValueError(f"unknown tokenizer {kind!r}; there are {KINDS}")
  folder = pathlib.Path(source).expanduser()
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
  """The `tokenizers.Tokenizer` of a folder's files."""
  own_files = _KINDS[kind].own_files
  try:
    if (folder / FILE_NAME).is_file():
      # It holds all of a tokenizer; transformers would change some of it.
      from tokenizers import Tokenizer as Backend

      return Backend.from_file(str(folder / FILE_NAME))
    if all((folder / name).is_file() for name in own_files):
      return _read_own_files(kind, folder)
  except ValueError:
    raise
  except Exception as error:
    # The libraries raise whatever their parsers do.
    raise ValueError(f"damaged files: {_line(error)}") from error
  found = sorted(path.name for path in folder.iterdir())
  raise ValueError(
    f"needs {FILE_NAME} or {' with '.join(own_files)}, found {found}"
  )


def _read_own_files(kind: str, folder: pathlib.Path):
  """What transformers makes of the files that the model was published with."""
  num_stored = (
    _num_pieces(folder / _SPIECE)
    if kind == "t5"
    else _num_merged_tokens(folder)
  )
  # Imported here: it takes a second, and the quickstart never needs it.
  import transformers

  tokenizer_class = getattr(transformers, _KINDS[kind].class_name)
  loaded = tokenizer_class.from_pretrained(folder, local_files_only=True)
  backend = loaded.backend_tokenizer
  # Where transformers cannot use a file it goes on with an empty vocabulary.
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
      f"{model.name} without {FILE_NAME} needs the package sentencepiece: "
      "pip install sentencepiece"
    ) from error
  processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
  return processor.get_piece_size()


def _num_merged_tokens(folder: pathlib.Path) -> int:
  """GPT-2's tokens, each of which is a character or the result of a merge."""
  try:
    vocabulary = json.loads((folder / _VOCABULARY).read_bytes())
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
      f"right kind, one of {KINDS}"
    )


def _append_mask(backend) -> None:
  from tokenizers import AddedToken

  backend.add_special_tokens([AddedToken(MASK, special=True, normalized=False)])


def _download(kind: str, name: str) -> pathlib.Path:
  """The folder of a tokenizer of the hub, fetched or found in its cache."""
  files = (FILE_NAME, *_KINDS[kind].own_files)
  if pathlib.Path(name).is_absolute() or name.count("/") > 1:
    raise ValueError(f"there is no folder {name}: give one that holds {files}")
  import huggingface_hub

  try:
    folder = huggingface_hub.snapshot_download(
      name, allow_patterns=[*files, "*_config.json", "special_tokens_map.json"]
    )
  except (OSError, ValueError) as error:
    raise ValueError(
      f"{name} is no folder here and the hub did not give it "
      f"({_line(error)}): give a folder that holds {FILE_NAME}"
    ) from error
  return pathlib.Path(folder)


def _line(error: Exception) -> str:
  return (str(error).strip().splitlines() or [type(error).__name__])[0]
