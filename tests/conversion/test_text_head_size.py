"""Rows of the text head, with and without a tokenizer."""

import pytest
import safetensors.torch
import torch

from ddit_jax.conversion.component_plan import plan_conversion
from ddit_jax.conversion.errors import ConversionError
from ddit_jax.conversion.layouts import open_source
from ddit_jax.conversion.text_head_size import check_head
from tests.conversion import checkpoints


def plan(path, **options):
  return plan_conversion(open_source(path), **options)


def test_text_head_size_without_tokenizer(single_file):
  found = plan(single_file)
  # T5's table has 16 rows, and nothing else tells.
  assert found.components[0].config.vocab_size == 16
  assert any("embedding table has 16 rows" in note for note in found.notes)
  named = plan(single_file, vocab_size=12)
  assert named.components[0].config.vocab_size == 12


def test_wanted_rows_that_cannot_be(single_file, ddit_folder):
  for size in (0, -5):
    with pytest.raises(ConversionError, match=f"={size} is no number of rows"):
      plan(single_file, vocab_size=size)
  for path, target in ((ddit_folder, "ddit"), (single_file, "sd3")):
    with pytest.raises(ConversionError, match="leave it out"):
      plan(path, target=target, vocab_size=9)


def test_text_head_size_of_t5_xxl_alone(tmp_path, sd3_folder):
  path = tmp_path / "x.safetensors"
  checkpoints.save_single_file(path, sd3_folder, has_encoders=False)
  with pytest.raises(ConversionError, match="neither a tokenizer nor T5"):
    plan(path)
  tensors = safetensors.torch.load_file(path)
  name = "model.diffusion_model.context_embedder.weight"
  tensors[name] = torch.zeros(checkpoints.WIDTH, 4096, dtype=torch.float16)
  safetensors.torch.save_file(tensors, path)
  assert plan(path).components[0].config.vocab_size == 32100


def test_tokenizer_of_another_checkpoint(tmp_path, single_file, ddit_folder):
  checkpoints.save_tokenizer(tmp_path / "other", num_words=30)
  found = plan(single_file, tokenizer=tmp_path / "other")
  assert found.components[0].config.vocab_size == 34
  assert found.tokenizer == tmp_path / "other"
  with pytest.raises(ConversionError, match=r"20 rows but .* has 34 ids"):
    plan(single_file, tokenizer=tmp_path / "other", vocab_size=20)
  with pytest.raises(ConversionError, match=r"9 rows but .* has 34 ids"):
    plan(ddit_folder, tokenizer=tmp_path / "other")


def test_tokenizer_of_the_source_tells(sd3_folder):
  found = plan(sd3_folder)
  assert found.components[0].config.vocab_size == checkpoints.VOCABULARY
  assert not any("rows because" in note for note in found.notes)


def test_padded_table_of_t5(tmp_path, single_file):
  tensors = safetensors.torch.load_file(single_file)
  t5 = "text_encoders.t5xxl.transformer."
  for name in ("shared.weight", "encoder.embed_tokens.weight"):
    tensors[t5 + name] = torch.zeros(32128, 32, dtype=torch.float16)
  path = tmp_path / "x.safetensors"
  safetensors.torch.save_file(tensors, path)
  assert plan(path).components[0].config.vocab_size == 32100


def test_no_tokenizer_is_no_contradiction(tmp_path):
  check_head(5, None)
  checkpoints.save_tokenizer(tmp_path / "t", num_words=1)
  check_head(5, tmp_path / "t")
  with pytest.raises(ConversionError, match=r"6 rows but .* 5 ids"):
    check_head(6, tmp_path / "t")
