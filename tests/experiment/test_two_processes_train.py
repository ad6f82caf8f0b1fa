"""One training job of two real processes against the same job of one."""

import numpy as np
import pytest

from tests import tiny_run


def run_together(workdir, *, count: int, num_steps: int) -> None:
  """Eight devices in all."""
  flags = tiny_run.flags(
    train__num_steps=str(num_steps),
    train__sample_grid_size="2",
    train__validate_every="2",
    optimizer__decay="constant",
  )
  tiny_run.ddit_together("train", f"--workdir={workdir}", *flags, count=count)


@pytest.mark.slow
def test_two_processes_train_and_resume_as_one_does(tmp_path):
  alone, together = tmp_path / "alone", tmp_path / "together"
  run_together(alone, count=1, num_steps=4)
  run_together(together, count=2, num_steps=2)
  run_together(together, count=2, num_steps=4)
  want = tiny_run.stored_arrays(alone, 4)
  got = tiny_run.stored_arrays(together, 4)
  assert got.keys() == want.keys()
  for name, array in want.items():
    # Sums over processes are added in another order: 7.0e-7 at most.
    np.testing.assert_allclose(got[name], array, rtol=0, atol=1e-5)
  assert tiny_run.data_position(together, 4) == tiny_run.data_position(alone, 4)
  # Once each, though two processes logged them.
  steps = [
    step
    for step, name, _ in tiny_run.logged_losses(together)
    if name == "loss/total"
  ]
  assert steps == [1, 2, 3, 4]
  assert len(list((together / "images" / "generated_images").iterdir())) == 2
