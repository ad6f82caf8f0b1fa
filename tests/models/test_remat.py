"""What a block's backward pass finds saved, by name; the gradients agree."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import print_saved_residuals
from jax.sharding import AbstractMesh

from ddit_jax.errors import InputError
from ddit_jax.models import remat as remat_module
from ddit_jax.models.attention import joint_attention
from ddit_jax.models.config import MMDiTConfig
from ddit_jax.models.joint_block import SAVABLE, JointBlock
from ddit_jax.models.mmdit import Execution
from ddit_jax.models.remat import remat_policy
from tests.models import oracles

CONFIG = MMDiTConfig(
  depth=1, width=12, num_heads=3, context_dim=8, vocab_size=0, max_grid=4
)


def inputs():
  draw = np.random.default_rng(0)
  shapes = ((2, 6, 12), (2, 4, 12), (2, 12))
  image, text, vector = (jnp.float32(draw.normal(size=s)) for s in shapes)
  return (image, text), vector


@functools.cache
def params():
  boxed = jax.eval_shape(JointBlock(CONFIG).init, jax.random.key(0), *inputs())
  return oracles.randomised(nn.unbox(boxed)["params"], seed=1)


def error_sum(remat, offload=""):
  """params -> a scalar, through a block with this rematerialisation."""
  block, policy = JointBlock, remat_policy(remat, offload)
  if policy is not None:
    block = nn.remat(JointBlock, prevent_cse=False, policy=policy)

  def of(params):
    streams, _ = block(CONFIG).apply({"params": params}, *inputs())
    # Linear, so that nothing but the block has anything to save.
    return sum(
      (tokens * weights).sum()
      for tokens, weights in zip(streams, weights_of_sum(), strict=True)
    )

  return of


def weights_of_sum():
  draw = np.random.default_rng(1)
  return [np.float32(draw.normal(size=x.shape)) for x in inputs()[0]]


@functools.cache
def gradients(remat):
  return jax.jit(jax.grad(error_sum(remat)))(params())


@pytest.mark.parametrize("remat", ["save_attention", "save_all_but_qkv"])
def test_saving_by_name_gives_the_same_gradients(remat):
  for ours, theirs in zip(
    jax.tree.leaves(gradients(remat)),
    jax.tree.leaves(gradients("none")),
    strict=True,
  ):
    # The compiler fuses differently.
    error = np.linalg.norm(ours - theirs)
    assert error <= 2e-5 * np.linalg.norm(theirs)


def saved(remat, capsys):
  """(shape, name or "") of all that is saved, but for arguments."""
  print_saved_residuals(error_sum(remat), params())
  found = []
  for line in capsys.readouterr().out.splitlines():
    if "argument" not in line and "constant" not in line:
      shape, _, origin = line.partition(" ")
      name = origin.split("'")[1] if "named" in origin else ""
      found.append((shape.removeprefix("f32"), name))
  return found


def test_attention_alone_is_saved_by_name(capsys):
  # 6 image and 4 text tokens, 3 heads of 4 features.
  assert ("[2,10,3,4]", "attention") in saved("save_attention", capsys)
  assert {n for _, n in saved("save_attention", capsys)} == {"attention"}


def test_all_but_queries_keys_and_values_are_saved_by_name(capsys):
  found = saved("save_all_but_qkv", capsys)
  assert {name for _, name in found} == set(SAVABLE)
  for tokens in (6, 4):
    assert (f"[2,{tokens},48]", "mlp_in") in found
    assert (f"[2,{tokens},12]", "mlp_out") in found
    assert (f"[2,{tokens},12]", "attention_out") in found
  assert not any(shape.endswith(",3,3,4]") for shape, _ in found)


def test_full_saves_nothing_of_a_block(capsys):
  assert not any(name for _, name in saved("full", capsys))
  assert len(saved("full", capsys)) < len(saved("save_attention", capsys)) + 1


def primitives(program):
  """The names of all operations, inner programs included."""
  names = []
  for equation in program.eqns:
    names.append(equation.primitive.name)
    for inner in jax.tree.leaves(list(equation.params.values())):
      inner = getattr(inner, "jaxpr", inner)
      names += primitives(inner) if hasattr(inner, "eqns") else []
  return names


def test_the_ring_is_not_run_again_where_its_result_is_saved():
  axes = ("replica", "fsdp", "context", "tensor")
  mesh = AbstractMesh((1, 1, 2, 1), axes)
  part = jax.ShapeDtypeStruct((2, 6, 3, 3, 4), "float32")

  def count(remat):
    def attend(image, text):
      image, text = joint_attention(image, text, kernel="ring")
      return image.sum() + text.sum()

    policy = remat_policy(remat, "")
    differentiate = jax.grad(jax.checkpoint(attend, policy=policy))
    with jax.sharding.use_abstract_mesh(mesh):
      program = jax.make_jaxpr(differentiate)(part, part)
    return primitives(program.jaxpr).count("ppermute")

  # Keys and values go round, and once more with their gradients.
  assert count("save_attention") == 2 + 4
  assert count("full") == 2 * 2 + 4


@pytest.mark.parametrize(
  ("remat", "offload", "message"),
  [
    ("full", "attention", "'full': set remat to save_attention or"),
    ("save_attention", "mlp_in", "remat=save_attention saves no 'mlp_in'"),
    ("save_all_but_qkv", "mlp_in,qkv", "saves no 'qkv'"),
  ],
)
def test_only_what_is_saved_can_be_offloaded(remat, offload, message):
  with pytest.raises(ValueError, match=message):
    Execution(remat=remat, offload=offload)


def test_offloaded_tensors_are_marked_for_the_host(capsys):
  policy = "save_all_but_qkv", "mlp_in,attention"
  print_saved_residuals(error_sum(*policy), params())
  lines = capsys.readouterr().out.splitlines()
  text = str(jax.make_jaxpr(jax.grad(error_sum(*policy)))(params()))
  # Of both streams' hidden layers and of the joint attention: there and back.
  assert text.count("device_put") == 2 * 3, (lines, text)
  assert "pinned_host" in text or "Host" in text


def test_devices_without_host_memory_are_refused(monkeypatch):
  class Device:
    platform = "toaster"

    def addressable_memories(self):
      return []

  monkeypatch.setattr(remat_module.jax, "devices", lambda: [Device()])
  with pytest.raises(InputError, match="toaster has only "):
    remat_policy("save_attention", "attention")
