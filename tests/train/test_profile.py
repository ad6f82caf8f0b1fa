"""Traces of the steps that were asked for."""

import jax
import jax.numpy as jnp
import pytest

from ddit_jax.train.loop import TrainConfig
from ddit_jax.train.profile import ProfileWindow, parse_window


def test_the_window_is_two_steps_both_included():
  assert parse_window("10,14") == range(10, 15)
  assert parse_window(" 3, 3") == range(3, 4)
  assert not parse_window("")


@pytest.mark.parametrize(
  "text", ["3", "3,2", "0,2", "1,2,3", "a,b", "1,", "-1,2"]
)
def test_other_windows_are_refused_by_name(text):
  with pytest.raises(ValueError, match=f"^profile_steps .* got '{text}'"):
    TrainConfig(profile_steps=text)


def test_a_trace_of_the_steps_is_written_once(tmp_path):
  double = jax.jit(lambda x: 2 * x)
  window = ProfileWindow(tmp_path, range(2, 4))
  for step in range(1, 6):
    assert (
      window.run(step, lambda step=step: double(jnp.int32(step))) == 2 * step
    )
  [trace] = tmp_path.rglob("*.xplane.pb")
  data = jax.profiler.ProfileData.from_file(str(trace))
  steps = [
    dict(event.stats)["step_num"]
    for plane in data.planes
    for line in plane.lines
    for event in line.events
    if event.name == "train"
  ]
  assert steps == [2, 3]


def test_a_run_that_ends_within_the_window_ends_the_trace(tmp_path):
  window = ProfileWindow(tmp_path, range(2, 99))
  # As after a restart beyond the first step of the window.
  window.run(5, lambda: jnp.ones(()))
  window.close()
  window.close()
  assert len(list(tmp_path.rglob("*.xplane.pb"))) == 1
