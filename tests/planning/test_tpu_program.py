"""What is read of a compiler that does not end, and how it is ended."""

import os
import pathlib
import threading

import pytest

from ddit_jax.errors import InputError
from ddit_jax.planning import tpu_program as module
from ddit_jax.planning.tpu_program import (
  TpuProgram,
  in_own_process,
  tpu_program,
)

HLO = "HloModule step\n\nENTRY %main (x: f32[]) -> f32[] {\n}\n"
BUFFERS = """\
BufferAssignment:
allocation 0: size 512, thread-local:
 value: <2 add.19 @0> (size=512,offset=0): bf16[]{:T(256)}
allocation 1: size 16, output shape is |bf16[8]|, maybe-live-out:
allocation 2: size 100, parameter 0, shape |bf16[50]| at ShapeIndex {}:
allocation 3: size 40, parameter 1, shape |(f32[2], f32[8])| at ShapeIndex \
{}, maybe-live-out:
allocation 4: size 8, constant:
allocation 5: size 7000, preallocated-temp:
allocation 6: size 4456448, color 1, preallocated-temp:
"""


class Lowered:
  """Of a compiler that writes its program in two parts, then goes on."""

  def __init__(self, ending):
    self.ending = ending

  def compile(self, compiler_options):
    self.options = compiler_options
    folder = compiler_options["xla_dump_to"]
    path = f"{folder}/module_0000.jit_f.after_optimizations"
    with open(f"{path}-buffer-assignment.txt", "w") as file:
      file.write(BUFFERS)
    with open(f"{path}_after_buffer_assignment.txt", "w") as file:
      file.write(HLO[:9])
      file.flush()
      self.ending.wait(0.05)
      file.write(HLO[9:])
    self.ending.wait()


def test_the_program_is_read_while_the_compiler_goes_on(monkeypatch):
  monkeypatch.setattr(module, "_POLL_SECONDS", 0.2)
  ending = threading.Event()
  lowered = Lowered(ending)
  found = tpu_program(lowered, {"an_option": True}, is_quick=True)
  ending.set()
  assert found.as_text() == HLO
  assert lowered.options["an_option"]
  assert not os.path.exists(lowered.options["xla_dump_to"])


def test_a_whole_program_has_its_code_and_the_last_text():
  class Whole:
    generated_code_size_in_bytes = 55

    def compile(self, compiler_options):
      folder = pathlib.Path(compiler_options["xla_dump_to"])
      for name, text in (
        ("after_optimizations-buffer-assignment", BUFFERS),
        ("after_optimizations_after_buffer_assignment", "not this"),
        ("after_codegen", HLO),
      ):
        (folder / f"module_0000.jit_f.{name}.txt").write_text(text)
      return self

    def memory_analysis(self):
      return self

  found = tpu_program(Whole(), {}, is_quick=False)
  assert (found.as_text(), found.generated_code_size_in_bytes) == (HLO, 55)


def test_a_compiler_that_writes_nothing_is_told():
  class Silent:
    def compile(self, compiler_options):
      pass

  with pytest.raises(InputError, match="wrote 0 files"):
    tpu_program(Silent(), {}, is_quick=True)


def test_memory_is_that_of_the_default_space():
  found = TpuProgram.parse(HLO, BUFFERS).memory_analysis()
  assert found.argument_size_in_bytes == 100 + 40
  assert found.output_size_in_bytes - found.alias_size_in_bytes == 16
  assert found.temp_size_in_bytes == 8 + 7000


def test_an_own_process_returns_refuses_or_dies():
  assert in_own_process(divmod, 7, 2) == (3, 1)
  with pytest.raises(InputError, match="--topology=x has no shape"):
    in_own_process(_refuse, "x")
  with pytest.raises(RuntimeError, match="ended with 9"):
    in_own_process(os._exit, 9)
  with pytest.raises(InputError, match="killed by signal 6: it may need more"):
    in_own_process(os.abort)


def _refuse(name):
  raise InputError(f"--topology={name} has no shape")
