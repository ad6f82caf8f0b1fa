"""Collectives of programs by hand, by this JAX and by a TPU's compiler."""

import pathlib

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from ddit_jax.planning.collectives import Traffic, by_kind, collectives
from ddit_jax.planning.hlo import HloText
from ddit_jax.sharding.mesh import MeshConfig

HLO = pathlib.Path(__file__).parent / "hlo"


def traffic(text):
  return by_kind(collectives(HloText.parse(text)))


def gather_runs(text):
  found = collectives(HloText.parse(text))
  return sum(one.runs for one in found if one.kind == "all-gather")


# As a TPU's compiler writes: gathers cut into steps with one channel, and a
# reduction of which each device keeps a slice, inside a fusion.
TPU_TEXT = """\
HloModule step

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%all-reduce-scatter.8.clone.1 (input: bf16[256,1024]) -> bf16[64,1024] {
  %input = bf16[256,1024]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %all-reduce.3 = bf16[256,1024]{1,0:T(8,128)(2,1)} all-reduce(%input), \
channel_id=157, replica_groups={{0,1,2,3}}, to_apply=%add
  ROOT %cut = bf16[64,1024]{1,0} dynamic-slice(%all-reduce.3, %input)
}

%async_collective_fusion.1 (p0: bf16[64,512], p1: bf16[8]) -> bf16[8] {
  %p0 = bf16[64,512]{1,0} parameter(0)
  %all-gather.1 = bf16[256,512]{1,0} all-gather(%p0), channel_id=12, \
dimensions={0}, frontend_attributes={chain_id="2"}
  ROOT %p1 = bf16[8] parameter(1)
}

%async_collective_fusion.2 (p0: bf16[64,512], p1: bf16[8]) -> bf16[8] {
  %p0 = bf16[64,512]{1,0} parameter(0)
  %all-gather.2 = bf16[256,512]{1,0} all-gather(%p0), channel_id=12, \
dimensions={0}, frontend_attributes={chain_id="2"}
  ROOT %p1 = bf16[8] parameter(1)
}

%condition (p: (s32[], bf16[64,512])) -> pred[] {
  %limit = s32[] constant(24)
  %p = (s32[], bf16[64,512]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  ROOT %less = pred[] compare(%i, %limit), direction=LT
}

%body (q: (s32[], bf16[64,512])) -> (s32[], bf16[64,512]) {
  %q = (s32[], bf16[64,512]) parameter(0)
  %w = bf16[64,512] get-tuple-element(%q), index=1
  %f1 = bf16[8] fusion(%w, %w), kind=kCustom, calls=%async_collective_fusion.1
  %f2 = bf16[8] fusion(%w, %f1), kind=kCustom, calls=%async_collective_fusion.2
  %g = bf16[256,1024] parameter(9)
  %f3 = bf16[64,1024] fusion(%g), calls=%all-reduce-scatter.8.clone.1
  ROOT %t = (s32[], bf16[64,512]) tuple(%q, %w)
}

ENTRY %main (x: bf16[64,512], y: f32[10], z: f32[6]) -> bf16[64,512] {
  %x = bf16[64,512] parameter(0)
  %y = f32[10] parameter(1)
  %z = f32[6] parameter(2)
  %r = (f32[10], f32[6]) all-reduce(%y, %z), channel_id=3, to_apply=%add
  %a = f32[10] all-to-all(%y), channel_id=4, dimensions={0}
  %w = (s32[], bf16[64,512]) while(%x), condition=%condition, body=%body
  ROOT %out = bf16[64,512] get-tuple-element(%w), index=1
}
"""


def test_kinds_and_bytes_of_a_tpus_program():
  """Nothing is computed between the steps of its gather."""
  gather, reduction = 24 * 256 * 512 * 2, 24 * 256 * 1024 * 2
  assert traffic(TPU_TEXT) == {
    "all-gather": Traffic(bytes=gather, exposed_bytes=gather),
    "reduce-scatter": Traffic(bytes=reduction, exposed_bytes=reduction),
    "all-reduce": Traffic(bytes=4 * 16, exposed_bytes=4 * 16),
    "all-to-all": Traffic(bytes=40, exposed_bytes=40),
  }


def test_a_loop_of_unknown_length_is_told_and_counts_once():
  text = TPU_TEXT.replace("direction=LT", "direction=NE")
  assert HloText.parse(text).unknown_loops == 1
  assert gather_runs(text) == 1


