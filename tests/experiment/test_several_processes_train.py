"""One training job of several real processes against the same job of one."""

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


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
  """The workdir of a run of one process. Not to be changed."""
  workdir = tmp_path_factory.mktemp("alone") / "run"
  run_together(workdir, count=1, num_steps=4)
  return workdir


@pytest.mark.slow
@pytest.mark.parametrize("counts", [(2, 2), (4, 2), (2, 4), (4, 1)])
def test_several_processes_train_and_resume_as_one_does(
  alone, tmp_path, counts
):
  """Also when there are others after the restart than before it."""
  together = tmp_path / "together"
  for num_steps, count in zip((2, 4), counts, strict=True):
    run_together(together, count=count, num_steps=num_steps)
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
