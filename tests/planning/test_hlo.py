"""HLO text of programs by hand and by this JAX."""

import jax
import jax.numpy as jnp
import pytest

from ddit_jax.planning.hlo import HloText, type_bytes

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


def test_an_attribute_with_lines_of_its_own_ends_no_computation():
  kernel = """\
  %k = f32[8]{0} custom-call(%x), frontend_attributes={kernel_metadata={
"xprof_metadata":"{\\"block\\": 640}"
}}, metadata={op_name="k" stack_frame_id=7}
"""
  text = PROGRAM.replace("  %w = ", f"{kernel}  %w = ")
  found = HloText.parse(text).computations
  plain = HloText.parse(PROGRAM).computations
  assert len(found["main.1"]) == len(plain["main.1"]) + 1
  assert [line.name for line in found["main.1"][-3:]] == ["k", "w", "out"]
  assert found["main.1"][-3].rest.endswith("stack_frame_id=7}")
  assert found["body"] == plain["body"]


def test_a_loop_turns_as_often_as_its_condition_says():
  program = HloText.parse(PROGRAM)
  assert program.trip_count(program.computations["main.1"][2]) == 24


def test_a_loop_may_count_in_twos():
  """As those that the compiler makes of a product and a gather."""
  counting = """\
  %two = u32[] constant(2)
  %i = u32[] get-tuple-element(%q), index=0
  %kept = u32[]{:S(6)} copy(%i)
  %next = u32[] add(%kept, %two)
  %stored = u32[] copy(%next)
  ROOT %t = (u32[], /*index=1*/f32[8]) tuple(%stored, %q)
"""
  text = PROGRAM.replace(
    "  ROOT %t = (s32[], /*index=1*/f32[8]) tuple(%q, %q)\n", counting
  )
  program = HloText.parse(text.replace("s32[]", "u32[]"))
  assert program.trip_count(program.computations["main.1"][2]) == 12


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
    ("(f32[2], u32[], token[])", 12),
  ],
)
def test_bytes_of_types(text, size):
  assert type_bytes(text) == size


def test_text_without_an_entry_is_refused():
  with pytest.raises(ValueError, match="no ENTRY computation"):
    HloText.parse("module @jit_f {}")


def test_a_program_of_one_device_runs_its_loop_five_times():
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


def test_the_schedule_repeats_the_bodies_of_loops():
  program = HloText.parse(PROGRAM)
  runs = {one.line.name: one.runs for one in program.schedule}
  assert (runs["w"], runs["t"], runs["out"]) == (1, 24, 1)
  chains = {one.line.name: one.chain for one in program.schedule}
  assert chains["t"] == ("w",)
  # The scalar addition of a reduction is no line of the schedule.
  assert "sum" not in runs


def test_cycles_are_the_compilers():
  config = 'index=1, backend_config={"estimated_cycles":"4521"}'
  program = HloText.parse(PROGRAM.replace("index=1\n}", f"{config}\n}}"))
  assert [one.line.cycles for one in program.schedule][-1] == 4521
  assert program.has_cycles
  assert not HloText.parse(PROGRAM).has_cycles


TABLES = """\
FileNames
1 "/home/x/ddit_jax/train/step.py"
2 "/usr/lib/flax/linear.py"

FunctionNames
1 "TrainStep.update"
2 "Dense.__call__"

FileLocations
1 {file_name_id=1 function_name_id=1 line=90 end_line=90 column=1 end_column=2}
2 {file_name_id=2 function_name_id=2 line=7 end_line=7 column=1 end_column=2}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=2}

"""


def test_a_line_of_the_package_is_named():
  text = PROGRAM.replace('{op_name="x"}', '{op_name="x" stack_frame_id=2}')
  program = HloText.parse(text.replace("%add (a", TABLES + "%add (a", 1))
  line = program.computations["main.1"][0]
  assert [(f.function, f.line) for f in program.frames(line)] == [
    ("Dense.__call__", 7),
    ("TrainStep.update", 90),
  ]
  assert program.source(line) == "ddit_jax/train/step.py:90"
  assert program.source(program.computations["main.1"][3]) == ""


def test_a_fusion_has_the_line_of_its_contents():
  def f(x):
    return jnp.sin(x) * 2 + jnp.cos(x)

  text = jax.jit(f).lower(jnp.ones(64)).compile().as_text()
  program = HloText.parse(text)
  files = {
    frame.file
    for one in program.schedule
    for line in (one.line, *(x for _, x in program.inside(one.line)))
    for frame in program.frames(line)
  }
  assert __file__ in files
