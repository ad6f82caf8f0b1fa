"""Adapters that other programs write and read: diffusers, PEFT, kohya, ComfyUI.

Their products are compared with ours matrix by matrix, by diffusers' names.
"""

import dataclasses

import diffusers
import jax
import numpy as np
import peft
import pytest
import safetensors.torch
import torch

from ddit_jax.conversion.configs import ddit_config
from ddit_jax.conversion.peft import read_adapter, write_adapter
from ddit_jax.errors import InputError
from ddit_jax.lora.lora import LoraConfig, LoraNetwork, merge
from ddit_jax.models.config import MMDiTConfig
from ddit_jax.models.module import Network
from tests.conversion import checkpoints
from tests.lora import tiny_lora

DEPTH, WIDTH = checkpoints.DEPTH, checkpoints.WIDTH
SD3 = MMDiTConfig(
  depth=DEPTH,
  width=WIDTH,
  num_heads=2,
  max_grid=6,
  base_grid=4,
  context_dim=32,
  vocab_size=0,
  pooled_dim=192,
  num_null_image_tokens=0,
  is_last_text_block_full=False,
)
DDIT = ddit_config(SD3, vocab_size=9)
IMAGE = ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0")
TEXT = ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")
STREAMS = {"image": IMAGE, "text": (*TEXT, "attn.to_add_out")}
MLPS = {"image": "ff", "text": "ff_context"}


def products(path, config):
  """Their name of a weight -> its change [outputs, inputs], as we read it."""
  lora, adapters = read_adapter(path, config)
  zeros = {}
  for stack in adapters:
    zeros[stack] = jax.tree.map(
      lambda pair: {"kernel": 0.0},
      adapters[stack],
      is_leaf=lambda node: "down" in node,
    )
  change = merge(zeros, adapters, lora.scale)
  found = {}
  for stack, streams in change.items():
    for stream, modules in streams.items():
      found |= _by_their_names(stack, stream, modules)
  return found


def _by_their_names(stack, stream, modules):
  def put(name, kernels, rows):
    is_stacked = stack == "blocks"
    kernels = np.asarray(kernels) if is_stacked else np.asarray(kernels)[None]
    for number, kernel in enumerate(kernels):
      block = number if is_stacked else DEPTH - 1
      weight = kernel.reshape(rows, -1).T
      if weight.any():
        found[f"transformer_blocks.{block}.{name}"] = weight

  found = {}
  *qkv, out = STREAMS[stream]
  if "qkv" in modules:
    for row, name in enumerate(qkv):
      axis = 2 if stack == "blocks" else 1
      stacked = np.asarray(modules["qkv"]["kernel"])
      kernel = np.take(stacked, row, axis=axis)
      put(name, kernel, WIDTH)
  if "out" in modules:
    put(out, modules["out"]["kernel"], WIDTH)
  if "mlp" in modules:
    first, second = f"{MLPS[stream]}.net.0.proj", f"{MLPS[stream]}.net.2"
    put(first, modules["mlp"]["in"]["kernel"], WIDTH)
    put(second, modules["mlp"]["out"]["kernel"], 4 * WIDTH)
  return found


def assert_same(got, want):
  assert got.keys() == want.keys()
  for name, weight in want.items():
    np.testing.assert_allclose(got[name], weight, atol=2e-5, err_msg=name)


# --- ours, read by others


@pytest.fixture(scope="module", params=[1.0, 8.0, 24.0])
def exported(request, tmp_path_factory):
  """A file with alpha below, at and above its rank of 8; its true products."""
  lora = LoraConfig(rank=8, alpha=request.param, targets="attention,mlp")
  network = LoraNetwork(Network(SD3), lora)
  fresh = jax.jit(network.init)(jax.random.key(0))["params"]
  adapters = jax.tree.map(np.asarray, tiny_lora.noisy(fresh, 1))
  path = tmp_path_factory.mktemp("out") / "adapter.safetensors"
  tensors = write_adapter(path, adapters, config=SD3, lora=lora)
  want = {}
  for key in tensors:
    name = key.removeprefix("transformer.").rpartition(".lora_")[0]
    block, rest = name.split(".", 2)[1:]
    want[name] = lora.scale * _true_product(adapters, int(block), rest)
  return path, want


