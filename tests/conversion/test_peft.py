"""Adapter files: names, shapes, metadata, and the way back."""

import collections
import dataclasses
import json
import random

import jax
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from ddit_jax.conversion.peft import folded, read_adapter, write_adapter
from ddit_jax.errors import InputError, one_line
from ddit_jax.lora.lora import LoraConfig, LoraNetwork
from ddit_jax.models.module import Network
from tests.damage import damaged_bytes, damaged_json
from tests.lora import tiny_lora

CONFIG = tiny_lora.NETWORK.config
BLOCK = "transformer.transformer_blocks.1."


def adapters(network=tiny_lora.ADAPTED):
  fresh = jax.jit(network.init)(jax.random.key(0))["params"]
  return jax.tree.map(np.asarray, tiny_lora.noisy(fresh, 1))


@pytest.fixture
def written(tmp_path):
  """(file, its tensors, the adapters)."""
  ours = adapters()
  path = tmp_path / "adapter.safetensors"
  tensors = write_adapter(path, ours, config=CONFIG, lora=tiny_lora.LORA)
  return path, tensors, ours


def test_every_name_and_shape_is_diffusers(written):
  _, tensors, _ = written
  square = [
    f"attn.{name}"
    for name in (
      *("to_q", "to_k", "to_v", "to_out.0"),
      *("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
    )
  ]
  wide = [f"{ff}.net.{part}" for ff in ("ff", "ff_context") for part in (0, 2)]
  want = {}
  for module in square:
    want[f"{module}.lora_A.weight"] = (3, 16)
    want[f"{module}.lora_B.weight"] = (16, 3)
  for module in wide:
    is_first = module.endswith("0")
    module = f"{module}.proj" if is_first else module
    want[f"{module}.lora_A.weight"] = (3, 16 if is_first else 64)
    want[f"{module}.lora_B.weight"] = (64 if is_first else 16, 3)
  for block in (0, 1):
    prefix = f"transformer.transformer_blocks.{block}."
    got = {
      name.removeprefix(prefix): array.shape
      for name, array in tensors.items()
      if name.startswith(prefix)
    }
    assert got == want
  assert len(tensors) == 2 * len(want)


def test_the_products_are_the_kernels_changes(written):
  path, _, ours = written
  file = safetensors.numpy.load_file(path)
  merge = jax.jit(tiny_lora.ADAPTED.merged)
  zeros = jax.tree.map(np.zeros_like, tiny_lora.base())
  change = merge({"base": zeros, "params": ours, "constants": {}})["params"]
  image = jax.tree.map(lambda x: np.asarray(x[1]), change["blocks"]["image"])

  def product(module):
    a, b = (file[f"{BLOCK}{module}.lora_{x}.weight"] for x in "AB")
    # nn.Linear's weight [outputs, inputs]; alpha / rank is in b.
    return b @ a

  # Measured 3e-8.
  for row, name in enumerate(("to_q", "to_k", "to_v")):
    kernel = image["qkv"]["kernel"][:, row].reshape(16, 16)
    np.testing.assert_allclose(product(f"attn.{name}"), kernel.T, atol=1e-6)
  kernel = image["out"]["kernel"].reshape(16, 16)
  np.testing.assert_allclose(product("attn.to_out.0"), kernel.T, atol=1e-6)
  kernel = image["mlp"]["in"]["kernel"]
  np.testing.assert_allclose(product("ff.net.0.proj"), kernel.T, atol=1e-6)


def test_rank_and_alpha_stand_where_diffusers_reads_them(written):
  with safetensors.safe_open(written[0], framework="numpy") as file:
    metadata = file.metadata()
  assert metadata["format"] == "pt"
  facts = json.loads(metadata["lora_adapter_metadata"])
  assert facts["transformer.r"] == 3
  # Readers that look elsewhere for alpha take the rank.
  assert facts["transformer.lora_alpha"] == 3
  modules = facts["transformer.target_modules"]
  assert len(modules) == 24
  assert "transformer_blocks.1.attn.to_q" in modules


def test_it_reads_back_bit_for_bit(written):
  path, _, ours = written
  lora, back = read_adapter(path, CONFIG)
  assert lora == dataclasses.replace(tiny_lora.LORA, alpha=3.0)
  want = folded(ours, tiny_lora.LORA)
  jax.tree.map(np.testing.assert_array_equal, back, want)


def test_nothing_is_overwritten_and_no_nan_is_written(written, tmp_path):
  path, _, ours = written
  with pytest.raises(InputError, match="exists: choose another"):
    write_adapter(path, ours, config=CONFIG, lora=tiny_lora.LORA)
  broken = jax.tree.map(lambda x: x * np.nan, ours)
  with pytest.raises(InputError, match="holds NaN"):
    write_adapter(
      tmp_path / "x.safetensors", broken, config=CONFIG, lora=tiny_lora.LORA
    )
  assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_sd3s_last_text_stream_has_no_output(tmp_path):
  # No text head either, which would have nothing to read.
  config = dataclasses.replace(
    CONFIG,
    is_last_text_block_full=False,
    vocab_size=0,
    context_dim=5,
  )
  lora = LoraConfig(rank=2, alpha=2.0)
  network = LoraNetwork(Network(config), lora)
  ours = adapters(network)
  path = tmp_path / "adapter.safetensors"
  tensors = write_adapter(path, ours, config=config, lora=lora)
  assert f"{BLOCK}attn.add_v_proj.lora_B.weight" in tensors
  assert f"{BLOCK}attn.to_add_out.lora_B.weight" not in tensors
  got, back = read_adapter(path, config)
  assert got == lora
  jax.tree.map(np.testing.assert_array_equal, back, ours)


def test_a_file_takes_four_bytes_a_number_and_its_names(written):
  path, tensors, _ = written
  # A block's attention: eight square kernels; its MLPs: four.
  numbers = 2 * (8 * 3 * (16 + 16) + 4 * 3 * (16 + 64))
  assert sum(tensor.size for tensor in tensors.values()) == numbers
  assert 4 * numbers < path.stat().st_size < 4 * numbers + 12_000


def rewrite(path, change, metadata=None):
  tensors = safetensors.numpy.load_file(path)
  change(tensors)
  tensors = {name: np.asarray(array) for name, array in tensors.items()}
  safetensors.numpy.save_file(tensors, path, metadata=metadata)


def test_without_metadata_alpha_is_the_rank(written):
  rewrite(written[0], lambda tensors: None)
  lora, _ = read_adapter(written[0], CONFIG)
  assert (lora.rank, lora.alpha) == (3, 3)


QUERY = f"{BLOCK}attn.to_q.lora_A.weight"


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda t: t.pop(QUERY), r"attn.to_q lacks its down matrix"),
    (lambda t: t.update({"x.lora_A.weight": t[QUERY]}), r"lacks \(x\)"),
    (lambda t: t.update({QUERY: t[QUERY][:2]}), "does not fit this network"),
    (lambda t: t.update({QUERY: t[QUERY][:, :8]}), "does not fit this network"),
    (lambda t: t.update({QUERY: t[QUERY] * np.nan}), "holds NaN"),
    (lambda t: t.update({"x.lora_magnitude_vector": t[QUERY]}), "of DoRA, whi"),
    (lambda t: t.update({"x.dora_scale": t[QUERY]}), "of DoRA, which is not"),
    (lambda t: t.update({"x.lokr_w1": t[QUERY]}), "of LoKr, which is not"),
    (lambda t: t.update({"x.hada_w1_a": t[QUERY]}), "of LoHa, which is not"),
    (lambda t: t.update({"x.bias": t[QUERY]}), "of biases, which is not"),
    (lambda t: t.update({"x.y": t[QUERY]}), "of an unknown kind, which is"),
    (
      lambda t: t.update({QUERY.replace("_A", "_A.b"): t[QUERY]}),
      "two adapters of",
    ),
    (
      lambda t: t.update({QUERY: t[QUERY].astype(np.int32)}),
      "has dtype I32; adapters may be",
    ),
    (
      lambda t: t.update({f"{BLOCK}attn.to_q.alpha": np.float32(np.nan)}),
      "has alpha nan: it must be finite",
    ),
    (
      lambda t: t.update({f"{BLOCK}attn.to_q.alpha": np.ones(3)}),
      r"has alpha \[1.0, 1.0\]: it must be",
    ),
    (
      lambda t: [t.pop(k) for k in list(t)] and t.update({"lora_te1.x": 1.0}),
      r"adapts nothing of this network \(lora_te1.x\)",
    ),
  ],
)
def test_adapters_of_something_else_are_refused(written, change, message):
  rewrite(written[0], change)
  with pytest.raises(ValueError, match=message):
    read_adapter(written[0], CONFIG)


