"""Import of all layouts: the same numbers, the same outputs, nothing half."""

import json
import shutil
import threading
import time

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.torch
import torch

from ddit_jax.checkpoint.manifest import CheckpointError, verify_manifest
from ddit_jax.conversion import convert as convert_module
from ddit_jax.conversion.convert import (
  ConvertOptions,
  check_block,
  convert,
  for_each_block,
  initial_values,
  plan_import,
  work_bytes,
)
from ddit_jax.conversion.dtypes import CastCounter
from ddit_jax.conversion.export import ExportOptions, export, plan_export
from ddit_jax.conversion.record import read_record
from ddit_jax.conversion.slices import TensorSlice
from ddit_jax.errors import InputError
from ddit_jax.models.module import Network
from tests.conversion import checkpoints
from tests.conversion.checkpoints import float32, stored_arrays


def run(source, destination, **fields):
  options = ConvertOptions(**fields)
  return convert(plan_import(source, options), destination, options)


def flat(folder, skipped=()):
  found = {}
  for part in sorted(p.name for p in folder.iterdir() if p.is_dir()):
    if part in read_record(folder).configs:
      leaves = jax.tree_util.tree_leaves_with_path(stored_arrays(folder, part))
      for path, leaf in leaves:
        found[part + jax.tree_util.keystr(path)] = np.asarray(leaf)
  return {k: v for k, v in found.items() if not any(s in k for s in skipped)}


@pytest.mark.parametrize("target", ["sd3", "ddit"])
def test_folder_and_single_file_give_the_same_bits(converted, target):
  a, b = (flat(converted / f"{letter}_{target}") for letter in "ab")
  assert a.keys() == b.keys()
  for name in a:
    assert a[name].dtype == b[name].dtype == np.float16
    np.testing.assert_array_equal(
      a[name].view(np.uint16), b[name].view(np.uint16), name
    )


def test_trees_are_those_of_the_modules(converted):
  for name in ("a_sd3", "a_ddit", "c"):
    config = read_record(converted / name).configs["network"]
    expected = Network(config).abstract_variables()
    found = stored_arrays(converted / name, "network")
    assert jax.tree.map(np.shape, found) == jax.tree.map(np.shape, expected)


def test_ddit_folder_by_hand(converted, ddit_folder):
  theirs = checkpoints.read_folder(ddit_folder / "transformer")
  ours = float32(stored_arrays(converted / "c", "network"))
  assert ours["params"]["blocks"]["image"]["qkv"]["kernel"].shape == (
    (3, 128, 3, 2, 64)
  )

  def their(name):
    return theirs[name].float().numpy()

  for block in range(3):
    key = their(f"transformer_blocks.{block}.attn.add_k_proj.weight")
    kernel = ours["params"]["blocks"]["text"]["qkv"]["kernel"][block, :, 1]
    np.testing.assert_array_equal(kernel.reshape(128, 128), key.T)
  head = ours["params"]["text_head"]["project"]["kernel"]
  np.testing.assert_array_equal(head, their("text_proj_out.weight").T)
  table = ours["constants"]["position_table"]
  np.testing.assert_array_equal(
    table.reshape(1, 36, 128), their("pos_embed.pos_embed")
  )
  modulation = ours["params"]["image_head"]["modulation"]["project"]["bias"]
  np.testing.assert_array_equal(
    modulation.reshape(-1), their("image_norm_out.linear.bias")
  )


def test_newly_initialised_parameters(converted):
  params = float32(stored_arrays(converted / "a_ddit", "network"))["params"]
  last = jax.tree.map(lambda x: x[-1], params["blocks"]["text"])
  modulation = last["modulation"]["project"]
  assert not modulation["kernel"][:, 2:].any()
  assert not modulation["bias"][2:].any()
  assert modulation["kernel"][:, :2].all()
  assert not last["out"]["bias"].any()
  head = params["text_head"]["project"]
  # 1,152 and 1,024 draws: standard errors of 2 %; measured 1 % and 3 %.
  assert abs(head["kernel"].std() / 0.02 - 1) < 0.1
  assert not head["bias"].any()
  assert abs(params["null_image"].std() * 128**0.5 - 1) < 0.1
  assert abs(last["mlp"]["out"]["kernel"].std() * 512**0.5 - 1) < 0.1


