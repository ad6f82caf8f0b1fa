"""Known layouts are recognised, everything else is refused by name."""

import json
import shutil

import diffusers
import pytest
import safetensors.torch
import torch

from ddit_jax.conversion.errors import ConversionError
from ddit_jax.conversion.layouts import layout_name, open_source
from tests.conversion import checkpoints


def test_diffusers_folder(sd3_folder):
  source = open_source(sd3_folder)
  assert source.layout == "sd3_folder"
  counts = {n: len(c.tensors) for n, c in source.components.items()}
  # Three blocks of 28 tensors less six in the last, and eleven around them.
  assert counts["network"] == 3 * 28 - 6 + 17
  assert counts["text_encoder"] == 2 * 9 + 3
  assert counts["clip_l"] == counts["clip_g"] == 2 * 16 + 5
  assert source.plain_folders.keys() == {"tokenizer", "scheduler"}
  assert source.notes == ()
  assert len(source.files()) == 4 + 3


def test_single_file(single_file, sd3_folder):
  source = open_source(single_file)
  folder = open_source(sd3_folder)
  assert source.layout == "single_file"
  assert source.components.keys() == folder.components.keys()
  t5 = source.components["text_encoder"].tensors
  extra = {"encoder.embed_tokens.weight"}
  assert t5.keys() - folder.components["text_encoder"].tensors.keys() == extra
  assert source.files() == [single_file]
  # A folder that holds nothing but the file is as good.
  assert open_source(single_file.parent).layout == "single_file"


def test_single_file_without_encoders(tmp_path, sd3_folder):
  path = tmp_path / "x.safetensors"
  checkpoints.save_single_file(path, sd3_folder, has_encoders=False)
  assert open_source(path).components.keys() == {"network", "vae"}


def test_ddit_folder(ddit_folder):
  source = open_source(ddit_folder)
  assert source.layout == "ddit_folder"
  assert source.components.keys() == {"network", "text_encoder", "vae"}
  assert source.components["network"].naming == "ddit_network"


@pytest.mark.parametrize("name", ["a", "sd3_folder"])
def test_layout_may_be_named(sd3_folder, name):
  assert open_source(sd3_folder, name).layout == "sd3_folder"


def test_named_layout_must_be_the_right_one(sd3_folder):
  with pytest.raises(ConversionError, match=r"not a D-DiT folder as --layout"):
    open_source(sd3_folder, "c")
  with pytest.raises(ConversionError, match="unknown layout 'd'"):
    layout_name("d")


def copy_of(folder, tmp_path):
  copy = tmp_path / "copy"
  shutil.copytree(folder, copy)
  return copy


def test_folders_that_are_not_read_are_noted(tmp_path, sd3_folder):
  folder = copy_of(sd3_folder, tmp_path)
  (folder / "safety_checker").mkdir()
  path = folder / "vae/diffusion_pytorch_model.safetensors"
  shutil.copy(path, path.with_suffix(".fp16.safetensors"))
  notes = open_source(folder).notes
  assert len(notes) == 2
  assert "fp16.safetensors was not read" in notes[0]
  assert "safety_checker/ is not part" in notes[1]


def test_missing_config(tmp_path, sd3_folder):
  folder = copy_of(sd3_folder, tmp_path)
  (folder / "vae/config.json").unlink()
  with pytest.raises(ConversionError, match=r"vae/config.json is missing"):
    open_source(folder)


@pytest.mark.parametrize("suffix", [".pth", ".ckpt", ".pt", ".bin"])
def test_pickles_are_refused_with_the_way_out(tmp_path, suffix):
  path = tmp_path / f"model{suffix}"
  torch.save({"a": torch.ones(2)}, path)
  for place in (path, tmp_path):
    with pytest.raises(ConversionError, match=r"weights_only=True"):
      open_source(place)


def test_nothing_there(tmp_path):
  with pytest.raises(ConversionError, match="does not exist"):
    open_source(tmp_path / "nowhere")
  with pytest.raises(ConversionError, match=r" is empty: SRC must be"):
    open_source(tmp_path)
  (tmp_path / "vae").mkdir()
  with pytest.raises(ConversionError, match=r"no transformer/ folder"):
    open_source(tmp_path)
  other = tmp_path / "model.gguf"
  other.write_bytes(b"GGUF")
  with pytest.raises(ConversionError, match=r"not a .safetensors file"):
    open_source(other)


def test_converted_checkpoint_is_no_source(tmp_path):
  (tmp_path / "network").mkdir()
  (tmp_path / "config.json").write_text("{}")
  with pytest.raises(ConversionError, match="already converted"):
    open_source(tmp_path)


def test_one_network_of_a_folder(sd3_folder):
  for path in (sd3_folder / "transformer", sd3_folder / "vae"):
    with pytest.raises(ConversionError, match=f"{sd3_folder}: give that"):
      open_source(path)


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
    with pytest.raises(ConversionError, match=f"{title}.*RMS-normalises"):
      open_source(tmp_path)


def test_foreign_network_class(tmp_path):
  (tmp_path / "transformer").mkdir()
  config = {"_class_name": "FluxTransformer2DModel"}
  (tmp_path / "transformer/config.json").write_text(json.dumps(config))
  with pytest.raises(ConversionError, match="rotary positions"):
    open_source(tmp_path)


def test_unet_folder_without_index(tmp_path):
  (tmp_path / "unet").mkdir()
  with pytest.raises(ConversionError, match="U-Net"):
    open_source(tmp_path)


def test_unknown_tensors_of_a_single_file(tmp_path, sd3_folder):
  path = tmp_path / "x.safetensors"
  safetensors.torch.save_file({"something.weight": torch.ones(2)}, path)
  with pytest.raises(ConversionError, match=r"first are something.weight"):
    open_source(path)
  checkpoints.save_single_file(path, sd3_folder, has_encoders=False)
  tensors = safetensors.torch.load_file(path) | {"stray": torch.ones(1)}
  safetensors.torch.save_file(tensors, path)
  with pytest.raises(ConversionError, match=r"no known network: stray"):
    open_source(path)


def test_network_without_marks(tmp_path, sd3_folder):
  folder = copy_of(sd3_folder, tmp_path)
  path = folder / "transformer/diffusion_pytorch_model.safetensors"
  tensors = safetensors.torch.load_file(path)
  tensors = {k: v for k, v in tensors.items() if "text_embedder" not in k}
  safetensors.torch.save_file(tensors, path)
  with pytest.raises(ConversionError, match="neither D-DiT nor SD3"):
    open_source(folder)
