"""Cycles by kind of work, of a program by hand whose sums are obvious."""

from ddit_jax.planning.breakdown import cycles_by_kind, num_kernels
from ddit_jax.planning.hlo import HloText

STEP = "TrainStep.update"
GRADIENTS = "TrainStep.gradients"
# Number of a frame -> (file, function, number of the one outside).
FRAMES = {
  1: ("ddit_jax/train/step.py", STEP, 0),
  2: ("ddit_jax/train/step.py", GRADIENTS, 1),
  3: ("ddit_jax/models/joint_block.py", "Stream.add_results", 2),
  4: ("flax/linen/linear.py", "DenseGeneral.__call__", 3),
  5: ("ddit_jax/models/layers.py", "attend", 3),
  6: ("ddit_jax/losses/dual.py", "DualLoss.losses", 2),
}


def tables():
  rows = {"FileNames": [], "FunctionNames": [], "FileLocations": []}
  stack = []
  for number, (file, function, outside) in FRAMES.items():
    rows["FileNames"].append(f'{number} "{file}"')
    rows["FunctionNames"].append(f'{number} "{function}"')
    rows["FileLocations"].append(
      f"{number} {{file_name_id={number} function_name_id={number} line=7}}"
    )
    parent = outside + 1
    stack.append(
      f"{number} {{file_location_id={number} parent_frame_id={parent}}}"
    )
  rows["StackFrames"] = stack
  return "\n\n".join("\n".join([name, *lines]) for name, lines in rows.items())


def line(name, opcode, cycles, frame, calls=""):
  calls = calls and f", calls=%{calls}"
  return (
    f"  %{name} = f32[8] {opcode}(%x){calls}, "
    f"metadata={{stack_frame_id={frame}}}, "
    f'backend_config={{"window_config":{{"estimated_cycles":"{cycles}"}}}}'
  )


KERNEL = '  %k = f32[8] custom-call(%x), custom_call_target="tpu_custom_call"'
PROGRAM = f"""\
HloModule step

{tables()}

%product (p: f32[8]) -> f32[8] {{
  %p = f32[8] parameter(0)
  ROOT %d = f32[8] convolution(%p, %p)
}}

%cast (p: f32[8]) -> f32[8] {{
  %p = f32[8] parameter(0)
  ROOT %c = f32[8] convert(%p)
}}

%condition (p: f32[8]) -> pred[] {{
  %limit = s32[] constant(24)
  %p = f32[8] parameter(0)
  ROOT %less = pred[] compare(%p, %limit), direction=LT
}}

%body (x: f32[8]) -> f32[8] {{
  %x = f32[8] parameter(0)
{line("linear", "fusion", 100, 4, "product")}
{line("scores", "fusion", 10, 5, "product")}
{line("norm", "multiply", 1, 3)}
{KERNEL}
  ROOT %t = f32[8] copy(%x)
}}

ENTRY %main (x: f32[8]) -> f32[8] {{
  %x = f32[8] parameter(0)
  %w = f32[8] while(%x), condition=%condition, body=%body
{line("loss", "exponential", 3, 6)}
{line("adam", "multiply", 5, 1)}
{line("weights", "fusion", 7, 4, "cast")}
  ROOT %out = f32[8] copy(%x)
}}
"""


def test_each_kind_has_its_cycles():
  assert cycles_by_kind(HloText.parse(PROGRAM)) == {
    "matrix_products": 24 * 100,
    "attention": 24 * 10,
    "norms_and_modulation": 24 * 1,
    "copies": 7,
    "optimizer": 5,
    "other": 3,
  }


def test_kernels_are_counted_apart():
  assert num_kernels(HloText.parse(PROGRAM)) == 24


def test_a_compiler_without_estimates_has_no_breakdown():
  program = HloText.parse(PROGRAM.replace("estimated_cycles", "nothing"))
  assert cycles_by_kind(program) is None