def test_asynchronous_starts_hold_operand_and_result():
  text = """\
ENTRY %main (x: f32[4]) -> f32[16] {
  %x = f32[4] parameter(0)
  %s = (f32[4], f32[16]) all-gather-start(%x), channel_id=1, dimensions={0}
  %p = (f32[4], f32[4]) collective-permute-start(%x), channel_id=2
  %r = f32[4] all-reduce-start(%x), channel_id=3
  %e = f32[4] all-reduce-done(%r)
  ROOT %d = f32[16] all-gather-done(%s)
}
"""
  assert {kind: one.bytes for kind, one in traffic(text).items()} == {
    "all-gather": 64,
    "all-reduce": 16,
    "collective-permute": 16,
  }


@pytest.mark.parametrize("steps", [1, 3])
def test_what_this_jax_compiles_for_a_mesh(steps):
  """Gathering weights in a scan: four layers, or the same program unrolled."""
  mesh = MeshConfig(fsdp=8).make()
  split = NamedSharding(mesh, PartitionSpec("fsdp"))
  layers = NamedSharding(mesh, PartitionSpec(None, "fsdp"))
  x = jax.ShapeDtypeStruct((16, 64), "f4", sharding=split)
  weights = jax.ShapeDtypeStruct((4, 64, 64), "f4", sharding=layers)

  def network(x, weights):
    def layer(y, weight):
      return jax.lax.with_sharding_constraint(jnp.tanh(y @ weight), split), None

    return jax.lax.scan(layer, x, weights, unroll=steps)[0]

  text = jax.jit(network).lower(x, weights).compile().as_text()
  assert HloText.parse(text).unknown_loops == 0
  assert traffic(text)["all-gather"].bytes == 4 * 64 * 64 * 4
  assert gather_runs(text) == 4
  assert set(traffic(text)) == {"all-gather"}


def test_a_program_of_one_device_sends_nothing():
  text = jax.jit(jnp.sin).lower(jnp.ones(3)).compile().as_text()
  assert traffic(text) == {}


# What libtpu 0.0.42 compiled for v5e 4x4: six scanned layers, three weights
# each, forward and backward with full rematerialisation; the lines that matter.
LAYERS, WEIGHTS = 6, 2 * (1536 * 6144 * 2 + 1536 * 1536)


@pytest.mark.parametrize("name", ["v5e_scan", "v5e_scan_unrolled"])
def test_unrolling_leaves_bytes_unchanged(name):
  """Copies of a collective in an unrolled loop share its channel."""
  text = (HLO / f"{name}.txt").read_text()
  found = traffic(text)
  # Forward pass: all three. Backward pass: again.
  assert found["all-gather"].bytes == 2 * LAYERS * WEIGHTS
  assert gather_runs(text) == 2 * LAYERS * 3
  assert found["reduce-scatter"].bytes == LAYERS * WEIGHTS
  # Each device of a group of eight has an eighth to add between replicas.
  assert found["all-reduce"].bytes == LAYERS * WEIGHTS / 8


@pytest.mark.parametrize(
  ("name", "exposed"), [("v5e_scan", 2), ("v5e_scan_unrolled", 3)]
)
def test_gathers_at_the_start_of_a_body_are_exposed(name, exposed):
  """Unrolled once, the forward body has one for every two layers."""
  program = HloText.parse((HLO / f"{name}.txt").read_text())
  found = collectives(program)
  gathers = [one for one in found if one.kind == "all-gather"]
  assert {one.group_size for one in gathers} == {8}
  assert sum(not one.is_overlapped for one in gathers) == exposed
  assert all(bool(one.hidden_cycles) == one.is_overlapped for one in found)
  reductions = [one for one in found if one.kind == "reduce-scatter"]
  assert not any(one.is_overlapped for one in reductions)


def test_products_between_start_and_end_hide_a_gather():
  text = """\
ENTRY %main (x: f32[4], y: f32[8,8]) -> f32[16] {
  %x = f32[4] parameter(0)
  %y = f32[8,8] parameter(1)
  %s = (f32[4], f32[16]) all-gather-start(%x), channel_id=1, \
replica_groups=[2,4]<=[8]
  %z = f32[8,8] dot(%y, %y)
  %d = f32[16] all-gather-done(%s)
  %t = (f32[4], f32[16]) all-gather-start(%x), channel_id=2, \
replica_groups={{0,1,2,3}}
  %e = f32[16] all-gather-done(%t)
  ROOT %v = f32[8,8] dot(%z, %z)
}
"""
  hidden, exposed = collectives(HloText.parse(text))
  assert (hidden.is_overlapped, exposed.is_overlapped) == (True, False)
  assert hidden.group_size == exposed.group_size == 4
  # Of four parts a device has one already.
  assert hidden.sent_bytes == 64 * 3 / 4


