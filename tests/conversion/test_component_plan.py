"""What is decided from headers alone, and every input that is refused."""

import json
import shutil

import pytest
import safetensors.torch
import torch

from ddit_jax.conversion.component_plan import plan_conversion
from ddit_jax.conversion.errors import ConversionError
from ddit_jax.conversion.layouts import open_source
from tests.conversion import checkpoints

NETWORK = "transformer/diffusion_pytorch_model.safetensors"


def plan(path, **options):
  return plan_conversion(open_source(path), **options)


def parts(path, **options):
  return {part.name: part for part in plan(path, **options).components}


def test_sd3_becomes_ddit_unless_told_otherwise(sd3_folder):
  found = plan(sd3_folder)
  assert [c.name for c in found.components] == [
    "network",
    "text_encoder",
    "vae",
  ]
  network = found.components[0]
  assert network.naming == "sd3_network_into_ddit"
  assert network.config.vocab_size == checkpoints.VOCABULARY
  assert {reason for _, reason in network.left_over} == {
    "pooled-text branch: D-DiT conditions on time alone"
  }
  assert len(network.left_over) == 4
  # CLIP's tensors are all listed, with the reason.
  assert len(found.left_over) == 2 * 37
  assert {reason for _, reason in found.left_over} == {"D-DiT reads T5 alone"}
  assert any("zero-gated" in note for note in found.notes)


def test_sd3_stays_sd3_with_its_clip_encoders(sd3_folder, single_file):
  for path in (sd3_folder, single_file):
    found = parts(path, target="sd3")
    assert found.keys() == {
      "network",
      "text_encoder",
      "vae",
      "clip_l",
      "clip_g",
    }
    assert found["network"].left_over == ()
    assert not any(slab.fresh for p in found.values() for slab in p.slabs)


def test_bytes(sd3_folder):
  vae = parts(sd3_folder)["vae"]
  numbers = sum(t.nbytes for t in vae.tensors.values()) // 2
  assert vae.nbytes() == 2 * numbers
  assert parts(sd3_folder, dtype="float32")["vae"].nbytes() == 4 * numbers
  largest = 4 * 64 * 64 * 9
  assert parts(sd3_folder, dtype="float32")["vae"].largest_array() == largest


def test_ddit_cannot_become_sd3(ddit_folder):
  with pytest.raises(ConversionError, match="no pooled-text branch"):
    plan(ddit_folder, target="sd3")


@pytest.mark.parametrize("option", [{"target": "sdxl"}, {"dtype": "int8"}])
def test_unknown_options(sd3_folder, option):
  with pytest.raises(ConversionError, match=f"unknown {next(iter(option))}"):
    plan(sd3_folder, **option)


@pytest.fixture
def editable(tmp_path, sd3_folder):
  """A copy of layout (a), and a function that changes its network."""
  folder = tmp_path / "copy"
  shutil.copytree(sd3_folder, folder)

  def edit(change):
    tensors = safetensors.torch.load_file(folder / NETWORK)
    change(tensors)
    safetensors.torch.save_file(tensors, folder / NETWORK)
    return folder

  return edit


def test_missing_tensor(editable):
  folder = editable(lambda tensors: tensors.pop("proj_out.bias"))
  with pytest.raises(ConversionError, match=r"lacks 1 of 91.*: proj_out.bias"):
    plan(folder)


def test_unknown_tensor(editable):
  folder = editable(lambda tensors: tensors.update(stray=torch.ones(1)))
  with pytest.raises(ConversionError, match=r"tensors that no array.*: stray;"):
    plan(folder)


def test_misshaped_tensor(editable):
  name = "transformer_blocks.1.attn.to_q.weight"
  folder = editable(lambda t: t.update({name: t[name][:, :-1].contiguous()}))
  with pytest.raises(ConversionError, match=r"to_q.*\[128, 127\].*\[128, 128"):
    plan(folder)


@pytest.mark.parametrize("dtype", [torch.float64, torch.int32, torch.bool])
def test_wrong_dtype(editable, dtype):
  name = "proj_out.bias"
  folder = editable(lambda t: t.update({name: t[name].to(dtype)}))
  with pytest.raises(ConversionError, match=r"proj_out.bias of .* has dtype"):
    plan(folder)


def test_mixed_dtypes_in_one_array_need_a_decision(editable):
  name = "transformer_blocks.1.attn.to_q.weight"
  folder = editable(lambda t: t.update({name: t[name].float()}))
  with pytest.raises(ConversionError, match=r"would mix dtypes.*--dtype="):
    plan(folder)
  found = parts(folder, dtype="bfloat16")["network"]
  assert {dtype.name for _, dtype in found.arrays.values()} == {"bfloat16"}


def test_networks_must_fit_together(editable):
  folder = editable(lambda tensors: None)
  shutil.rmtree(folder / "text_encoder_3")
  checkpoints.t5_encoder(24).save_pretrained(folder / "text_encoder_3")
  with pytest.raises(ConversionError, match="text_encoder has width 24"):
    plan(folder)


def test_incomplete_clip_is_left_over(editable):
  folder = editable(lambda tensors: None)
  path = folder / "text_encoder/model.safetensors"
  tensors = safetensors.torch.load_file(path)
  del tensors["text_model.final_layer_norm.bias"]
  safetensors.torch.save_file(tensors, path)
  found = plan(folder, target="sd3")
  names = [part.name for part in found.components]
  assert "clip_l" not in names and "clip_g" in names
  assert len(found.left_over) == 36
  assert any("clip_l is not converted: inc" in note for note in found.notes)


def test_config_of_another_size(editable):
  folder = editable(lambda tensors: None)
  path = folder / "transformer/config.json"
  fields = json.loads(path.read_text()) | {"num_layers": 2}
  path.write_text(json.dumps(fields))
  with pytest.raises(ConversionError, match="no array of ours takes"):
    plan(folder)


def test_clip_l_without_projection_in_the_single_file(tmp_path, single_file):
  tensors = safetensors.torch.load_file(single_file)
  del tensors["text_encoders.clip_l.transformer.text_projection.weight"]
  tensors["text_encoders.clip_l.logit_scale"] = torch.ones(())
  path = tmp_path / "x.safetensors"
  safetensors.torch.save_file(tensors, path)
  clip = parts(path, target="sd3")["clip_l"]
  (fresh,) = (piece for slab in clip.slabs for piece in slab.fresh)
  assert fresh.init == "identity"
  ((tensor, reason),) = clip.left_over
  assert tensor.name.endswith("logit_scale") and "temperature" in reason
