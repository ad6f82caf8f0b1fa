"""Operations and bytes of instructions, counted by hand."""

import pytest

from ddit_jax.planning.chips import Chip
from ddit_jax.planning.hlo import HloText
from ddit_jax.planning.roofline import product_flops, program_flops, with_cycles

CHIP = Chip(peak_flops=1e6, source="", clock_hz=1e3, hbm_rate=1e4)


def product(out, left, right, window, labels):
  text = f"""\
HloModule f

ENTRY %main (a: f32[1]) -> f32[1] {{
  %a = bf16[{left}]{{1,0}} parameter(0)
  %b = bf16[{right}]{{1,0}} parameter(1)
  ROOT %c = bf16[{out}]{{1,0}} convolution(%a, %b), window={{{window}}}, \
dim_labels={labels}
}}
"""
  program = HloText.parse(text)
  *_, line = program.computations["main"]
  assert line.is_root
  return product_flops(line, program.schedule[-1].types)


@pytest.mark.parametrize(
  ("shapes", "window", "labels", "multiply_adds"),
  [
    # A product of matrices, with and without a dimension beside the rows.
    (("5,7", "5,3", "3,7"), "", "bf_io->bf", 5 * 3 * 7),
    (("4,5,7", "4,5,3", "3,7,1"), "size=1", "0bf_io0->0bf", 4 * 5 * 3 * 7),
    # Four products in a batch: of the four elements under a window one counts.
    (
      ("4,5,7", "4,5,3", "4,7,3"),
      "size=4 stride=3 lhs_dilate=4",
      "0bf_0oi->0bf",
      4 * 5 * 3 * 7,
    ),
    # Two dimensions of the weights, 3 and 6, beside the output's features.
    (
      ("8,4,3,6,2", "8,4,5,1,1", "5,3,6,2,1"),
      "size=1x3x6 pad=0_0x2_2x5_5 rhs_reversal=0x1x1",
      "0bf12_i12o0->0b12f",
      8 * 4 * 5 * 3 * 6 * 2,
    ),
    # 3 x 3 pixels, of which the padding outside the image does not count.
    (
      ("1,4,4,2", "1,4,4,5", "3,3,5,2"),
      "size=3x3 pad=1_1x1_1",
      "b01f_01io->b01f",
      10 * 10 * 5 * 2,
    ),
    (
      ("1,2,2,2", "1,4,4,5", "3,3,5,2"),
      "size=3x3 stride=2x2 pad=0_1x0_1",
      "b01f_01io->b01f",
      5 * 5 * 5 * 2,
    ),
  ],
)
def test_a_product_counts_what_it_multiplies(
  shapes, window, labels, multiply_adds
):
  assert product(*shapes, window, labels) == 2 * multiply_adds


STEP = """\
HloModule step

%layer (p: f32[10,100], q: f32[], r: f32[100]) -> f32[10,100] {
  %p = f32[10,100]{1,0} parameter(0)
  %q = s32[] parameter(1)
  %r = f32[100]{0} parameter(2)
  %row = f32[1,100]{1,0} dynamic-slice(%p, %q, %q), dynamic_slice_sizes={1,100}
  %flat = f32[100]{0} bitcast(%row)
  %sum = f32[100]{0} add(%flat, %r)
  %back = f32[1,100]{1,0} bitcast(%sum)
  ROOT %new = f32[10,100]{1,0} dynamic-update-slice(%p, %back, %q, %q)
}

%product (p: f32[1,100], q: f32[100,100]) -> f32[1,100] {
  %p = f32[1,100]{1,0} parameter(0)
  %q = f32[100,100]{1,0} parameter(1)
  ROOT %d = f32[1,100]{1,0} convolution(%p, %q), dim_labels=bf_io->bf
}

ENTRY %main (x: f32[10,100]) -> f32[10,100] {
  %x = f32[10,100]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %near = f32[100]{0:S(1)} parameter(2)
  %w = f32[100,100]{1,0:S(1)} parameter(3)
  %updated = f32[10,100]{1,0} fusion(%x, %i, %near), kind=kLoop, calls=%layer
  %copied = f32[10,100]{1,0} copy(%updated)
  %v = f32[1,100]{1,0:S(1)} copy(%near)
  %dense = f32[1,100]{1,0} fusion(%v, %w), kind=kOutput, calls=%product
  %sum = f32[10,100]{1,0} all-reduce(%copied), replica_groups={{0,1}}
  ROOT %end = f32[10,100]{1,0} bitcast(%sum)
}
"""


def test_cycles_follow_the_longer_of_operations_and_bytes():
  program = with_cycles(HloText.parse(STEP), CHIP)
  cycles = {one.line.name: one.line.cycles for one in program.schedule}
  # 1,000 cycles a second, 10,000 bytes a second of which 25 % are reached.
  row, whole = 400, 4000
  of_bytes = {
    # One row of ten is read and written; what is in fast memory costs nothing.
    "updated": row + row + 4,
    "copied": 2 * whole,
  }
  for name, moved in of_bytes.items():
    assert cycles[name] == round(moved / (1e4 * 0.25) * 1e3)
  # 20,000 operations at 74 % of a million a second; 400 bytes take longer.
  assert cycles["dense"] == round(400 / (1e4 * 0.25) * 1e3)
  assert not cycles["v"]
  assert cycles["sum"] is cycles["end"] is cycles["x"] is None


def test_an_estimate_takes_the_place_of_none():
  assert not HloText.parse(STEP).has_cycles
  assert with_cycles(HloText.parse(STEP), CHIP).has_cycles


def test_a_program_multiplies_what_its_loops_repeat():
  program = HloText.parse(STEP)
  assert program_flops(program) == 2 * 100 * 100
  looped = STEP.replace("ENTRY %main", "%main").replace("ROOT %d", "%d")
  looped = looped.replace(
    "bf_io->bf\n}",
    "bf_io->bf\n  ROOT %t = (f32[1,100], f32[100,100]) tuple(%d, %q)\n}",
  )
  looped += """
ENTRY %outer (x: f32[1,100]) -> f32[1,100] {
  %x = (f32[1,100], f32[100,100]) parameter(0)
  ROOT %w = (f32[1,100], f32[100,100]) while(%x), condition=%none, \
body=%product, backend_config={"known_trip_count":{"n":"7"}}
}
"""
  assert program_flops(HloText.parse(looped)) == 7 * 2 * 100 * 100