def test_a_gather_whose_steps_lie_in_a_loop_runs_once():
  """It starts before the loop and ends after it; 24 products hide it."""
  parts = {"start": "Start", "step": "", "done": "Done"}
  fused = "".join(
    f"""\
%{name} (p: bf16[64,512]) -> bf16[256,512] {{
  %p = bf16[64,512] parameter(0)
  %g.{name} = bf16[256,512] all-gather(%p), channel_id=7, dimensions={{0}}, \
frontend_attributes={{chain_id="0"}}
  ROOT %c.{name} = bf16[256,512] custom-call(%g.{name}), \
custom_call_target="AsyncCollective{target}"
}}
"""
    for name, target in parts.items()
  )
  text = f"""\
{fused}
%condition (p: (s32[], bf16[64,512])) -> pred[] {{
  %limit = s32[] constant(24)
  %p = (s32[], bf16[64,512]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  ROOT %less = pred[] compare(%i, %limit), direction=LT
}}

%body (q: (s32[], bf16[64,512])) -> (s32[], bf16[64,512]) {{
  %q = (s32[], bf16[64,512]) parameter(0)
  %w = bf16[64,512] get-tuple-element(%q), index=1
  %f = bf16[256,512] fusion(%w), calls=%step, \
backend_config={{"estimated_cycles":"100"}}
  ROOT %t = (s32[], bf16[64,512]) tuple(%q, %w)
}}

ENTRY %main (x: bf16[64,512]) -> bf16[256,512] {{
  %x = bf16[64,512] parameter(0)
  %s = bf16[256,512] fusion(%x), calls=%start
  %w = (s32[], bf16[64,512]) while(%x), condition=%condition, body=%body
  ROOT %d = bf16[256,512] fusion(%x), calls=%done
}}
"""
  (gather,) = collectives(HloText.parse(text))
  assert (gather.runs, gather.bytes) == (1, 256 * 512 * 2)
  assert (gather.is_overlapped, gather.hidden_cycles) == (True, 24 * 100)


# What libtpu 0.0.42.1 compiled for v5p 4x4x4: weights split 64 ways are
# gathered as the sum of zero-padded shards, or, with the option
# xla_tpu_prefer_async_allgather_to_allreduce, in one ring; of 16 devices each
# keeps a slice of the gradients.
V5P_TEXT = """\
%all-reduce-scatter.1 (p: bf16[1536,6144]) -> bf16[96,6144] {
  %p = bf16[1536,6144] parameter(0)
  %r = bf16[1536,6144] all-reduce(%p), channel_id=1, \
replica_groups={{0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15}}, to_apply=%add
  ROOT %s = bf16[96,6144] dynamic-slice(%r, %p)
}

ENTRY %main (x: bf16[4,1536,6144], y: bf16[4,24,6144]) -> bf16[96,6144] {
  %x = bf16[4,1536,6144] parameter(0)
  %y = bf16[4,24,6144] parameter(1)
  %g = bf16[4,1536,6144] all-reduce(%x), channel_id=2, \
replica_groups=mesh['axis_0'=1,'axis_1'=64] {'axis_1'}, to_apply=%add, \
backend_config={"collective_algorithm_config":{"emitter":"RotatedPincerEmitter"\
,"strategy":"UniDirectionNDRingStrategy","debug":"\\nUniDirectionNDRingStrategy\
{colors:6 phases:3 cores:{4 4 4}"}}
  %h = bf16[4,1536,6144] all-gather(%y), channel_id=3, dimensions={1}, \
replica_groups=mesh['axis_0'=1,'axis_1'=64] {'axis_1'}, backend_config={\
"collective_algorithm_config":{"emitter":"1DAllGatherNonMajorDimImbalanced"}}
  ROOT %f = bf16[96,6144] fusion(%h), calls=%all-reduce-scatter.1, \
backend_config={"collective_algorithm_config":{"emitter":\
"SingleInputAllReduceScatterFusion","strategy":"StrategyRing","debug":\
"\\nStrategyRing{colors:1 phases:1 cores:{16}"}}
}
"""


def test_the_compilers_algorithm_says_how_many_links_it_uses():
  found = collectives(HloText.parse(V5P_TEXT))
  assert [(one.kind, one.group_size, one.links) for one in found] == [
    ("all-reduce", 64, 6),
    ("all-gather", 64, 2),
    ("reduce-scatter", 16, 2),
  ]