def _true_product(adapters, block, name):
  stack = "blocks" if block < DEPTH - 1 else "last_block"
  stream = "text" if "add" in name or "context" in name else "image"
  node, row = adapters[stack][stream], None
  if name in STREAMS[stream][:3]:
    node, row = node["qkv"], STREAMS[stream].index(name)
  elif name == STREAMS[stream][3]:
    node = node["out"]
  else:
    node = node["mlp"]["in" if "net.0" in name else "out"]
  down, up = node["down"], node["up"]
  if stack == "blocks":
    down, up = down[block], up[block]
  up = up if row is None else up[:, row]
  return (down.reshape(-1, 8) @ up.reshape(8, -1)).T


def load_weights(path, transformer):
  pipeline(transformer).load_lora_weights(path.parent, weight_name=path.name)


def load_weights_of_a_dictionary(path, transformer):
  pipeline(transformer).load_lora_weights(safetensors.torch.load_file(path))


def load_adapter(path, transformer):
  transformer.load_lora_adapter(path.parent, weight_name=path.name)


def load_adapter_of_a_dictionary(path, transformer):
  transformer.load_lora_adapter(safetensors.torch.load_file(path))


def load_with_peft_alone(path, transformer):
  state = {
    name.removeprefix("transformer."): tensor
    for name, tensor in safetensors.torch.load_file(path).items()
  }
  targets = sorted({name.rpartition(".lora_")[0] for name in state})
  config = peft.LoraConfig(r=8, lora_alpha=8, target_modules=targets)
  peft.inject_adapter_in_model(config, transformer)
  result = peft.set_peft_model_state_dict(transformer, state)
  assert not result.unexpected_keys


def pipeline(transformer):
  names = ("vae", *(f"text_encoder{n}" for n in ("", "_2", "_3")))
  names += tuple(f"tokenizer{n}" for n in ("", "_2", "_3"))
  return diffusers.StableDiffusion3Pipeline(
    transformer=transformer,
    scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
    **dict.fromkeys(names),
  )


def torch_products(transformer):
  found = {}
  for name, module in transformer.named_modules():
    if isinstance(module, peft.tuners.lora.LoraLayer):
      (adapter,) = module.lora_A
      delta = module.get_delta_weight(adapter).detach().numpy()
      if delta.any():
        found[name] = delta
  return found


@pytest.mark.parametrize(
  "load",
  [
    load_weights,
    load_weights_of_a_dictionary,
    load_adapter,
    load_adapter_of_a_dictionary,
    load_with_peft_alone,
  ],
)
def test_every_reader_finds_the_same_strength(exported, load):
  path, want = exported
  transformer = checkpoints.sd3_transformer()
  load(path, transformer)
  assert_same(torch_products(transformer), want)


def test_we_read_what_we_wrote(exported):
  path, want = exported
  assert_same(products(path, SD3), want)


# --- others', read by us


@pytest.fixture(scope="module")
def trained():
  """diffusers' SD3 with an adapter of PEFT's, as its training script adds it.

  q, k and v have matrices of their own, and the last block has no to_add_out.
  """
  transformer = checkpoints.sd3_transformer()
  targets = [*IMAGE, *TEXT, "attn.to_add_out"]
  config = peft.LoraConfig(r=4, lora_alpha=12, target_modules=targets)
  transformer.add_adapter(config)
  generator = torch.Generator().manual_seed(0)
  with torch.no_grad():
    for name, parameter in transformer.named_parameters():
      if "lora_" in name:
        parameter.copy_(torch.randn(parameter.shape, generator=generator) / 9)
  return transformer


