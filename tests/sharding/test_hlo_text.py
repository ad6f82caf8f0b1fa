"""Reading HLO text, on a program short enough to read oneself."""

import jax
import jax.numpy as jnp
import pytest
from hlo_text import HloText, type_bytes

TEXT = """\
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
  program = HloText.parse(TEXT)
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
  program = HloText.parse(TEXT)
  assert program.trip_count(program.computations["main.1"][2]) == 24


def test_the_compilers_own_count_goes_first():
  known = 'body=%body, backend_config={"known_trip_count":{"n":"7"}}'
  program = HloText.parse(TEXT.replace("body=%body", known))
  assert program.trip_count(program.computations["main.1"][2]) == 7


@pytest.mark.parametrize("direction", ["GT", "NE"])
def test_other_conditions_leave_the_count_unknown(direction):
  program = HloText.parse(
    TEXT.replace("direction=LT", f"direction={direction}")
  )
  assert program.trip_count(program.computations["main.1"][2]) is None


def test_a_limit_that_is_computed_leaves_the_count_unknown():
  program = HloText.parse(TEXT.replace("constant(24)", "parameter(1)"))
  assert program.trip_count(program.computations["main.1"][2]) is None


def test_all_branches_and_calls_are_callees():
  line = "  %c = f32[8] conditional(%p, %x, %x), branch_computations={%b1, %b2}"
  text = TEXT.replace("  %r = f32[] reduce", f"{line}\n  %r = f32[] reduce")
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
