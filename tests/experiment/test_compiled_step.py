"""A program for each shape of the batch and each kind of step."""

import numpy as np

from ddit_jax.batch import DualBatch, TextToImageBatch
from ddit_jax.experiment.compiled_step import CompiledStep
from ddit_jax.monitor.start_times import StartTimes
from ddit_jax.train.profile import ProfileWindow
from ddit_jax.train.watchdog import NO_WATCHDOG
from tests import tiny_run

NULL = np.zeros(3, np.int32)


def step_of(folder, watchdog=NO_WATCHDOG, rollouts=None):
  return CompiledStep(
    tiny_run.settings(
      train__mask_embedding_steps="2",
      train__log_every="1",
      train__task_norms_every="5",
    ),
    None,
    NULL,
    None,
    watchdog=watchdog,
    times=StartTimes(),
    profile=ProfileWindow(folder, range(0)),
    rollouts=rollouts,
  )


def batch(height, width):
  images = np.zeros((2, height, width, 3), np.uint8)
  tokens = np.zeros((2, 3), np.int32)
  return DualBatch(TextToImageBatch(images, tokens), None)


def test_programs_are_compiled_once_and_run_what_they_were_made_for(
  tmp_path, monkeypatch
):
  step, compiled = step_of(tmp_path), []

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


class Waits:
  """A watchdog that writes down what the run waits for."""

  def __init__(self):
    self.names = []

  def waits_for(self, what, **_):
    self.names.append(what)


def test_draws_and_rewards_are_a_phase_and_a_wait_of_their_own(
  tmp_path, monkeypatch, caplog
):
  def rollouts(state, batch):
    assert waits.names[-1].startswith("the draws and rewards of step")
    return "scored", {"reward": 1.0}

  waits = Waits()
  step = step_of(tmp_path, waits, rollouts)

  def program(state, scored):
    return state + 1, {"seen": scored}

  monkeypatch.setattr(CompiledStep, "_compile", lambda *_: program)
  with caplog.at_level("INFO"):
    for number in (1, 2):
      _, metrics = step(number, 0, batch(16, 16))
  assert metrics == {"seen": "scored", "reward": 1.0}
  assert waits.names == [
    "the draws and rewards of step 1",
    "step 1",
    "the program of step 1",
    "the draws and rewards of step 2",
    "step 2",
  ]
  phases = [line for line in caplog.messages if "first step after" in line]
  assert len(phases) == 1 and "rollout" in phases[0]