@pytest.mark.parametrize(
  ("facts", "message"),
  [
    ('{"transformer.use_dora": true}', "sets use_dora, which is not supported"),
    ("[1]", "LoraConfig is no JSON table"),
    ("[" * 100_000, "LoraConfig is damaged"),
    ('{"lora_alpha": "much"}', "has alpha 'much'"),
    ('{"lora_alpha": 1e999}', "has alpha inf"),
    (
      '{"lora_alpha": 4, "alpha_pattern": {"to_.*": 1}}',
      "a regular expression",
    ),
  ],
)
def test_metadata_that_cannot_be_followed_is_refused(written, facts, message):
  metadata = {"lora_adapter_metadata": facts}
  rewrite(written[0], lambda tensors: None, metadata)
  with pytest.raises(ValueError, match=message):
    read_adapter(written[0], CONFIG)


def test_rank_stabilised_adapters_are_scaled_by_the_root(written):
  facts = json.dumps({"transformer.use_rslora": True, "lora_alpha": 6})
  rewrite(written[0], lambda t: None, {"lora_adapter_metadata": facts})
  lora, _ = read_adapter(written[0], CONFIG)
  assert lora.scale == pytest.approx(6 / 3**0.5)


def test_one_module_may_have_its_own_alpha(written):
  path, tensors, _ = written
  facts = {"lora_alpha": 3, "alpha_pattern": {"1.attn.to_q": 6}}
  rewrite(path, lambda t: None, {"lora_adapter_metadata": json.dumps(facts)})
  lora, back = read_adapter(path, CONFIG)
  assert lora.scale == 1
  up = back["blocks"]["image"]["qkv"]["up"][1]
  theirs = tensors[f"{BLOCK}attn.to_q.lora_B.weight"]
  np.testing.assert_array_equal(up[:, 0].reshape(3, 16).T, 2 * theirs)
  theirs = tensors[f"{BLOCK}attn.to_k.lora_B.weight"]
  np.testing.assert_array_equal(up[:, 1].reshape(3, 16).T, theirs)


@pytest.mark.slow
def test_damaged_adapters_are_read_or_refused_by_a_line(written):
  rng, counts = random.Random(5), collections.Counter()
  path = written[0]
  whole = path.read_bytes()
  length = int.from_bytes(whole[:8], "little")
  text, data = whole[8 : 8 + length].decode(), whole[8 + length :]
  for number in range(1500):
    damage = damaged_json(text, rng)
    if number % 3 == 0:
      damage = damaged_bytes(text.encode(), rng)
    path.write_bytes(len(damage).to_bytes(8, "little") + damage + data)
    try:
      read_adapter(path, CONFIG)
      counts["read"] += 1
    except InputError as error:
      assert "\n" not in one_line(error)
      counts["refused"] += 1
  assert counts.total() == 1500 and min(counts.values()) > 20
