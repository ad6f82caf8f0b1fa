"""CLIP's tokenizer files as SD3 is published with them, in miniature."""

import json
import pathlib

from tokenizers import pre_tokenizers

START, END = "<|startoftext|>", "<|endoftext|>"
# CLIP-L's pad token, and CLIP-G's.
PADS = {"tokenizer": END, "tokenizer_2": "!"}
_LAST = "</w>"
MERGES = (
  ("c", "a"),
  ("ca", f"t{_LAST}"),
  ("d", "o"),
  ("do", f"g{_LAST}"),
  ("r", "e"),
  ("re", f"d{_LAST}"),
  ("c", "k"),
)


def vocabulary() -> dict[str, int]:
  """512 bytes inside and at the end of words, the merges, start and end."""
  letters = sorted(pre_tokenizers.ByteLevel.alphabet())
  pieces = [*letters, *(letter + _LAST for letter in letters)]
  pieces += [left + right for left, right in MERGES]
  return {piece: i for i, piece in enumerate([*pieces, START, END])}


def write(folder: pathlib.Path, pad: str) -> pathlib.Path:
  """vocab.json, merges.txt and both files that name the pad token."""
  folder.mkdir(parents=True)
  ids = vocabulary()
  (folder / "vocab.json").write_text(json.dumps(ids), encoding="utf-8")
  lines = ["#version: 0.2", *(" ".join(pair) for pair in MERGES)]
  (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
  special = {
    "bos_token": _token(START, is_normalized=True),
    "eos_token": _token(END, is_normalized=True),
    "pad_token": pad,
    "unk_token": _token(END, is_normalized=True),
  }
  added = {
    str(ids[token]): _token(token, is_normalized=token == START)
    for token in dict.fromkeys([pad, START, END])
  }
  config = {
    "add_prefix_space": False,
    "added_tokens_decoder": added,
    "bos_token": START,
    "clean_up_tokenization_spaces": True,
    "do_lower_case": True,
    "eos_token": END,
    "errors": "replace",
    "model_max_length": 77,
    "pad_token": pad,
    "tokenizer_class": "CLIPTokenizer",
    "unk_token": END,
  }
  for name, body in (
    ("special_tokens_map.json", special),
    ("tokenizer_config.json", config),
  ):
    (folder / name).write_text(json.dumps(body, indent=2))
  return folder


def _token(content: str, *, is_normalized: bool) -> dict:
  return {
    "content": content,
    "lstrip": False,
    "normalized": is_normalized,
    "rstrip": False,
    "single_word": False,
  }