def test_files_of_a_finished_conversion(converted, sd3_folder):
  folder = converted / "a_sd3"
  facts = verify_manifest(folder)
  name = "transformer/diffusion_pytorch_model.safetensors"
  size = (sd3_folder / name).stat().st_size
  assert facts["source_files"][name]["bytes"] == size
  assert len(facts["source_files"]) == 7
  report = json.loads((folder / "report.json").read_text())
  names = {row[0].split(":")[-1] for row in report["tensors"]["mapped"]}
  assert "transformer_blocks.2.attn.to_q.weight" in names
  assert (folder / "tokenizer/tokenizer.json").is_file()
  assert (folder / "scheduler/scheduler_config.json").is_file()


def test_damage_after_the_conversion_is_found(tmp_path, sd3_folder):
  run(sd3_folder, tmp_path / "out")
  path = next((tmp_path / "out/vae/params/encoder.conv_in.kernel/c").rglob("0"))
  path = next(p for p in path.parent.rglob("*") if p.is_file())
  content = bytearray(path.read_bytes())
  content[5] ^= 1
  path.write_bytes(content)
  with pytest.raises(CheckpointError, match=r"encoder.conv_in.* is altered"):
    verify_manifest(tmp_path / "out")


@pytest.mark.parametrize(
  ("dtype", "numpy_dtype"),
  [("float32", np.float32), ("bfloat16", ml_dtypes.bfloat16)],
)
def test_dtype_of_everything(tmp_path, single_file, dtype, numpy_dtype):
  outcome = run(single_file, tmp_path / "out", dtype=dtype, is_verified=True)
  expected = safetensors.torch.load_file(single_file)
  name = "first_stage_model.encoder.conv_in.weight"
  kernel = stored_arrays(tmp_path / "out", "vae")["params"]["encoder"][
    "conv_in"
  ]
  stored = expected[name].numpy().astype(numpy_dtype).transpose(2, 3, 1, 0)
  assert kernel["kernel"].dtype == numpy_dtype
  np.testing.assert_array_equal(kernel["kernel"], stored)
  assert any(f"cast  float16 to {dtype}" in line for line in outcome.lines)


@pytest.mark.parametrize("torch_dtype", ["float8_e4m3fn", "float8_e5m2"])
def test_eight_bit_t5_becomes_bfloat16(tmp_path, single_file, torch_dtype):
  tensors = safetensors.torch.load_file(single_file)
  kind = getattr(torch, torch_dtype)
  tensors = {k: v.to(kind) if "t5xxl" in k else v for k, v in tensors.items()}
  path = tmp_path / "x.safetensors"
  safetensors.torch.save_file(tensors, path)
  run(path, tmp_path / "out", is_verified=True)
  stored = stored_arrays(tmp_path / "out", "text_encoder")["params"]
  assert stored["token_embedding"].dtype == ml_dtypes.bfloat16
  shared = tensors["text_encoders.t5xxl.transformer.shared.weight"].float()
  np.testing.assert_array_equal(
    stored["token_embedding"].astype(np.float32), shared.numpy()
  )
  network = stored_arrays(tmp_path / "out", "network")["params"]
  assert network["null_image"].dtype == np.float16


def edited(single_file, tmp_path, change):
  tensors = safetensors.torch.load_file(single_file)
  change(tensors)
  path = tmp_path / "edited.safetensors"
  safetensors.torch.save_file(tensors, path)
  return path


T5 = "text_encoders.t5xxl.transformer."


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (
      lambda t: t["model.diffusion_model.pos_embed"].fill_(torch.nan),
      r"pos_embed of .*edited.safetensors holds NaN",
    ),
    (
      lambda t: t["first_stage_model.decoder.conv_out.bias"].fill_(torch.inf),
      r"conv_out.bias of .* holds infinity \(3 of its 3",
    ),
    (
      lambda t: t[T5 + "encoder.embed_tokens.weight"][3, 4].add_(1),
      "embed_tokens.weight of .* should be a duplicate",
    ),
  ],
)
def test_bad_numbers_leave_nothing(tmp_path, single_file, change, message):
  path = edited(single_file, tmp_path, change)
  with pytest.raises(InputError, match=message):
    run(path, tmp_path / "out")
  assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_number_out_of_range(tmp_path, single_file):
  def change(tensors):
    name = "first_stage_model.decoder.conv_out.bias"
    tensors[name] = torch.full((3,), 1e5)

  path = edited(single_file, tmp_path, change)
  with pytest.raises(InputError, match=r"conv_out.bias of .*reaches 100000"):
    run(path, tmp_path / "out", dtype="float16")


