"""The sampling grid that a scheduler's file asks for."""

import numpy as np
import pytest

from ddit_jax.pipelines.load_sd3 import scheduler_sampling
from ddit_jax.sampling.image_sampler import ImageSampling
from tests.pipelines.sd3_files import write_scheduler


def test_the_shift_is_the_files(tmp_path):
  write_scheduler(tmp_path, shift=2.0, num_train_timesteps=500)
  sampling = scheduler_sampling(tmp_path / "scheduler")
  # From 1 to the shifted 1/500, which is shifted once more.
  smallest = 2 / 500 / (1 + 1 / 500)
  want = [1.0, 2 * smallest / (1 + smallest), 0.0]
  np.testing.assert_allclose(sampling.sigmas()[[0, -2, -1]], want, rtol=1e-6)


def test_without_a_file_it_is_sd3s(tmp_path):
  sampling = scheduler_sampling(tmp_path / "scheduler")
  assert sampling == ImageSampling(shift=3.0, num_train_timesteps=1000)
  # Published: the last time before 0 of SD3's grid.
  assert abs(sampling.sigmas()[-2] - 0.0089286) < 5e-8


@pytest.mark.parametrize(
  "fields, message",
  [
    ({"use_dynamic_shifting": True}, "sets use_dynamic_shifting, which"),
    ({"use_karras_sigmas": True, "shift_terminal": 0.1}, "shift_terminal, use"),
    ({"shift": None}, "lacks the field 'shift'"),
    ({"shift": -1.0}, "shift = -1.0, but it must be finite and positive"),
    ({"shift": float("nan")}, "shift = nan, but it must be finite"),
    ({"num_train_timesteps": 0}, "num_train_timesteps = 0, but it must be"),
    ({"num_train_timesteps": float("inf")}, "which is not of type int"),
  ],
)
def test_other_schedules_are_refused(tmp_path, fields, message):
  write_scheduler(tmp_path, **fields)
  with pytest.raises(ValueError, match=message):
    scheduler_sampling(tmp_path / "scheduler")


def test_options_that_are_off_are_no_other_schedule(tmp_path):
  write_scheduler(tmp_path, use_dynamic_shifting=False, shift_terminal=None)
  assert scheduler_sampling(tmp_path / "scheduler").shift == 3.0


def test_a_damaged_file_is_named(tmp_path):
  write_scheduler(tmp_path)
  (tmp_path / "scheduler" / "scheduler_config.json").write_text("{")
  with pytest.raises(ValueError, match=r"scheduler_config\.json is not JSON"):
    scheduler_sampling(tmp_path / "scheduler")
