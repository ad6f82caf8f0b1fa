"""Case k: the ids of both checkpoints' tokenizers, both ways of padding."""

import numpy as np

from ddit_jax.data.text import caption_tokens
from ddit_jax.data.tokenizers import (
  MASK,
  PAD,
  UNKNOWN,
  Tokenizer,
  check_text_head,
  pretrained_tokenizer,
)
from parity.checkpoints import Checkpoints
from parity.comparison import Readings
from parity.golden_set import Case, GoldenSet, GoldenSetError

_LAST_SENTINEL = "<extra_id_99>"


def outputs(
  golden: GoldenSet, case: Case, checkpoints: Checkpoints
) -> dict[str, Readings]:
  """Our side of every array of the case."""
  texts = golden.extra.get("k_texts")
  if not isinstance(texts, list):
    raise GoldenSetError("the manifest lacks extra.k_texts")
  ddit = checkpoints.get("ddit")
  sources = {"ddit": ddit} | checkpoints.sd3()
  tokenizers = {
    name: pretrained_tokenizer("t5", loaded.plain_folders["tokenizer"])
    for name, loaded in sources.items()
    if "tokenizer" in loaded.plain_folders
  }
  if "ddit" not in tokenizers:
    raise GoldenSetError("ckpt/ddit has no tokenizer folder")
  check_text_head(tokenizers["ddit"], ddit["network"].config.vocab_size)
  results = {
    "special": {n: _special_ids(t) for n, t in tokenizers.items()},
  }
  for name in ("ids_eos_padded", "ids_pad_padded"):
    if name in case.entries:
      _, length = case.entries[name].shape
      pad = _padded_with_pad if name == "ids_pad_padded" else caption_tokens
      results[name] = {
        n: np.stack([pad(t, text, length) for text in texts])
        for n, t in tokenizers.items()
      }
  return results


def _special_ids(tokenizer: Tokenizer) -> np.ndarray:
  pad, unknown, mask, last_sentinel = (
    _id_of(tokenizer, token) for token in (PAD, UNKNOWN, MASK, _LAST_SENTINEL)
  )
  return np.array(
    [
      *(pad, tokenizer.end_id, unknown),
      *(mask, last_sentinel, tokenizer.vocab_size),
    ]
  )


def _id_of(tokenizer: Tokenizer, token: str) -> int:
  found = tokenizer.backend.token_to_id(token)
  if found is None:
    raise GoldenSetError(f"the tokenizer has no {token}: it is not T5's")
  return found


def _padded_with_pad(
  tokenizer: Tokenizer, text: str, length: int
) -> np.ndarray:
  """As SD3 pads: one end token, then T5's own padding."""
  tokens = caption_tokens(tokenizer, text, length)
  num_kept = len(tokenizer.encode(text)) + 1
  tokens[num_kept:] = _id_of(tokenizer, PAD)
  return tokens