def save_weights(folder, transformer, **metadata):
  diffusers.StableDiffusion3Pipeline.save_lora_weights(
    folder,
    transformer_lora_layers=peft.get_peft_model_state_dict(transformer),
    **metadata,
  )
  return folder / "pytorch_lora_weights.safetensors"


def test_diffusers_own_files(trained, tmp_path):
  facts = trained.peft_config["default"].to_dict()
  path = save_weights(
    tmp_path / "a", trained, transformer_lora_adapter_metadata=facts
  )
  want = torch_products(trained)
  assert len(want) == 8 * DEPTH - 1
  assert_same(products(path, SD3), want)
  lora, _ = read_adapter(path, SD3)
  # Three matrices for q, k and v.
  assert (lora.rank, lora.scale, lora.targets) == (12, 3, "attention")
  trained.save_lora_adapter(tmp_path / "b")
  assert_same(products(tmp_path / "b", SD3), want)
  # Without metadata nobody knows alpha; diffusers takes the rank.
  plain = products(save_weights(tmp_path / "c", trained), SD3)
  assert_same({name: 3 * product for name, product in plain.items()}, want)


def test_an_adapter_of_sd3_fits_d_dit(trained, tmp_path):
  path = save_weights(tmp_path, trained)
  assert_same(products(path, DDIT), products(path, SD3))


def test_an_adapter_of_d_dit_loses_its_last_text_output_by_name(
  tmp_path, caplog
):
  lora = LoraConfig(rank=2, alpha=2.0)
  network = LoraNetwork(Network(DDIT), lora)
  fresh = jax.jit(network.init)(jax.random.key(0))["params"]
  adapters = jax.tree.map(np.asarray, tiny_lora.noisy(fresh, 1))
  path = tmp_path / "adapter.safetensors"
  write_adapter(path, adapters, config=DDIT, lora=lora)
  with caplog.at_level("INFO", "ddit_jax"):
    found = products(path, SD3)
  last = f"transformer_blocks.{DEPTH - 1}.attn.to_add_out"
  assert_same(
    found, {k: v for k, v in products(path, DDIT).items() if k != last}
  )
  assert "2 tensors unused, a layer that SD3 or D-DiT has" in caplog.text
  assert f"transformer.{last}.lora_A.weight" in caplog.text


def test_a_folder_of_pefts(trained, tmp_path):
  state = peft.get_peft_model_state_dict(trained)
  path = tmp_path / "adapter_model.safetensors"
  safetensors.torch.save_file(
    {f"base_model.model.{k}": v.contiguous() for k, v in state.items()}, path
  )
  trained.peft_config["default"].save_pretrained(tmp_path)
  assert_same(products(tmp_path, SD3), torch_products(trained))


# Names of diffusers -> those of Stability's network.
MODULES = {
  "attn.to_out.0": "x_block.attn.proj",
  "attn.to_add_out": "context_block.attn.proj",
  "ff.net.0.proj": "x_block.mlp.fc1",
  "ff_context.net.2": "context_block.mlp.fc2",
}


