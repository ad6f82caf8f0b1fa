"""What rows are made of."""

from ddit_jax.conversion.rows import FreshRow, LeftOver, Row, qkv_rows


def test_qkv_rows_are_the_three_parts_of_one_array():
  assert qkv_rows("text/qkv", "a", "b", "c") == (
    Row("text/qkv", "a", "heads", {"q": 0}),
    Row("text/qkv", "b", "heads", {"q": 1}),
    Row("text/qkv", "c", "heads", {"q": 2}),
  )


def test_rows_stand_for_all_of_an_array_unless_told():
  assert Row("a", "b", "linear").part == {}
  assert FreshRow("a", "zeros", "io").part == {}
  assert LeftOver("*", "why").twin == ""
