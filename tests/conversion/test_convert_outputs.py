"""Converted networks compute what PyTorch's own classes compute."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from ddit_jax.conversion.record import read_record
from ddit_jax.encoders.clip import clip_text_encoder
from ddit_jax.encoders.t5 import t5_encoder
from ddit_jax.encoders.vae import autoencoder
from ddit_jax.models.module import Network
from tests.conversion import checkpoints
from tests.conversion.checkpoints import float32, stored_arrays


def torch_outputs(model, latents, text, timestep, pooled):
  with torch.no_grad():
    return (
      model(
        hidden_states=torch.tensor(latents.transpose(0, 3, 1, 2)),
        encoder_hidden_states=torch.tensor(text),
        pooled_projections=torch.tensor(pooled),
        timestep=torch.tensor(timestep),
        return_dict=False,
      )[0]
      .numpy()
      .transpose(0, 2, 3, 1)
    )


@pytest.fixture(scope="module")
def inputs():
  rng = np.random.default_rng(0)
  shapes = ((2, 8, 12, 16), (2, 5, 32), (2, 192))
  latents, text, pooled = (
    rng.normal(size=s).astype(np.float32) for s in shapes
  )
  return latents, text, pooled, np.array([0.31, 0.87], np.float32)


@pytest.fixture(scope="module")
def sd3_velocity(converted, inputs):
  """Our velocity of the converted SD3, with and without the pooled vector."""
  latents, text, pooled, sigma = map(jnp.asarray, inputs)
  network = Network(read_record(converted / "a_sd3").configs["network"])
  variables = float32(stored_arrays(converted / "a_sd3", "network"))
  with jax.default_matmul_precision("highest"):
    return [
      np.asarray(network.apply(variables, latents, text, sigma, p).velocity)
      for p in (pooled, None)
    ]


def test_sd3_velocity_is_that_of_diffusers(sd3_velocity, sd3_folder, inputs):
  latents, text, pooled, sigma = inputs
  model = type(checkpoints.sd3_transformer()).from_pretrained(
    sd3_folder / "transformer", torch_dtype=torch.float32
  )
  expected = torch_outputs(model, latents, text, 1000 * sigma, pooled)
  # Measured 3e-6 at outputs up to 1.3; sin(1000 sigma) is float32 in both.
  np.testing.assert_allclose(sd3_velocity[0], expected, atol=5e-5)


def test_ddit_starts_with_sd3s_velocity(converted, sd3_velocity, inputs):
  latents, text, _, sigma = map(jnp.asarray, inputs)
  network = Network(read_record(converted / "a_ddit").configs["network"])
  variables = float32(stored_arrays(converted / "a_ddit", "network"))
  found = network.apply(variables, latents, text, sigma)
  # Equal but for the order of sums: measured 1e-6.
  np.testing.assert_allclose(found.velocity, sd3_velocity[1], atol=1e-5)
  assert np.abs(sd3_velocity[0] - sd3_velocity[1]).max() > 0.01
  assert found.logits.shape == (2, 5, checkpoints.VOCABULARY)
  assert np.isfinite(found.logits).all() and np.ptp(found.logits) > 0


def test_encoders_are_those_of_pytorch(converted, sd3_folder):
  folder = converted / "a_sd3"
  configs = read_record(folder).configs
  ids = np.array([[3, 1, 19, 0], [5, 6, 7, 19]])
  with torch.no_grad():
    t5 = checkpoints.t5_encoder().half().float()(torch.tensor(ids % 16))[0]
    vae = checkpoints.autoencoder().half().float()
    pixels = np.random.default_rng(1).uniform(-1, 1, (1, 16, 8, 3))
    pixels = pixels.astype(np.float32)
    latents = np.random.default_rng(2).normal(size=(1, 4, 2, 16))
    latents = latents.astype(np.float32)
    # SD3's published scale and shift of the network's latents.
    stored = torch.tensor(latents.transpose(0, 3, 1, 2)) / 1.5305 + 0.0609
    decoded = vae.decode(stored).sample
    moments = vae.encode(torch.tensor(pixels.transpose(0, 3, 1, 2))).latent_dist
  found = t5_encoder(configs["text_encoder"]).apply(
    float32(stored_arrays(folder, "text_encoder")), jnp.asarray(ids % 16)
  )
  np.testing.assert_allclose(found, t5.numpy(), atol=2e-5)
  for name, width in (("clip_l", 64), ("clip_g", 128)):
    model = checkpoints.clip_encoder(width).half().float()
    with torch.no_grad():
      pooled = model(torch.tensor(ids)).text_embeds.numpy()
    clip = clip_text_encoder(configs[name])
    ours = clip.apply(
      float32(stored_arrays(folder, name)), jnp.asarray(ids)
    ).pooled
    np.testing.assert_allclose(ours, pooled, atol=2e-5)
  variables = float32(stored_arrays(folder, "vae"))
  network = autoencoder(configs["vae"])
  posterior = network.apply(variables, jnp.asarray(pixels), method="encode")
  expected = moments.mean.numpy().transpose(0, 2, 3, 1)
  np.testing.assert_allclose(posterior.mean, expected, atol=2e-5)
  images = network.apply(variables, jnp.asarray(latents), method="decode")
  expected = decoded.numpy().transpose(0, 2, 3, 1)
  np.testing.assert_allclose(images, expected, atol=2e-5)
