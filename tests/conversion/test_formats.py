"""Known formats are recognised, everything else is refused by name."""

import json
import shutil

import diffusers
import pytest
import safetensors.torch
import torch

from ddit_jax.conversion.formats import (
  OTHER_MODELS,
  format_name,
  open_checkpoint,
  refuse_other_models,
)
from ddit_jax.errors import InputError
from tests.conversion import checkpoints


def test_diffusers_folder(sd3_folder):
  source = open_checkpoint(sd3_folder)
  assert source.format == "sd3_folder"
  counts = {n: len(c.tensors) for n, c in source.networks.items()}
  # Three blocks of 28 tensors less six in the last, and eleven around them.
  assert counts["network"] == 3 * 28 - 6 + 17
  assert counts["text_encoder"] == 2 * 9 + 3
  assert counts["clip_l"] == counts["clip_g"] == 2 * 16 + 5
  assert source.plain_folders.keys() == {"tokenizer", "scheduler"}
  assert source.notes == ()
  assert len(source.files()) == 4 + 3


def test_single_file(single_file, sd3_folder):
  source = open_checkpoint(single_file)
  folder = open_checkpoint(sd3_folder)
  assert source.format == "single_file"
  assert source.networks.keys() == folder.networks.keys()
  t5 = source.networks["text_encoder"].tensors
  extra = {"encoder.embed_tokens.weight"}
  assert t5.keys() - folder.networks["text_encoder"].tensors.keys() == extra
  assert source.files() == [single_file]
  # A folder that holds nothing but the file is as good.
  assert open_checkpoint(single_file.parent).format == "single_file"


def test_single_file_without_encoders(tmp_path, sd3_folder):
  path = tmp_path / "x.safetensors"
  checkpoints.save_single_file(path, sd3_folder, has_encoders=False)
  assert open_checkpoint(path).networks.keys() == {"network", "vae"}


def test_ddit_folder(ddit_folder):
  source = open_checkpoint(ddit_folder)
  assert source.format == "ddit_folder"
  assert source.networks.keys() == {"network", "text_encoder", "vae"}
  assert source.networks["network"].scheme == "ddit"


@pytest.mark.parametrize("name", ["a", "sd3_folder"])
def test_format_may_be_named(sd3_folder, name):
  assert open_checkpoint(sd3_folder, name).format == "sd3_folder"


def test_named_format_must_be_the_right_one(sd3_folder):
  with pytest.raises(
    InputError, match=r"not the D-DiT folder requested by --format"
  ):
    open_checkpoint(sd3_folder, "c")
  with pytest.raises(InputError, match="unknown format 'd'"):
    format_name("d")


def copy_of(folder, tmp_path):
  copy = tmp_path / "copy"
  shutil.copytree(folder, copy)
  return copy


def test_folders_that_are_not_read_are_noted(tmp_path, sd3_folder):
  folder = copy_of(sd3_folder, tmp_path)
  (folder / "safety_checker").mkdir()
  path = folder / "vae/diffusion_pytorch_model.safetensors"
  shutil.copy(path, path.with_suffix(".fp16.safetensors"))
  notes = open_checkpoint(folder).notes
  assert len(notes) == 2
  assert "fp16.safetensors was not read" in notes[0]
  assert "safety_checker/ is not part" in notes[1]


def test_missing_config(tmp_path, sd3_folder):
  folder = copy_of(sd3_folder, tmp_path)
  (folder / "vae/config.json").unlink()
  with pytest.raises(InputError, match=r"vae/config.json is missing"):
    open_checkpoint(folder)


@pytest.mark.parametrize("suffix", [".pth", ".ckpt", ".pt", ".bin"])
def test_pickles_are_refused_with_the_way_out(tmp_path, suffix):
  path = tmp_path / f"model{suffix}"
  torch.save({"a": torch.ones(2)}, path)
  for place in (path, tmp_path):
    with pytest.raises(InputError, match=r"weights_only=True"):
      open_checkpoint(place)


def test_nothing_there(tmp_path):
  with pytest.raises(InputError, match="does not exist"):
    open_checkpoint(tmp_path / "nowhere")
  with pytest.raises(InputError, match=r" is empty: SRC must be"):
    open_checkpoint(tmp_path)
  (tmp_path / "vae").mkdir()
  with pytest.raises(InputError, match=r"no transformer/ folder"):
    open_checkpoint(tmp_path)
  other = tmp_path / "model.gguf"
  other.write_bytes(b"GGUF")
  with pytest.raises(InputError, match=r"not a .safetensors file"):
    open_checkpoint(other)


