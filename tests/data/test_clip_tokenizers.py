"""CLIP's tokenizers against transformers' own calls, and broken folders."""

import json
import shutil

import numpy as np
import pytest
import transformers

from ddit_jax.data.prompt_tokenizers import clip_tokenizer
from tests import clip_tokenizer_files

TEXTS = [
  "a red cat",
  "",
  "  A   Red\tDOG\n",
  "it's a cat! no, 12 dogs!!",
  "naïve café 中 e\u0301",
  "two <|endoftext|> in one",
  "red ! dog",
  # 74, 75 and 76 pieces: with start and end 76, 77 and one too many.
  "cat " * 74,
  "cat " * 75,
  "cat " * 76,
  "x! " * 90,
]


@pytest.fixture(scope="module", params=sorted(clip_tokenizer_files.PADS))
def folder(request, tmp_path_factory):
  """CLIP-L's, then CLIP-G's."""
  name = request.param
  path = tmp_path_factory.mktemp("clip") / name
  return clip_tokenizer_files.write(path, clip_tokenizer_files.PADS[name])


def ids_by_transformers(folder, text):
  """What diffusers' pipelines of SD3 call."""
  tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
  return tokenizer(
    text, padding="max_length", max_length=77, truncation=True
  ).input_ids


def test_ids_equal_transformers(folder):
  tokenizer = clip_tokenizer(folder)
  for text in TEXTS:
    got = tokenizer.encode(text)
    assert got.ids.shape == (77,) and got.ids.dtype == np.int32
    assert got.ids.tolist() == ids_by_transformers(folder, text), text


def test_ids_by_hand(folder):
  ids = clip_tokenizer_files.vocabulary()
  start, end = ids["<|startoftext|>"], ids["<|endoftext|>"]
  pad = {"tokenizer": end, "tokenizer_2": 0}[folder.name]
  # CLIP-G's padding is a "!" wherever it stands.
  bang = {"tokenizer": ids["!</w>"], "tokenizer_2": 0}[folder.name]
  words = [ids["cat</w>"], bang, ids["re"], ids["b</w>"]]
  got = clip_tokenizer(folder).encode("Cat! reb").ids.tolist()
  assert got == [start, *words, end, *[pad] * (77 - 6)]


def test_saved_by_transformers_it_is_the_same(folder, tmp_path):
  saved = transformers.CLIPTokenizer.from_pretrained(folder)
  # Leaves its settings in the saved file.
  saved("a", padding="max_length", max_length=9, truncation=True)
  saved.save_pretrained(tmp_path)
  assert not (tmp_path / "vocab.json").exists()
  ours, again = clip_tokenizer(folder), clip_tokenizer(tmp_path)
  for text in TEXTS:
    np.testing.assert_array_equal(again.encode(text).ids, ours.encode(text).ids)


def test_what_is_cut_off_is_counted(folder):
  tokenizer = clip_tokenizer(folder)
  counts = [tokenizer.encode("cat " * n).num_truncated for n in (75, 76, 90)]
  assert counts == [0, 1, 15]
  short = clip_tokenizer(folder, length=5).encode("a red cat dog")
  ids = clip_tokenizer_files.vocabulary()
  assert short.num_truncated == 1
  assert short.ids.tolist() == [
    *(ids["<|startoftext|>"], ids["a</w>"], ids["red</w>"], ids["cat</w>"]),
    ids["<|endoftext|>"],
  ]


@pytest.fixture
def copy(tmp_path):
  return clip_tokenizer_files.write(tmp_path / "copy", "!")


def test_the_pad_token_may_stand_in_either_file(copy):
  want = clip_tokenizer(copy).encode("red!").ids
  for name in ("tokenizer_config.json", "special_tokens_map.json"):
    text = (copy / name).read_text()
    (copy / name).unlink()
    np.testing.assert_array_equal(clip_tokenizer(copy).encode("red!").ids, want)
    (copy / name).write_text(text)


def test_no_pad_token_is_not_guessed(copy):
  (copy / "tokenizer_config.json").unlink()
  (copy / "special_tokens_map.json").write_text("{}")
  with pytest.raises(ValueError, match="names a pad_token: copy the folder"):
    clip_tokenizer(copy)


def test_two_pad_tokens_are_refused(copy):
  path = copy / "tokenizer_config.json"
  fields = json.loads(path.read_text()) | {"pad_token": "<|endoftext|>"}
  path.write_text(json.dumps(fields))
  with pytest.raises(ValueError, match="name different pad tokens"):
    clip_tokenizer(copy)


def test_a_pad_token_without_an_id_is_refused(copy):
  (copy / "special_tokens_map.json").unlink()
  path = copy / "tokenizer_config.json"
  fields = json.loads(path.read_text()) | {"pad_token": "<pad>"}
  path.write_text(json.dumps(fields))
  with pytest.raises(ValueError, match=r"lacks the special tokens \['<pad>'\]"):
    clip_tokenizer(copy)


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_missing_files_are_named(copy, name):
  (copy / name).unlink()
  message = r"needs tokenizer\.json or vocab\.json with merges\.txt, found \["
  with pytest.raises(ValueError, match=message):
    clip_tokenizer(copy)


def test_a_missing_folder_is_named(tmp_path):
  with pytest.raises(ValueError, match="there is no tokenizer folder"):
    clip_tokenizer(tmp_path / "nowhere")


def edited_vocabulary(copy, change):
  path = copy / "vocab.json"
  ids = json.loads(path.read_text())
  change(ids)
  path.write_text(json.dumps(ids))


def test_damaged_files_are_refused(copy, tmp_path):
  for name, text, message in (
    ("vocab.json", '{"a": ', "damaged files"),
    ("merges.txt", "#version: 0.2\nc a\n", "pieces come from no merge"),
    ("tokenizer_config.json", "{", "tokenizer_config.json is damaged"),
    ("special_tokens_map.json", "[]", "special_tokens_map.json is damaged"),
    ("special_tokens_map.json", "[" * 99_999, "is damaged: .* is not JSON"),
    ("tokenizer.json", "[" * 99_999, r"damaged tokenizer\.json"),
  ):
    folder = shutil.copytree(copy, tmp_path / "x")
    (folder / name).write_text(text)
    with pytest.raises(ValueError, match=message):
      clip_tokenizer(folder)
    shutil.rmtree(folder)


def test_another_models_vocabulary_is_refused(copy):
  edited_vocabulary(copy, lambda ids: ids.pop("b</w>"))
  with pytest.raises(ValueError, match=r"lacks 1 of the 512 bytes .*'b</w>'"):
    clip_tokenizer(copy)


def test_the_end_must_be_the_highest_id(copy):
  def swap(ids):
    start, end = "<|startoftext|>", "<|endoftext|>"
    ids[start], ids[end] = ids[end], ids[start]

  edited_vocabulary(copy, swap)
  with pytest.raises(ValueError, match="takes the highest id for the end"):
    clip_tokenizer(copy)
