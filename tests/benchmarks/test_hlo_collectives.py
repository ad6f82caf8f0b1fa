"""HLO text and its collectives, of programs by hand and by this JAX."""

import jax
import jax.numpy as jnp
import pytest
from hlo_collectives import HloText, Traffic, hlo_collectives, type_bytes
from jax.sharding import NamedSharding, PartitionSpec

from ddit_jax.sharding.mesh import MeshConfig

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


def test_kinds_runs_and_bytes_of_a_tpus_program():
  found = hlo_collectives(TPU_TEXT)
  assert found.unknown_loops == 0
  assert found.by_kind == {
    "all-gather": Traffic(instructions=1, runs=24, bytes=24 * 256 * 512 * 2),
    "reduce-scatter": Traffic(
      instructions=1, runs=24, bytes=24 * 256 * 1024 * 2
    ),
    "all-reduce": Traffic(instructions=1, runs=1, bytes=4 * 16),
    "all-to-all": Traffic(instructions=1, runs=1, bytes=40),
  }


def test_a_loop_of_unknown_length_is_told_and_counts_once():
  found = hlo_collectives(TPU_TEXT.replace("direction=LT", "direction=NE"))
  assert found.unknown_loops == 1
  assert found.by_kind["all-gather"].runs == 1


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
  found = hlo_collectives(text).by_kind
  assert {kind: traffic.bytes for kind, traffic in found.items()} == {
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
  found = hlo_collectives(text)
  assert found.unknown_loops == 0
  gather = found.by_kind["all-gather"]
  assert (gather.runs, gather.bytes) == (4, 4 * 64 * 64 * 4)
  assert set(found.by_kind) == {"all-gather"}


def test_a_program_of_one_device_sends_nothing():
  text = jax.jit(jnp.sin).lower(jnp.ones(3)).compile().as_text()
  assert hlo_collectives(text).by_kind == {}


PROGRAM = """\
HloModule jit_f, entry_computation_layout={(f32[8]{0})->f32[8]{0}}

FileNames
1 "file.py"

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%condition (p: (s32[], f32[8])) -> pred[] {
  %limit = s32[]{:T(128)} constant(24)
  %p = (s32[]{:T(128)}, f32[8]{0:T(8)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %less = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

%body (q: (s32[], f32[8])) -> (s32[], f32[8]) {
  %q = (s32[], f32[8]) parameter(0)
  ROOT %t = (s32[], /*index=1*/f32[8]) tuple(%q, %q)
}

ENTRY %main.1 (x: f32[8]) -> f32[8] {
  %x = f32[8]{0:T(8)S(1)} parameter(0), metadata={op_name="x"}
  %r = f32[] reduce(%x, %x), dimensions={0}, to_apply=%add
  %w = (s32[], f32[8]) while(%x), condition=%condition, body=%body
  ROOT %out = f32[8]{0} get-tuple-element(%w), index=1
}
"""


def test_computations_and_instructions_are_found():
  program = HloText.parse(PROGRAM)
  assert program.entry == "main.1"
  assert set(program.computations) == {"add", "condition", "body", "main.1"}
  reduce, loop = program.computations["main.1"][1:3]
  assert (reduce.opcode, reduce.operands) == ("reduce", ["x", "x"])
  # A reduction's addition is no step of the program.
  assert reduce.callees == []
  assert (loop.name, loop.opcode) == ("w", "while")
  assert loop.type == "(s32[], f32[8])"
  assert loop.callees == ["body"]
  assert [line.is_root for line in program.computations["main.1"]] == [
    False,
    False,
    False,
    True,
  ]


def test_a_loop_turns_as_often_as_its_condition_says():
  program = HloText.parse(PROGRAM)
  assert program.trip_count(program.computations["main.1"][2]) == 24


def test_the_compilers_own_count_goes_first():
  known = 'body=%body, backend_config={"known_trip_count":{"n":"7"}}'
  program = HloText.parse(PROGRAM.replace("body=%body", known))
  assert program.trip_count(program.computations["main.1"][2]) == 7


@pytest.mark.parametrize("direction", ["GT", "NE"])
def test_other_conditions_leave_the_count_unknown(direction):
  program = HloText.parse(
    PROGRAM.replace("direction=LT", f"direction={direction}")
  )
  assert program.trip_count(program.computations["main.1"][2]) is None


def test_a_limit_that_is_computed_leaves_the_count_unknown():
  program = HloText.parse(PROGRAM.replace("constant(24)", "parameter(1)"))
  assert program.trip_count(program.computations["main.1"][2]) is None


def test_all_branches_and_calls_are_callees():
  line = "  %c = f32[8] conditional(%p, %x, %x), branch_computations={%b1, %b2}"
  text = PROGRAM.replace("  %r = f32[] reduce", f"{line}\n  %r = f32[] reduce")
  assert HloText.parse(text).computations["main.1"][1].callees == ["b1", "b2"]


@pytest.mark.parametrize(
  ("text", "size"),
  [
    ("f32[8]{0:T(8)S(1)}", 32),
    ("bf16[3,128,512]{2,1,0:T(8,128)(2,1)}", 3 * 128 * 512 * 2),
    ("(f32[2]{0}, /*index=1*/s32[], pred[5])", 8 + 4 + 5),
    ("s4[3]", 2),
    ("f8e4m3fn[10]", 10),
    ("u32[]", 4),
    ("()", 0),
  ],
)
def test_bytes_of_types(text, size):
  assert type_bytes(text) == size


def test_text_without_an_entry_is_refused():
  with pytest.raises(ValueError, match="no ENTRY computation"):
    HloText.parse("module @jit_f {}")


def test_what_this_jax_compiles_can_be_read():
  def loop(x):
    return jax.lax.scan(lambda y, _: (jnp.sin(y @ y), None), x, None, 5)[0]

  text = jax.jit(loop).lower(jnp.ones((4, 4))).compile().as_text()
  program = HloText.parse(text)
  loops = [
    line
    for lines in program.computations.values()
    for line in lines
    if line.opcode == "while"
  ]
  assert [program.trip_count(line) for line in loops] == [5]
