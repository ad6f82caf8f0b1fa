"""Other models and formats are refused by name, with the reason."""

import json

import pytest
import safetensors.torch
import torch

from ddit_jax.conversion.errors import ConversionError
from ddit_jax.conversion.foreign import (
  FOREIGN_MODELS,
  format_under_wrong_name,
  refuse_foreign_class,
  refuse_foreign_tensors,
  refuse_pickle,
)
from ddit_jax.conversion.layouts import open_source

MDM = "model.diffusion_model."
FOREIGN_FILES = {
  "SD1.5": [f"{MDM}input_blocks.0.0.weight", "cond_stage_model.transformer.a"],
  "SD2": [f"{MDM}input_blocks.0.0.weight", "cond_stage_model.model.ln.weight"],
  "SDXL": [f"{MDM}label_emb.0.0.weight", "conditioner.embedders.0.a"],
  "a U-Net model": [f"{MDM}input_blocks.0.0.weight"],
  "Flux": ["double_blocks.0.img_attn.qkv.weight"],
  "SD3.5 medium": [f"{MDM}joint_blocks.0.x_block.attn2.qkv.weight"],
  "SD3.5 large": [f"{MDM}joint_blocks.0.x_block.attn.ln_q.weight"],
  "a LoRA": ["lora_unet_joint_blocks_0.lora_up.weight"],
  "scaled eight-bit": [f"{MDM}a.weight", f"{MDM}a.scale_weight"],
}


@pytest.mark.parametrize("title", FOREIGN_FILES)
def test_foreign_single_files(tmp_path, title):
  path = tmp_path / "x.safetensors"
  tensors = {name: torch.ones(2) for name in FOREIGN_FILES[title]}
  safetensors.torch.save_file(tensors, path)
  with pytest.raises(ConversionError, match=f"x.safetensors is .*{title}"):
    open_source(path)


@pytest.mark.parametrize(
  ("class_name", "title"),
  [
    ("StableDiffusionPipeline", "SD1.5 or SD2"),
    ("StableDiffusionXLPipeline", "SDXL"),
    ("FluxPipeline", "Flux"),
    ("PixArtSigmaPipeline", "another model"),
  ],
)
def test_foreign_pipelines(tmp_path, class_name, title):
  index = {"_class_name": class_name}
  (tmp_path / "model_index.json").write_text(json.dumps(index))
  with pytest.raises(ConversionError, match=title):
    open_source(tmp_path)


@pytest.mark.parametrize("model", FOREIGN_MODELS, ids=lambda m: m.title)
def test_every_mark_leads_to_its_model_or_a_more_special_one(model):
  titles = [known.title for known in FOREIGN_MODELS]
  for mark in model.marks:
    with pytest.raises(ConversionError, match="is ") as caught:
      refuse_foreign_tensors([f"x.{mark}y"], "F")
    named = str(caught.value).removeprefix("F is ").split(" (it has")[0]
    assert titles.index(named) <= titles.index(model.title)


def test_our_own_are_not_refused(sd3_folder, single_file, ddit_folder):
  for path in (sd3_folder, single_file, ddit_folder):
    for part in open_source(path).components.values():
      names = [tensor.name for tensor in part.tensors.values()]
      refuse_foreign_tensors(names, path)
  for name in (None, "SD3Transformer2DModel", "StableDiffusion3Pipeline"):
    refuse_foreign_class(name, "x")


def test_pickles_and_others(tmp_path):
  assert format_under_wrong_name(b"{}") == ""
  for beginning, what in (
    (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    (b"\n<!DOCTYPE html><html>", "web page"),
    (b"<HTML><head>", "web page"),
    (b"PK\x03\x04\x00\x00", "re-save it"),
    (b"\x80\x02}q\x00", "re-save it"),
    (b"GGUF\x03\x00\x00\x00", "GGUF"),
  ):
    assert what in format_under_wrong_name(beginning)
  with pytest.raises(ConversionError, match=r"re-save it .*weights_only=True"):
    refuse_pickle(tmp_path / "x.ckpt")
  with pytest.raises(ConversionError, match="nothing else is read"):
    refuse_pickle(tmp_path / "x.onnx")
  refuse_pickle(tmp_path / "x.safetensors")
