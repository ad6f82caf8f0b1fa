"""How many ids a tokenizer has, and tokenizers that D-DiT cannot use."""

import pytest
import transformers
from tokenizers import Tokenizer, models

from ddit_jax.conversion.errors import ConversionError
from ddit_jax.conversion.tokenizer_folder import tokenizer_size
from tests.conversion import checkpoints


def test_size_counts_special_tokens(tmp_path):
  checkpoints.save_tokenizer(tmp_path / "t", num_words=7)
  assert tokenizer_size(tmp_path / "t") == 7 + 4


def test_mask_must_be_the_last_id(tmp_path):
  vocabulary = {"</s>": 0, "<extra_id_0>": 1, "word": 2}
  backend = Tokenizer(models.WordLevel(vocabulary, unk_token="</s>"))
  tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend)
  tokenizer.save_pretrained(tmp_path / "t")
  with pytest.raises(ConversionError, match=r"<extra_id_0> is 1, but the mask"):
    tokenizer_size(tmp_path / "t")


def test_folder_without_tokenizer(tmp_path):
  with pytest.raises(ConversionError, match=r"no tokenizer .tokenizer.json or"):
    tokenizer_size(tmp_path)


def test_unreadable_folder(tmp_path):
  (tmp_path / "tokenizer.json").write_text("{")
  with pytest.raises(ConversionError, match="not a readable tokenizer folder"):
    tokenizer_size(tmp_path)
