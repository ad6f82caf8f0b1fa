"""DiffusionNFT against its formula on predicted clean latents, in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddit_jax.diffusion.flow_matching import FlowMatching
from ddit_jax.losses.diffusion_nft import DiffusionNft, RewardedImages
from ddit_jax.losses.flow_matching import noisy_images

SHAPE = (4, 2, 2, 3)


def draws():
  rng = np.random.default_rng(0)
  clean, noise, new, old, reference = rng.normal(size=(5, *SHAPE)).astype("f4")
  sigma = np.array([0.2, 0.5, 0.7, 0.9], np.float32)
  share = np.array([0.0, 0.25, 0.5, 1.0], np.float32)
  noisy = noisy_images(
    jnp.asarray(clean),
    jnp.zeros((4, 1), jnp.int32),
    sigma=jnp.asarray(sigma),
    noise=jnp.asarray(noise),
    flow_matching=FlowMatching(),
  )
  scored = RewardedImages(
    noisy=noisy,
    old_velocity=jnp.asarray(old),
    reference_velocity=jnp.asarray(reference),
    optimality=jnp.asarray(share),
  )
  return scored, jnp.asarray(new), (clean, new, old, reference, sigma, share)


def by_hand(arrays, noisy_latents, beta):
  """The paper's loss of each row, one after the other."""
  clean, new, old, reference, sigma, share = (x.astype("f8") for x in arrays)
  policy, distance = [], []
  for i in range(SHAPE[0]):
    rows = []
    for velocity in (
      beta * new[i] + (1 - beta) * old[i],
      (1 + beta) * old[i] - beta * new[i],
    ):
      error = noisy_latents[i] - sigma[i] * velocity - clean[i]
      rows.append((error**2).mean() / np.abs(error).mean())
    policy.append(share[i] * rows[0] + (1 - share[i]) * rows[1])
    distance.append(((new[i] - reference[i]) ** 2).mean())
  return np.mean(policy), np.mean(distance)


@pytest.mark.parametrize("beta", [1.0, 0.3])
def test_the_loss_is_that_of_the_formula(beta):
  scored, new, arrays = draws()
  losses = DiffusionNft(beta=beta).losses(new, scored)
  policy, distance = by_hand(
    arrays, np.asarray(scored.noisy.latents, "f8"), beta
  )
  # Float32 against float64: 1e-7 measured.
  np.testing.assert_allclose(losses["image"], policy, rtol=1e-6)
  np.testing.assert_allclose(losses["image_kl"], distance, rtol=1e-6)


def test_a_good_image_attracts_the_policy_and_a_bad_one_repels_it():
  scored, _, _ = draws()
  nft = DiffusionNft()

  def loss(velocity, share):
    rows = scored.replace(optimality=jnp.full(4, share))
    return nft.losses(velocity, rows)["image"]

  # At the old policy, where training begins.
  old = scored.old_velocity
  wanted = scored.noisy.velocity - old
  good, middling, bad = (jax.grad(loss)(old, r) for r in (1.0, 0.5, 0.0))
  assert (good * wanted).sum() < 0 < (bad * wanted).sum()
  np.testing.assert_allclose(middling, 0, atol=1e-7)
  np.testing.assert_allclose(good, -bad, atol=1e-7)


def test_optimality_is_a_share():
  found = DiffusionNft(advantage_clip=2.0).optimality(
    jnp.array([-9.0, -2.0, -1.0, 0.0, 1.0, 3.0])
  )
  np.testing.assert_array_equal(found, [0, 0, 0.25, 0.5, 0.75, 1])


@pytest.mark.parametrize(
  ("name", "value"),
  [("beta", 0.0), ("advantage_clip", -1.0), ("kl_weight", -0.1)],
)
def test_bad_settings_are_refused(name, value):
  with pytest.raises(ValueError, match=name):
    DiffusionNft(**{name: value})


def test_without_a_reference_there_is_no_distance_to_it():
  scored, new, _ = draws()
  whole = DiffusionNft().losses(new, scored)
  alone = DiffusionNft().losses(new, scored.replace(reference_velocity=None))
  assert alone == {"image": whole["image"]}
