"""Our adapter files in diffusers' SD3 network under PEFT, and the reverse."""

import dataclasses

import jax
import numpy as np
import pytest
import torch

from ddit_jax.conversion.peft import read_adapter, write_adapter
from ddit_jax.lora.lora import LoraConfig, LoraNetwork
from ddit_jax.models.module import Network
from tests.lora import tiny_lora
from tests.models.test_against_diffusers import (
  CONFIG,
  network_params,
  torch_sd3,
)

pytest.importorskip("peft")

LORA = LoraConfig(rank=4, alpha=6.0, targets="attention,mlp")
BATCH, LENGTH = 2, 5


@pytest.fixture(scope="module")
def inputs():
  draw = np.random.default_rng(0)
  shapes = {
    "latents": (BATCH, 8, 8, CONFIG.latent_channels),
    "text": (BATCH, LENGTH, CONFIG.context_dim),
    "pooled": (BATCH, CONFIG.pooled_dim),
  }
  arrays = {k: draw.normal(size=s).astype("f4") for k, s in shapes.items()}
  return arrays | {"sigma": np.float32([0.25, 0.75])}


def by_torch(model, inputs):
  with torch.no_grad():
    out = model(
      hidden_states=torch.from_numpy(
        inputs["latents"].transpose(0, 3, 1, 2).copy()
      ),
      encoder_hidden_states=torch.from_numpy(inputs["text"]),
      pooled_projections=torch.from_numpy(inputs["pooled"]),
      timestep=torch.from_numpy(1000 * inputs["sigma"]),
    ).sample
  return out.numpy().transpose(0, 2, 3, 1)


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
  """(network, its adapters, their file)."""
  network = LoraNetwork(Network(CONFIG), LORA)
  fresh = jax.jit(network.init)(jax.random.key(0))
  adapters = jax.tree.map(np.asarray, tiny_lora.noisy(fresh["params"], 1))
  path = tmp_path_factory.mktemp("lora") / "adapter.safetensors"
  write_adapter(path, adapters, config=CONFIG, lora=LORA)
  return network, adapters, path


def applied(network, adapters, model, inputs):
  constants = jax.jit(network.init)(jax.random.key(0))["constants"]
  named = {k: v.detach().numpy() for k, v in model.state_dict().items()}
  table = constants["position_table"]
  position = named["pos_embed.pos_embed"].reshape(table.shape)
  variables = {
    "params": adapters,
    "base": network_params(named),
    "constants": {"position_table": position},
  }
  return jax.jit(network.apply)(variables, **inputs).velocity


def test_diffusers_loads_our_file_and_computes_the_same(ours, inputs):
  network, adapters, path = ours
  model = torch_sd3()
  want = applied(network, adapters, model, inputs)
  plain = by_torch(model, inputs)
  # `load_lora_weights` of the pipeline calls this with the same arguments.
  model.load_lora_adapter(path.parent, weight_name=path.name)
  (config,) = model.peft_config.values()
  # Files hold alpha / rank in lora_B.
  assert (config.r, config.lora_alpha) == (LORA.rank, LORA.rank)
  got = by_torch(model, inputs)
  scale = np.abs(want).max()
  assert np.abs(got - plain).max() > 0.05 * scale
  # Measured 2e-6.
  assert np.abs(got - want).max() < 2e-5 * scale


def test_every_tensor_finds_its_place_in_pefts_own_state(ours, tmp_path):
  _, _, path = ours
  model = torch_sd3()
  model.load_lora_adapter(path.parent, weight_name=path.name)
  model.save_lora_adapter(tmp_path, adapter_name="default_0")
  (saved,) = tmp_path.glob("*.safetensors")
  import safetensors.numpy

  ours_by_name = safetensors.numpy.load_file(path)
  theirs = safetensors.numpy.load_file(saved)
  assert {f"transformer.{name}" for name in theirs} == ours_by_name.keys()
  for name, array in theirs.items():
    np.testing.assert_array_equal(array, ours_by_name[f"transformer.{name}"])


def test_what_the_pipeline_saves_reads_back_here(ours, tmp_path):
  import diffusers

  _, adapters, path = ours
  model = torch_sd3()
  model.load_lora_adapter(path.parent, weight_name=path.name)
  from peft.utils import get_peft_model_state_dict

  (config,) = model.peft_config.values()
  state = get_peft_model_state_dict(model, adapter_name="default_0")
  diffusers.StableDiffusion3Pipeline.save_lora_weights(
    tmp_path,
    transformer_lora_layers=state,
    transformer_lora_adapter_metadata=config.to_dict(),
  )
  (saved,) = tmp_path.glob("*.safetensors")
  lora, back = read_adapter(saved, CONFIG)
  assert lora == dataclasses.replace(LORA, alpha=float(LORA.rank))

  def written(path, array):
    return array * (1.5 if path[-1].key == "up" else 1)

  want = jax.tree_util.tree_map_with_path(written, adapters)
  jax.tree.map(np.testing.assert_array_equal, back, want)