def test_verification_finds_a_wrong_write(tmp_path, sd3_folder, monkeypatch):
  build = convert_module._build_block

  def wrong(network, block, *args):
    built = build(network, block, *args)
    if block[0].endswith("context_embedding/kernel"):
      built[0, 0] += np.float16(1)
    return built

  monkeypatch.setattr(convert_module, "_build_block", wrong)
  with pytest.raises(InputError, match=r"context_embedder.weight differs"):
    run(sd3_folder, tmp_path / "out", is_verified=True)
  assert list(tmp_path.iterdir()) == []


def test_interrupt_leaves_nothing_that_looks_finished(
  tmp_path, sd3_folder, monkeypatch
):
  def interrupt(*args, **kwargs):
    raise KeyboardInterrupt

  monkeypatch.setattr(convert_module, "write_manifest", interrupt)
  with pytest.raises(KeyboardInterrupt):
    run(sd3_folder, tmp_path / "out")
  assert list(tmp_path.iterdir()) == []


def test_an_error_does_not_wait_for_the_hashes(
  tmp_path, single_file, monkeypatch
):
  path = edited(
    single_file,
    tmp_path,
    lambda t: t["model.diffusion_model.pos_embed"].fill_(torch.nan),
  )
  given_up = []

  def hash_slowly(path, is_over):
    given_up.append(is_over.wait(60))

  monkeypatch.setattr(convert_module, "hash_file", hash_slowly)
  with pytest.raises(InputError, match="holds NaN"):
    run(path, tmp_path / "out")
  assert given_up == [True]


def test_taken_destination(tmp_path, sd3_folder):
  (tmp_path / "out").mkdir()
  (tmp_path / "out/precious").write_text("x")
  with pytest.raises(InputError, match="already exists"):
    run(sd3_folder, tmp_path / "out")


def test_progress_reaches_the_announced_total(tmp_path, sd3_folder):
  for is_verified in (False, True):
    options = ConvertOptions(is_verified=is_verified)
    plan = plan_import(sd3_folder, options)
    told = []
    outcome = convert(plan, tmp_path / "out", options, told.append)
    total = work_bytes(plan, options)
    assert sum(told) == total == outcome.nbytes * (1 + is_verified)
    shutil.rmtree(tmp_path / "out")


def test_seed_changes_new_parameters_only(tmp_path, sd3_folder):
  for seed in (0, 1):
    run(sd3_folder, tmp_path / str(seed), seed=seed)
  first, second = (flat(tmp_path / str(seed)) for seed in (0, 1))
  different = {k for k in first if not np.array_equal(first[k], second[k])}
  assert different == {
    "network['params']['null_image']",
    "network['params']['text_head']['project']['kernel']",
    "network['params']['blocks']['text']['out']['kernel']",
    "network['params']['blocks']['text']['mlp']['in']['kernel']",
    "network['params']['blocks']['text']['mlp']['out']['kernel']",
  }


def part_of(init="normal(0,0.02)", block=("params/a", None), shape=(300, 200)):
  return TensorSlice(
    block=block,
    index=(slice(None),) * 2,
    shape=shape,
    key=None,
    pattern="o i -> i o",
    sizes={},
    init=init,
  )


@pytest.mark.parametrize("std", ["0.02", "1.5", "2.5e-05"])
def test_initial_values(std):
  values = initial_values(part_of(f"normal(0,{std})"), 0) / float(std)
  # 60,000 draws: standard errors are 0.0041 and 0.0029; measured 0.0013.
  assert abs(values.mean()) < 0.02 and abs(values.std() - 1) < 0.015
  assert values.dtype == np.float32
  assert not initial_values(part_of("zeros"), 0).any()
  square = part_of("identity", shape=(3, 3))
  np.testing.assert_array_equal(initial_values(square, 0), np.eye(3))


def test_equal_seeds_give_equal_numbers():
  first = initial_values(part_of(), 5)
  np.testing.assert_array_equal(initial_values(part_of(), 5), first)
  for other in (
    initial_values(part_of(), 6),
    initial_values(part_of(block=("params/b", None)), 5),
    initial_values(part_of(block=("params/a", 1)), 5),
  ):
    assert (first != other).mean() > 0.99


