"""The tokenizer of a run: its own, or that of the run it starts from."""

import logging
import types
from collections.abc import Mapping

from ddit_jax.data.config import DataConfig
from ddit_jax.data.example import Source
from ddit_jax.data.source_words import (
  tokenizer_of_sources,
  unknown_words,
  words_of_sources,
)
from ddit_jax.data.tokenizers import (
  Tokenizer,
  extended,
  from_files,
  pretrained_tokenizer,
  word_tokenizer,
  words_of,
)
from ddit_jax.digits import grammar
from ddit_jax.errors import first_few
from ddit_jax.experiment.config import Config
from ddit_jax.experiment.pretrained import PretrainedModel, stored_tokenizer
from ddit_jax.experiment.source_record import changed_sources

_log = logging.getLogger(__name__)

# The `data.tokenizer` that is built from the sources' words.
_WORDS = "words"
_NO_SOURCES: Mapping[str, Source] = types.MappingProxyType({})


def new_tokenizer(
  config: Config,
  init_from: str,
  encoders: PretrainedModel | None,
  sources: Mapping[str, Source],
) -> Tokenizer:
  """The tokenizer of a new run: that of the weights it starts from, if any.

  A captioner that reads a network of token embeddings takes that network's.

  Args:
    config: of the run.
    init_from: resolved; "" starts from random weights.
    encoders: source of the frozen encoders, if there are any.
    sources: opened, by name.

  Raises:
    ValueError: see `make_tokenizer` and `kept_tokenizer`.
  """
  stored, reads_ids = None, config.model.embeds_tokens(encoders)
  if config.captioner.features == "mmdit" and reads_ids:
    init_from = config.captioner.features_from
  if init_from:
    stored = stored_tokenizer(init_from, config.init_weights)
  if stored is None:
    return make_tokenizer(config.data, encoders, sources)
  tokenizer = kept_tokenizer(
    *(stored, config.data, encoders, sources),
    may_extend=not (config.lora.rank or config.captioner.is_on),
  )
  _log_unknown_words(tokenizer, sources)
  return tokenizer


def resumed_tokenizer(
  config: Config,
  files: dict[str, bytes],
  held: Mapping[str, bytes],
  sources: Mapping[str, Source],
) -> Tokenizer:
  """The tokenizer of a resumed run: its checkpoint's.

  Args:
    config: of the run.
    files: of the checkpoint.
    held: what the sources hold now, see `source_record.source_files`.
    sources: opened, by name.

  Raises:
    InputError: sources have changed, and no setting accepts it.
  """
  tokenizer = from_files(files)
  changed = changed_sources(files, held, changeable=config.changeable_keys)
  _log_unknown_words(tokenizer, {name: sources[name] for name in changed})
  return tokenizer


def make_tokenizer(
  data: DataConfig,
  encoders: PretrainedModel | None = None,
  sources: Mapping[str, Source] = _NO_SOURCES,
) -> Tokenizer:
  """The tokenizer of a new run; a resumed run reads its checkpoint's.

  Raises:
    ValueError: its folder or kind cannot be used, or there is none.
  """
  asked = data.tokenizer
  kind, _, folder = asked.partition(":")
  if asked == _WORDS and sources:
    return tokenizer_of_sources(sources.values())
  if folder:
    return pretrained_tokenizer(kind, folder)
  if asked or (sources and encoders is None):
    raise ValueError(
      f"data.tokenizer is {asked!r}: write KIND:FOLDER, e.g. "
      f"gpt2:path/to/gpt2, or for small data.sources {_WORDS!r}, or set "
      "model.encoders_from"
    )
  if encoders is not None:
    return encoders.tokenizer
  # The digit worlds share one grammar.
  return word_tokenizer(grammar.words())


def kept_tokenizer(
  stored: Tokenizer,
  data: DataConfig,
  encoders: PretrainedModel | None = None,
  sources: Mapping[str, Source] = _NO_SOURCES,
  *,
  may_extend: bool = True,
) -> Tokenizer:
  """The tokenizer of a new run that starts from other weights: theirs.

  Words of the digit world, and with `data.tokenizer` "words" those of the
  sources, are added to a word tokenizer. With "" nothing is added.

  Args:
    stored: the tokenizer of the weights.
    data: of the run.
    encoders: as in `make_tokenizer`.
    sources: as in `make_tokenizer`.
    may_extend: False if no row for another word can be trained.

  Raises:
    ValueError: the run would give other ids to tokens, or must not add words.
  """
  asked = data.tokenizer
  if words_of(stored) is not None and asked in ("", _WORDS) and not encoders:
    return _with_words(stored, data, sources, may_extend)
  if not asked and encoders is None:
    return stored
  if asked == _WORDS:
    raise ValueError(
      "data.tokenizer is 'words', but the network of init_from was trained "
      "with a tokenizer of another kind: set data.tokenizer='' to keep it"
    )
  tokenizer = make_tokenizer(data, encoders, sources)
  _check_same_ids(tokenizer, stored)
  return tokenizer


def _with_words(
  stored: Tokenizer,
  data: DataConfig,
  sources: Mapping[str, Source],
  may_extend: bool,
) -> Tokenizer:
  words = []
  if not sources:
    words = grammar.words()
  elif data.tokenizer == _WORDS:
    words = words_of_sources(sources.values(), stored)
  tokenizer = extended(stored, words)
  if tokenizer is not stored and not may_extend:
    known = set(words_of(stored))
    new = [repr(word) for word in words if word not in known]
    raise ValueError(
      f"the network of init_from has no row for {first_few(new)}, and neither "
      "adapters nor captioners add one: set data.tokenizer='' to keep its "
      "words (texts with others are counted)"
    )
  return tokenizer


def _check_same_ids(tokenizer: Tokenizer, stored: Tokenizer) -> None:
  ours, theirs = (
    one.tokens(range(one.vocab_size)) for one in (tokenizer, stored)
  )
  if ours == theirs:
    return
  pairs = zip(ours, theirs, strict=False)
  differing = [
    f"id {id_} is {there!r} there and {here!r} here"
    for id_, (here, there) in enumerate(pairs)
    if here != there
  ] or [f"{len(theirs)} ids there and {len(ours)} here"]
  raise ValueError(
    "data.tokenizer: the network of init_from was trained with another "
    f"tokenizer ({first_few(differing, limit=2)}): set data.tokenizer='' and "
    "model.encoders_from as they were there"
  )


def _log_unknown_words(
  tokenizer: Tokenizer, sources: Mapping[str, Source]
) -> None:
  """Logs how many texts hold words without an id, if any do.

  Only word tokenizers are checked: others know nearly everything, and the
  sources are too large. Training counts such texts as they are read.
  """
  if words_of(tokenizer) is None:
    return
  for name, source in sources.items():
    num_texts, num_unknown, words = unknown_words(source, tokenizer)
    if num_unknown:
      _log.warning(
        "source %s: %d of %d texts hold words without an id (%s), which are "
        "read as <unk> and never learned",
        *(name, num_unknown, num_texts, first_few(map(repr, words))),
      )
