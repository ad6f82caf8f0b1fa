"""Case c: D-DiT's autoencoder beside diffusers'."""

import diffusers
import numpy as np
import pytest
import torch
from parity import autoencoding
from parity.golden_set import GoldenSetError

from tests.parity.golden_sets import case_of, draws, golden_of


def test_both_ways_through_the_autoencoder(golden_folder, checkpoints):
  draw = draws(5)
  inputs = {
    "vae0_0/image": np.tanh(draw(2, 3, 4, 8)),
    "vae0_0/eps": draw(2, 16, 1, 2),
    "vae0_0/z": draw(2, 16, 1, 2),
  }
  case = case_of("c_vae", inputs, {})
  results = autoencoding.outputs(golden_of(), case, checkpoints)
  model = diffusers.AutoencoderKL.from_pretrained(
    golden_folder / "ckpt/ddit/vae", torch_dtype=torch.float32
  )
  image, noise, z = (torch.tensor(array) for array in inputs.values())
  with torch.no_grad():
    posterior = model.encode(image).latent_dist
    drawn = posterior.mean + posterior.std * noise
    expected = {
      "mean": posterior.mean,
      "logvar": posterior.logvar,
      "latent_mode": (posterior.mean - 0.0609) * 1.5305,
      "latent_sample": (drawn - 0.0609) * 1.5305,
      "decoded": model.decode(z / 1.5305 + 0.0609).sample,
    }
  assert results.keys() == {f"vae0_0/{name}" for name in expected}
  for name, array in expected.items():
    # Measured: 3e-6.
    np.testing.assert_allclose(
      results[f"vae0_0/{name}"]["ddit"], array, rtol=0, atol=3e-5
    )


def test_runs_of_other_autoencoders_are_refused(checkpoints):
  case = case_of("c_vae", {"vae7_0/image": np.zeros((1, 3, 4, 4), "f4")}, {})
  with pytest.raises(GoldenSetError, match="vae7_0 is no vae0_N or vae1_N"):
    autoencoding.outputs(golden_of(), case, checkpoints)
