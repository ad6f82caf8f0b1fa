"""GPT-2 and CLIP's image encoder: transformers' folders to ours and back."""

import json

import jax
import numpy as np
import pytest
import safetensors.torch
import torch
import transformers

from ddit_jax.conversion.configs import module_of
from ddit_jax.conversion.convert import ConvertOptions, convert, plan_import
from ddit_jax.conversion.export import ExportOptions, export, plan_export
from ddit_jax.conversion.record import read_record
from ddit_jax.errors import InputError
from tests.conversion import checkpoints

TEXTS = ((1, 1), (2, 7), (3, 16), (5, 4))
# Batches of images: a ViT of 12 x 12 pixels reads no others.
IMAGES = (1, 2, 3, 5)


def gpt2():
  config = transformers.GPT2Config(
    vocab_size=50,
    n_positions=16,
    n_embd=24,
    n_layer=2,
    n_head=3,
    bos_token_id=49,
    eos_token_id=49,
  )
  return checkpoints.filled(transformers.GPT2LMHeadModel(config), 5)


def clip_vision():
  config = transformers.CLIPVisionConfig(
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=3,
    image_size=12,
    patch_size=4,
    projection_dim=10,
  )
  model = transformers.CLIPVisionModelWithProjection(config)
  return checkpoints.filled(model, 6)


MODELS = {"gpt2": gpt2, "clip_vision": clip_vision}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """name -> (transformers' model, its folder, ours, ours exported)."""
  found = {}
  for name, make in MODELS.items():
    root, model = tmp_path_factory.mktemp(name), make()
    theirs = root / "theirs"
    model.config.save_pretrained(theirs)
    # As the published GPT-2 is, without the prefix of transformers' classes.
    tensors = {
      k.removeprefix("transformer."): v.clone()
      for k, v in model.state_dict().items()
      if k != "lm_head.weight"
    }
    safetensors.torch.save_file(tensors, theirs / "model.safetensors")
    options = ConvertOptions(is_verified=True)
    convert(plan_import(theirs, options), root / "ours", options)
    options = ExportOptions(format=name, is_verified=True)
    networks = plan_export(root / "ours", options)
    export(root / "ours", networks, root / "back", options)
    found[name] = model, theirs, root / "ours", root / "back"
  return found


def ours_of(folder):
  """(pure module, its variables) of a converted folder."""
  ((name, config),) = read_record(folder).configs.items()
  return module_of(config), checkpoints.stored_arrays(folder, name)


def relative_error(got, want) -> float:
  want = want.detach().numpy()
  return float(np.abs(np.asarray(got) - want).max() / np.abs(want).max())


@pytest.mark.parametrize("name", MODELS)
def test_outputs_equal_transformers(made, name):
  model, _, folder, _ = made[name]
  module, variables = ours_of(folder)
  apply, rng = jax.jit(module.apply), np.random.default_rng(0)
  errors = []
  if name == "gpt2":
    for shape in TEXTS:
      ids = rng.integers(0, 50, shape)
      want = model(torch.from_numpy(ids)).logits
      errors.append(relative_error(apply(variables, ids), want))
  else:
    for rows in IMAGES:
      pixels = rng.normal(size=(rows, 12, 12, 3)).astype(np.float32)
      theirs = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())
      want = model(theirs, output_hidden_states=True)
      got = apply(variables, pixels)
      errors.append(relative_error(got.image_hidden, want.hidden_states[-1]))
      errors.append(relative_error(got.pooled, want.image_embeds))
  # Measured 3e-7 for both.
  assert max(errors) < 5e-6


@pytest.mark.parametrize("name", MODELS)
def test_round_trip_is_bit_equal(made, name):
  _, theirs, _, back = made[name]
  want = safetensors.torch.load_file(theirs / "model.safetensors")
  got = safetensors.torch.load_file(back / "model.safetensors")
  assert got.keys() == want.keys()
  for key, tensor in want.items():
    assert torch.equal(got[key], tensor), key


@pytest.mark.parametrize("name", MODELS)
def test_transformers_loads_the_export(made, name):
  model, _, _, back = made[name]
  loaded = type(model).from_pretrained(back).eval()
  for key, tensor in model.state_dict().items():
    assert torch.equal(loaded.state_dict()[key], tensor), key


def test_a_whole_clip_gives_its_image_encoder(made, tmp_path):
  model, theirs, folder, _ = made["clip_vision"]
  tensors = safetensors.torch.load_file(theirs / "model.safetensors")
  tensors["text_model.final_layer_norm.weight"] = torch.ones(3)
  tensors["logit_scale"] = torch.ones(())
  source = tmp_path / "clip"
  source.mkdir()
  safetensors.torch.save_file(tensors, source / "model.safetensors")
  body = {"model_type": "clip", "vision_config": model.config.to_dict()}
  (source / "config.json").write_text(json.dumps(body))
  convert(
    plan_import(source, ConvertOptions()), tmp_path / "to", ConvertOptions()
  )
  (_, got), (_, want) = ours_of(tmp_path / "to"), ours_of(folder)
  jax.tree.map(np.testing.assert_array_equal, got, want)


def test_transformers_prefix_and_tied_head_are_known(made, tmp_path):
  model, _, folder, _ = made["gpt2"]
  source = tmp_path / "lm"
  model.config.save_pretrained(source)
  tensors = {k: v.clone() for k, v in model.state_dict().items()}
  safetensors.torch.save_file(tensors, source / "model.safetensors")
  convert(
    plan_import(source, ConvertOptions()), tmp_path / "to", ConvertOptions()
  )
  (_, got), (_, want) = ours_of(tmp_path / "to"), ours_of(folder)
  jax.tree.map(np.testing.assert_array_equal, got, want)


@pytest.mark.parametrize(
  "options", [{"target": "ddit"}, {"vocab_size": 3}, {"lora": "a.safetensors"}]
)
def test_options_of_other_networks_are_refused(made, options):
  _, theirs, _, _ = made["gpt2"]
  with pytest.raises(InputError, match="leave it out"):
    plan_import(theirs, ConvertOptions(**options))


@pytest.mark.parametrize(
  "field, value, message",
  [
    ("scale_attn_by_inverse_layer_idx", True, "is not GPT-2's attention"),
    ("activation_function", "relu", "is not GPT-2's"),
    ("n_head", 5, "width 24 is not divisible by num_heads 5"),
  ],
)
def test_other_kinds_of_gpt2_are_refused(made, tmp_path, field, value, message):
  _, theirs, *_ = made["gpt2"]
  body = json.loads((theirs / "config.json").read_text()) | {field: value}
  (tmp_path / "config.json").write_text(json.dumps(body))
  (tmp_path / "model.safetensors").write_bytes(
    (theirs / "model.safetensors").read_bytes()
  )
  with pytest.raises(ValueError, match=message):
    plan_import(tmp_path, ConvertOptions())
