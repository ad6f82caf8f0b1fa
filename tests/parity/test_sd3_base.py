"""Case i: SD3 from both layouts beside diffusers' network and scheduler."""

import numpy as np
from parity import sd3_base
from parity.golden_set import open_set


def test_velocities_and_samples_are_diffusers_own(golden_folder, checkpoints):
  golden = open_set(golden_folder)
  case = golden.load("i_sd3_original")
  results = sd3_base.outputs(golden, case, checkpoints)
  assert results.keys() == set(case.outputs())
  both = {"sd3_folder", "sd3_single"}
  as_ddit = {f"D-DiT from {name}" for name in both}
  for name, readings in results.items():
    is_without = name.endswith("no_pooled")
    assert readings.keys() == (both | as_ddit if is_without else both)
    for got in readings.values():
      # Measured: 8e-6.
      np.testing.assert_allclose(got, case.arrays[name], atol=1e-4)


def test_the_pooled_vector_matters(golden_folder):
  arrays = open_set(golden_folder).load("i_sd3_original").arrays
  difference = arrays["0/velocity"] - arrays["0/velocity_no_pooled"]
  assert np.abs(difference).max() > 0.01
