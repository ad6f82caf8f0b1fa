"""Case k: ids beside sentencepiece's, on a model trained here."""

import types

import numpy as np
import pytest
import sentencepiece
from parity import tokenizer_ids
from parity.checkpoints import Loaded
from parity.golden_set import GoldenSetError

from tests.parity.golden_sets import case_of, golden_of

TEXTS = ["two cats", " ", "a red cat, a red hat"]
LENGTH = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("tokenizer")
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(TEXTS * 5),
    model_prefix=str(folder / "spiece"),
    vocab_size=24,
    pad_id=0,
    eos_id=1,
    unk_id=2,
    bos_id=-1,
    hard_vocab_limit=False,
    minloglevel=2,
  )
  return folder


@pytest.fixture(scope="module")
def model(folder):
  return sentencepiece.SentencePieceProcessor(
    model_file=str(folder / "spiece.model")
  )


def checkpoints_with(folder, vocab_size):
  config = types.SimpleNamespace(vocab_size=vocab_size)
  network = types.SimpleNamespace(config=config)
  loaded = Loaded(
    parts={"network": network}, plain_folders={"tokenizer": folder}
  )
  return types.SimpleNamespace(
    get=lambda name: loaded, sd3=lambda: {"sd3_folder": loaded}
  )


def outputs(folder, vocab_size, texts=TEXTS):
  shapes = dict.fromkeys(("ids_eos_padded", "ids_pad_padded"), (3, LENGTH))
  return tokenizer_ids.outputs(
    golden_of(k_texts=texts),
    case_of("k_tokenizer", {}, shapes),
    checkpoints_with(folder, vocab_size),
  )


def test_ids_with_both_paddings(folder, model):
  vocab_size = model.get_piece_size() + 100
  results = outputs(folder, vocab_size)
  for name, pad in (("ids_eos_padded", 1), ("ids_pad_padded", 0)):
    expected = np.full((3, LENGTH), pad)
    for row, text in enumerate(TEXTS):
      ids = [*model.encode(text), 1]
      expected[row, : len(ids)] = ids
    for readings in results[name].values():
      np.testing.assert_array_equal(readings, expected)
  special = [0, 1, 2, vocab_size - 1, vocab_size - 100, vocab_size]
  assert results["special"].keys() == {"ddit", "sd3_folder"}
  assert results["special"]["ddit"].tolist() == special


def test_the_text_head_must_have_a_row_for_every_id(folder, model):
  with pytest.raises(ValueError, match="text head has 7 rows"):
    outputs(folder, 7)


def test_the_texts_must_be_in_the_manifest(folder, model):
  with pytest.raises(GoldenSetError, match=r"lacks extra\.k_texts"):
    outputs(folder, model.get_piece_size() + 100, texts=None)