def test_converted_checkpoint_is_no_source(tmp_path):
  (tmp_path / "network").mkdir()
  (tmp_path / "config.json").write_text("{}")
  with pytest.raises(InputError, match="already converted"):
    open_checkpoint(tmp_path)


def test_one_network_of_a_folder(sd3_folder):
  for path in (sd3_folder / "transformer", sd3_folder / "vae"):
    with pytest.raises(InputError, match=f"{sd3_folder}: give that"):
      open_checkpoint(path)


def test_sd35_folder(tmp_path):
  for dual, title in (((0,), "SD3.5 medium"), ((), "SD3.5 large")):
    model = diffusers.SD3Transformer2DModel(
      num_layers=2,
      attention_head_dim=4,
      num_attention_heads=2,
      joint_attention_dim=8,
      caption_projection_dim=8,
      pooled_projection_dim=8,
      pos_embed_max_size=4,
      sample_size=4,
      qk_norm="rms_norm",
      dual_attention_layers=dual,
    )
    model.save_pretrained(tmp_path / "transformer")
    with pytest.raises(InputError, match=f"{title}.*RMS-normalises"):
      open_checkpoint(tmp_path)


def test_other_network_class(tmp_path):
  (tmp_path / "transformer").mkdir()
  config = {"_class_name": "FluxTransformer2DModel"}
  (tmp_path / "transformer/config.json").write_text(json.dumps(config))
  with pytest.raises(InputError, match="rotary positions"):
    open_checkpoint(tmp_path)


def test_unet_folder_without_index(tmp_path):
  (tmp_path / "unet").mkdir()
  with pytest.raises(InputError, match="U-Net"):
    open_checkpoint(tmp_path)


def test_unknown_tensors_of_a_single_file(tmp_path, sd3_folder):
  path = tmp_path / "x.safetensors"
  safetensors.torch.save_file({"something.weight": torch.ones(2)}, path)
  with pytest.raises(InputError, match=r"first are something.weight"):
    open_checkpoint(path)
  checkpoints.save_single_file(path, sd3_folder, has_encoders=False)
  tensors = safetensors.torch.load_file(path) | {"stray": torch.ones(1)}
  safetensors.torch.save_file(tensors, path)
  with pytest.raises(InputError, match=r"no known network: stray"):
    open_checkpoint(path)


def test_network_without_marks(tmp_path, sd3_folder):
  folder = copy_of(sd3_folder, tmp_path)
  path = folder / "transformer/diffusion_pytorch_model.safetensors"
  tensors = safetensors.torch.load_file(path)
  tensors = {k: v for k, v in tensors.items() if "text_embedder" not in k}
  safetensors.torch.save_file(tensors, path)
  with pytest.raises(InputError, match="neither D-DiT nor SD3"):
    open_checkpoint(folder)


MDM = "model.diffusion_model."
OTHER_FILES = {
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


@pytest.mark.parametrize("title", OTHER_FILES)
def test_other_single_files(tmp_path, title):
  path = tmp_path / "x.safetensors"
  tensors = {name: torch.ones(2) for name in OTHER_FILES[title]}
  safetensors.torch.save_file(tensors, path)
  with pytest.raises(InputError, match=f"x.safetensors is .*{title}"):
    open_checkpoint(path)


@pytest.mark.parametrize(
  ("class_name", "title"),
  [
    ("StableDiffusionPipeline", "SD1.5 or SD2"),
    ("StableDiffusionXLPipeline", "SDXL"),
    ("FluxPipeline", "Flux"),
    ("PixArtSigmaPipeline", "another model"),
  ],
)
def test_other_pipelines(tmp_path, class_name, title):
  index = {"_class_name": class_name}
  (tmp_path / "model_index.json").write_text(json.dumps(index))
  with pytest.raises(InputError, match=title):
    open_checkpoint(tmp_path)


@pytest.mark.parametrize("model", OTHER_MODELS, ids=lambda m: m[0])
def test_every_mark_leads_to_its_model_or_a_more_special_one(model):
  titles = [title for title, *_ in OTHER_MODELS]
  for mark in model[1]:
    with pytest.raises(InputError, match="is ") as caught:
      refuse_other_models([f"x.{mark}y"], "F")
    named = str(caught.value).removeprefix("F is ").split(" (it has")[0]
    assert titles.index(named) <= titles.index(model[0])
