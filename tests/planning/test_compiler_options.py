"""Options of the compiler: the table, and what a setting makes of it."""

import pytest

from ddit_jax.planning.chips import CHIPS
from ddit_jax.planning.compiler_options import (
  OPTIONS,
  as_setting,
  check_compiler_knows,
  compiler_options,
)

CHIP = "TPU v6 lite"


def test_the_table_names_known_chips_and_gives_reasons():
  assert set(OPTIONS) <= set(CHIPS)
  for options in OPTIONS.values():
    assert all(len(option.reason) > 40 for option in options)
    names = [option.name for option in options]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("kind", ["cpu", "TPU v5 lite", "Somebody's new chip"])
def test_other_chips_need_none(kind):
  assert compiler_options("chip", kind) == {}


def test_a_setting_replaces_extends_or_drops_the_table():
  table = compiler_options("chip", CHIP)
  assert table == {option.name: option.value for option in OPTIONS[CHIP]}
  assert compiler_options("none", CHIP) == compiler_options("", CHIP) == {}
  assert compiler_options("a=1, b=true,c=x", CHIP) == {
    "a": 1,
    "b": True,
    "c": "x",
  }
  off = "xla_enable_async_all_gather=false"
  changed = {"xla_enable_async_all_gather": False}
  assert compiler_options(f"chip,{off}", CHIP) == table | changed


@pytest.mark.parametrize("kind", [*OPTIONS, "cpu"])
def test_what_was_used_can_be_asked_for_elsewhere(kind):
  options = compiler_options("chip", kind)
  assert compiler_options(as_setting(options), "another chip") == options


@pytest.mark.parametrize("setting", ["chips", "a=", "=1", "chip,b"])
def test_anything_else_is_refused(setting):
  with pytest.raises(ValueError, match="compiler_options must be chip, none"):
    compiler_options(setting, CHIP)


def test_a_compiler_knows_its_options():
  check_compiler_knows("chip")
  check_compiler_knows("xla_embed_ir_in_executable=true")
  with pytest.raises(ValueError, match="is xla_nonsense=1, but the compiler"):
    check_compiler_knows("xla_nonsense=1")