def test_every_changed_number_is_noticed(single_file):
  """By comparing the slices with their tensors, rearranged back."""
  network = plan_import(single_file, ConvertOptions(target="sd3")).networks[0]
  block = ("params/last_block/text/modulation/project/bias", None)
  parts = network.blocks[block]
  built = convert_module._build_block(network, block, 0, CastCounter())
  check_block(parts, built, network.tensors)
  bits = built.view(np.uint16)
  for place in np.ndindex(built.shape):
    bits[place] ^= 1
    with pytest.raises(InputError, match="verification failed: "):
      check_block(parts, built, network.tensors)
    bits[place] ^= 1


def test_every_block_is_worked_on_once_and_reported_here():
  worked, done, threads = [], [], set()

  def finish(block):
    done.append(block)
    threads.add(threading.current_thread())

  for_each_block(range(50), worked.append, finish)
  assert sorted(worked) == sorted(done) == list(range(50))
  assert threads == {threading.main_thread()}


def test_the_first_error_drops_the_rest():
  worked = []

  def work(block):
    worked.append(block)
    time.sleep(0.001)
    if block == 3:
      raise InputError("three")

  with pytest.raises(InputError, match="three"):
    for_each_block(range(1000), work)
  assert len(worked) < 1000


def lora_file(path, *modules):
  """A file of (name, diffusers' weight, outputs, rank); their products."""
  generator = torch.Generator().manual_seed(0)
  tensors, products = {}, {}
  for name, weight, outputs, rank in modules:
    down = torch.randn(rank, checkpoints.WIDTH, generator=generator)
    up = torch.randn(outputs, rank, generator=generator)
    tensors[f"{name}.lora_down.weight"] = down
    tensors[f"{name}.lora_up.weight"] = up
    tensors[f"{name}.alpha"] = torch.tensor(3.0)
    products[weight] = 3 / rank * up @ down
  safetensors.torch.save_file(tensors, path)
  return products


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_lora_is_merged(tmp_path, sd3_folder, single_file, kind):
  width, last = checkpoints.WIDTH, checkpoints.DEPTH - 1
  products = lora_file(
    tmp_path / "lora.safetensors",
    (
      "lora_transformer_transformer_blocks_0_attn_to_k",
      "transformer_blocks.0.attn.to_k.weight",
      width,
      4,
    ),
    (
      "diffusion_model.joint_blocks.1.x_block.adaLN_modulation.1",
      "transformer_blocks.1.norm1.linear.weight",
      6 * width,
      2,
    ),
    (
      f"lora_unet_joint_blocks_{last}_context_block_adaLN_modulation_1",
      f"transformer_blocks.{last}.norm1_context.linear.weight",
      2 * width,
      2,
    ),
  )
  # Stability stores shift before scale here, diffusers after it.
  name = list(products)[-1]
  products[name] = torch.cat(products[name].chunk(2)[::-1])
  source = sd3_folder if kind == "folder" else single_file
  outcome = run(
    source,
    tmp_path / "x",
    target="sd3",
    dtype="float32",
    lora=tmp_path / "lora.safetensors",
    is_verified=True,
  )
  assert sum(line.startswith("merged ") for line in outcome.lines) == 3
  assert any("merged: 3 tensors" in line for line in outcome.lines)
  options = ExportOptions(format="a")
  networks = plan_export(tmp_path / "x", options)
  export(tmp_path / "x", networks, tmp_path / "y", options)
  got = checkpoints.read_folder(tmp_path / "y/transformer")
  before = checkpoints.read_folder(sd3_folder / "transformer")
  for name, stored in before.items():
    want = stored.float() + products.get(name, 0)
    torch.testing.assert_close(got[name], want, atol=1e-5, rtol=1e-5)


def test_a_lora_of_another_model_or_with_nan_leaves_nothing(
  tmp_path, sd3_folder
):
  path = tmp_path / "lora.safetensors"
  lora_file(path, ("lora_unet_joint_blocks_30_x_block_attn_proj", "x", 128, 2))
  with pytest.raises(InputError, match="adapts 1 matrices that this network"):
    run(sd3_folder, tmp_path / "x", lora=path)
  tensors = {
    "transformer_blocks.0.attn.to_q.lora_A.weight": torch.ones(2, 128),
    "transformer_blocks.0.attn.to_q.lora_B.weight": torch.ones(128, 2) / 0,
  }
  safetensors.torch.save_file(tensors, path)
  with pytest.raises(InputError, match=r"lora_B.weight of .* holds infinity"):
    run(sd3_folder, tmp_path / "x", lora=path)
  assert [p.name for p in tmp_path.iterdir()] == ["lora.safetensors"]
