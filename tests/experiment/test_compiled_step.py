"""A program for each shape of the batch and each kind of step."""

import numpy as np
import pytest

from ddit_jax.batch import DualBatch, TextToImageBatch
from ddit_jax.experiment.compiled_step import CompiledStep
from ddit_jax.monitor.start_times import StartTimes
from ddit_jax.train.profile import ProfileWindow
from ddit_jax.train.watchdog import NO_WATCHDOG
from tests import tiny_run

NULL = np.zeros(3, np.int32)


@pytest.fixture
def step(tmp_path):
  return CompiledStep(
    tiny_run.settings(
      train__mask_embedding_steps="2",
      train__log_every="1",
      train__task_norms_every="5",
    ),
    None,
    NULL,
    None,
    watchdog=NO_WATCHDOG,
    times=StartTimes(),
    profile=ProfileWindow(tmp_path, range(0)),
  )


def batch(height, width):
  images = np.zeros((2, height, width, 3), np.uint8)
  tokens = np.zeros((2, 3), np.int32)
  return DualBatch(TextToImageBatch(images, tokens), None)


def test_programs_are_compiled_once_and_run_what_they_were_made_for(
  step, monkeypatch
):
  compiled = []

  def compile_for(self, is_trained, has_task_norms, inputs):
    made_for = (
      is_trained,
      has_task_norms,
      inputs[1].text_to_image.images.shape[1:3],
    )
    compiled.append(made_for)

    def program(state, batch, null_tokens):
      assert null_tokens is NULL
      assert batch.text_to_image.images.shape[1:3] == made_for[2]
      return state + 1, {"made_for": made_for}

    return program

  monkeypatch.setattr(CompiledStep, "_compile", compile_for)
  shapes = [(16, 16), (8, 24), (16, 16), (8, 24), (16, 16), (16, 16)]
  state, ran = 0, []
  for number, shape in enumerate(shapes, 1):
    state, metrics = step(number, state, batch(*shape))
    ran.append(metrics["made_for"])
  # The mask embedding is trained in the first two steps; norms are of step 5.
  want = [(i < 2, i == 4, shape) for i, shape in enumerate(shapes)]
  assert ran == want
  assert compiled == ran[:5] and state == 6