def by_hand(style, alpha):
  """(tensors of one block in a trainer's style, diffusers' name -> product)."""
  generator = torch.Generator().manual_seed(1)
  tensors, want = {}, {}

  def add(module, outputs, inputs, rank=2):
    down = torch.randn(rank, inputs, generator=generator) / 9
    up = torch.randn(outputs, rank, generator=generator) / 9
    if style == "kohya":
      stem = "lora_unet_" + f"joint_blocks.1.{module}".replace(".", "_")
      names = (f"{stem}.lora_down.weight", f"{stem}.lora_up.weight")
    else:
      stem = f"diffusion_model.joint_blocks.1.{module}"
      names = (f"{stem}.lora_A.weight", f"{stem}.lora_B.weight")
    tensors[names[0]], tensors[names[1]] = down.half(), up.half()
    if alpha is not None:
      # Some store it as an integer, some in a list.
      kind = torch.tensor([int(alpha)]) if rank == 3 else torch.tensor(alpha)
      tensors[f"{stem}.alpha"] = kind
    scale = 1.0 if alpha is None else alpha / rank
    return scale * (up.half().float() @ down.half().float()).numpy()

  block = "transformer_blocks.1."
  for stream, names in (("x", IMAGE), ("context", TEXT)):
    fused = add(f"{stream}_block.attn.qkv", 3 * WIDTH, WIDTH)
    for row, name in enumerate(names[:3]):
      want[block + name] = fused[row * WIDTH : (row + 1) * WIDTH]
  for name, module in MODULES.items():
    wide = 4 * WIDTH
    shape = {
      "ff.net.0.proj": (wide, WIDTH),
      "ff_context.net.2": (WIDTH, wide),
    }
    want[block + name] = add(module, *shape.get(name, (WIDTH, WIDTH)), rank=3)
  return tensors, want


@pytest.mark.parametrize("style", ["kohya", "comfyui"])
@pytest.mark.parametrize("alpha", [None, 1.0, 8.0])
@pytest.mark.parametrize("config", [SD3, DDIT], ids=["sd3", "ddit"])
def test_stabilitys_names(tmp_path, style, alpha, config, caplog):
  tensors, want = by_hand(style, alpha)
  text = "lora_te1_text_model_encoder_layers_0_self_attn_q_proj"
  tensors[f"{text}.lora_down.weight"] = torch.ones(2, 4)
  tensors[f"{text}.lora_up.weight"] = torch.ones(4, 2)
  path = tmp_path / "x.safetensors"
  safetensors.torch.save_file(tensors, path)
  with caplog.at_level("INFO", "ddit_jax"):
    assert_same(products(path, config), want)
  assert "2 tensors unused, adapts a text encoder" in caplog.text
  assert f"{text}.lora_down.weight" in caplog.text


@pytest.mark.parametrize(
  "style",
  [
    ("lora_transformer_transformer_blocks_0_attn_to_q", "lora_down", "lora_up"),
    ("transformer_blocks.0.attn.to_q", "lora_A.default", "lora_B.default"),
    ("base_model.model.transformer_blocks.0.attn.to_q", "lora_A", "lora_B"),
    ("transformer.transformer_blocks.0.attn.to_q", "lora.down", "lora.up"),
    ("diffusion_model.transformer_blocks.0.attn.to_q", "lora_A", "lora_B"),
  ],
)
def test_other_names_of_one_matrix(tmp_path, style):
  stem, down, up = style
  path = tmp_path / "x.safetensors"
  tensors = {
    f"{stem}.{down}.weight": torch.ones(2, WIDTH),
    f"{stem}.{up}.weight": torch.ones(WIDTH, 2),
  }
  safetensors.torch.save_file(tensors, path)
  want = {"transformer_blocks.0.attn.to_q": np.full((WIDTH, WIDTH), 2.0)}
  assert_same(products(path, SD3), want)


def test_modulations_are_refused_by_name(tmp_path):
  stem = "lora_unet_joint_blocks_0_x_block_adaLN_modulation_1"
  path = tmp_path / "x.safetensors"
  tensors = {
    f"{stem}.lora_down.weight": torch.ones(2, WIDTH),
    f"{stem}.lora_up.weight": torch.ones(6 * WIDTH, 2),
  }
  safetensors.torch.save_file(tensors, path)
  with pytest.raises(InputError, match=f"adapts {stem}: adapters here are of"):
    read_adapter(path, SD3)


def test_deeper_networks_adapters_are_refused(trained, tmp_path):
  path = save_weights(tmp_path, trained)
  shallow = dataclasses.replace(SD3, depth=2)
  with pytest.raises(InputError, match=r"matrices that this network lacks \(t"):
    read_adapter(path, shallow)
