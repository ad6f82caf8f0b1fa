"""What is decided from headers alone, and every input that is refused."""

import json
import shutil

import pytest
import safetensors.torch
import torch

from ddit_jax.conversion.formats import open_checkpoint
from ddit_jax.conversion.plan import plan_conversion
from ddit_jax.errors import InputError
from tests.conversion import checkpoints

NETWORK = "transformer/diffusion_pytorch_model.safetensors"


def plan(path, **options):
  return plan_conversion(open_checkpoint(path), **options)


def parts(path, **options):
  return {part.name: part for part in plan(path, **options).networks}


def test_sd3_becomes_ddit_unless_told_otherwise(sd3_folder):
  found = plan(sd3_folder)
  assert [c.name for c in found.networks] == [
    "network",
    "text_encoder",
    "vae",
  ]
  network = found.networks[0]
  assert any(s.key is None for b in network.blocks.values() for s in b)
  assert network.config.vocab_size == checkpoints.VOCABULARY
  assert {reason for _, reason in network.unused} == {
    "pooled-text branch: D-DiT conditions on time alone"
  }
  assert len(network.unused) == 4
  # CLIP's tensors are all listed, with the reason.
  assert len(found.unused) == 2 * 37
  assert {reason for _, reason in found.unused} == {"D-DiT reads T5 alone"}
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
    assert found["network"].unused == ()
    blocks = [b for network in found.values() for b in network.blocks.values()]
    assert all(part.key is not None for parts in blocks for part in parts)


def test_bytes(sd3_folder):
  vae = parts(sd3_folder)["vae"]
  numbers = sum(t.nbytes for t in vae.tensors.values()) // 2
  assert sum(vae.array_bytes()) == 2 * numbers
  sizes = parts(sd3_folder, dtype="float32")["vae"].array_bytes()
  assert sum(sizes) == 4 * numbers and max(sizes) == 4 * 64 * 64 * 9


def test_ddit_cannot_become_sd3(ddit_folder):
  with pytest.raises(InputError, match="no pooled-text branch"):
    plan(ddit_folder, target="sd3")


@pytest.mark.parametrize("option", [{"target": "sdxl"}, {"dtype": "int8"}])
def test_unknown_options(sd3_folder, option):
  with pytest.raises(InputError, match=f"unknown {next(iter(option))}"):
    plan(sd3_folder, **option)


@pytest.fixture
def editable(tmp_path, sd3_folder):
  """A copy of format (a), and a function that changes its network."""
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
  with pytest.raises(InputError, match=r"lacks 1 of 91.*: proj_out.bias"):
    plan(folder)


def test_unknown_tensor(editable):
  folder = editable(lambda tensors: tensors.update(stray=torch.ones(1)))
  with pytest.raises(InputError, match=r"unsupported tensors.*: stray;"):
    plan(folder)


def test_misshaped_tensor(editable):
  name = "transformer_blocks.1.attn.to_q.weight"
  folder = editable(lambda t: t.update({name: t[name][:, :-1].contiguous()}))
  with pytest.raises(InputError, match=r"to_q.*\[128, 127\].*\[128, 128"):
    plan(folder)


@pytest.mark.parametrize("dtype", [torch.float64, torch.int32, torch.bool])
def test_wrong_dtype(editable, dtype):
  name = "proj_out.bias"
  folder = editable(lambda t: t.update({name: t[name].to(dtype)}))
  with pytest.raises(InputError, match=r"proj_out.bias of .* has dtype"):
    plan(folder)


def test_mixed_dtypes_in_one_array_need_a_decision(editable):
  name = "transformer_blocks.1.attn.to_q.weight"
  folder = editable(lambda t: t.update({name: t[name].float()}))
  with pytest.raises(InputError, match=r"would mix dtypes.*--dtype="):
    plan(folder)
  found = parts(folder, dtype="bfloat16")["network"]
  assert {dtype.name for _, dtype in found.arrays.values()} == {"bfloat16"}


def test_networks_must_fit_together(editable):
  folder = editable(lambda tensors: None)
  shutil.rmtree(folder / "text_encoder_3")
  checkpoints.t5_encoder(24).save_pretrained(folder / "text_encoder_3")
  with pytest.raises(InputError, match="text_encoder has width 24"):
    plan(folder)


def test_incomplete_clip_is_unused(editable):
  folder = editable(lambda tensors: None)
  path = folder / "text_encoder/model.safetensors"
  tensors = safetensors.torch.load_file(path)
  del tensors["text_model.final_layer_norm.bias"]
  safetensors.torch.save_file(tensors, path)
  found = plan(folder, target="sd3")
  names = [part.name for part in found.networks]
  assert "clip_l" not in names and "clip_g" in names
  assert len(found.unused) == 36
  assert any("clip_l is not converted: " in note for note in found.notes)


def test_config_of_another_size(editable):
  folder = editable(lambda tensors: None)
  path = folder / "transformer/config.json"
  fields = json.loads(path.read_text()) | {"num_layers": 2}
  path.write_text(json.dumps(fields))
  with pytest.raises(InputError, match="unsupported tensors"):
    plan(folder)


def test_clip_l_without_projection_in_the_single_file(tmp_path, single_file):
  tensors = safetensors.torch.load_file(single_file)
  del tensors["text_encoders.clip_l.transformer.text_projection.weight"]
  tensors["text_encoders.clip_l.logit_scale"] = torch.ones(())
  path = tmp_path / "x.safetensors"
  safetensors.torch.save_file(tensors, path)
  clip = parts(path, target="sd3")["clip_l"]
  (new,) = (s for b in clip.blocks.values() for s in b if s.key is None)
  assert new.init == "identity"
  ((tensor, reason),) = clip.unused
  assert tensor.name.endswith("logit_scale") and "temperature" in reason
