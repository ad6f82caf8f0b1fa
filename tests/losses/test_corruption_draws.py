"""Every random draw of a step has its own address and its own law."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from scipy import stats

from ddit_jax.batch import DualBatch, ImageToTextBatch, TextToImageBatch
from ddit_jax.data.pixel_codec import PixelCodec
from ddit_jax.diffusion.flow_matching import FlowMatching
from ddit_jax.diffusion.masked_diffusion import MaskedDiffusion
from ddit_jax.losses import dual, flow_matching, masked_diffusion
from ddit_jax.losses.dual import DualLoss
from ddit_jax.prng import key_for
from ddit_jax.sharding.mesh import MeshConfig

LENGTH, MASK = 6, 8
SPREAD = 0.1


def dual_loss(*, condition_dropout=0.5, flow=None, **settings) -> DualLoss:
  return DualLoss(
    flow_matching=FlowMatching(**(flow or {})),
    masked_diffusion=MaskedDiffusion(**settings),
    text_weight=1.0,
    condition_dropout=condition_dropout,
  )


def first_batch(*, num_images=16, num_texts=16, side=4) -> DualBatch:
  """Both streams' first examples are the same whatever the sizes."""

  def drawn(seed, count):
    draw = np.random.default_rng(seed)
    tokens = draw.integers(2, MASK, (count, LENGTH)).astype(np.int32)
    shape = (count, side, side, 3)
    return draw.integers(0, 256, shape, dtype=np.uint8), tokens

  pixels, tokens = drawn(1, num_texts)
  loss_mask = np.broadcast_to(np.arange(LENGTH) > 0, tokens.shape).copy()
  batch = DualBatch(
    TextToImageBatch(*drawn(0, num_images)),
    ImageToTextBatch(pixels, tokens, loss_mask),
  )
  return jax.tree.map(jnp.asarray, batch)


class NoisyPixels(dual.Model):
  """A posterior around the pixels, as an autoencoder's."""

  mask_id = MASK
  has_mask_embedding = False

  def encode(self, variables, images, key):
    mean = PixelCodec().encode(images)
    return mean + SPREAD * jax.random.normal(key, mean.shape)

  def condition(self, variables, tokens, is_text_clean):
    assert is_text_clean
    return jax.nn.one_hot(tokens, 7)


def corrupt(loss, batch, step=0, seed=0):
  return loss.corrupt(
    batch,
    jax.random.key(seed),
    jnp.int32(step),
    model=NoisyPixels(),
    variables={},
    null_tokens=jnp.ones(LENGTH, jnp.int32),
  )


corrupted = jax.jit(corrupt, static_argnums=0)


def clean_latents(images):
  """x of the straight path, out of its velocity and a point on it."""
  sigma = np.asarray(images.sigma, np.float64)[:, None, None, None]
  return np.asarray(images.latents) - sigma * np.asarray(images.velocity)


def test_the_text_stream_does_not_shift_the_images_draws():
  plain = corrupted(dual_loss(), first_batch()).images
  loss = dual_loss(mask_count="exact", min_time=0.1)
  other = corrupted(loss, first_batch(num_texts=4)).images
  for name in ("latents", "velocity", "sigma", "text"):
    np.testing.assert_array_equal(getattr(other, name), getattr(plain, name))


def test_the_image_stream_does_not_shift_the_texts_draws():
  plain = corrupted(dual_loss(), first_batch()).texts
  flow = {"sigma_grid": "thousand", "sigma_draw": "stratified"}
  loss = dual_loss(flow=flow, condition_dropout=0.0)
  other = corrupted(loss, first_batch(num_images=4)).texts
  for name in ("latents", "tokens", "is_masked", "weight"):
    np.testing.assert_array_equal(getattr(other, name), getattr(plain, name))


@pytest.mark.parametrize("change", [{"step": 1}, {"seed": 1}])
def test_another_step_or_seed_draws_everything_anew(change):
  plain = corrupted(dual_loss(), first_batch())
  other = corrupted(dual_loss(), first_batch(), **change)
  pairs = [
    (clean_latents(other.images), clean_latents(plain.images)),
    (other.images.sigma, plain.images.sigma),
    (other.images.velocity, plain.images.velocity),
    (other.images.text, plain.images.text),
    (other.texts.latents, plain.texts.latents),
    (other.texts.weight, plain.texts.weight),
    (other.texts.is_masked, plain.texts.is_masked),
  ]
  for one, two in pairs:
    assert np.abs(np.asarray(one, "f4") - np.asarray(two, "f4")).max() > 1e-3


def test_seven_draws_have_seven_keys(monkeypatch):
  """No two addresses are alike, and JAX's own checker sees no key reused."""
  keys = []

  def noted(*address):
    keys.append(key_for(*address))
    return keys[-1]

  for module in (dual, flow_matching, masked_diffusion):
    monkeypatch.setattr(module, "key_for", noted)
  with jax.debug_key_reuse(True):
    corrupt(dual_loss(), first_batch())
  assert len({tuple(jax.random.key_data(key).tolist()) for key in keys}) == 7
  assert len(keys) == 7


def test_a_mesh_draws_the_same_corruption():
  loss, batch = dual_loss(), first_batch()
  want = corrupted(loss, batch)
  mesh = MeshConfig(replica=2, fsdp=4).make()
  split = NamedSharding(mesh, PartitionSpec(("replica", "fsdp")))
  with jax.set_mesh(mesh):
    spread = jax.device_put(batch, split)
    on_mesh = jax.jit(corrupt, static_argnums=0, out_shardings=split)
    got = on_mesh(loss, spread)
  assert got.images.latents.addressable_shards[0].data.shape[0] == 2
  for ours, theirs in zip(
    jax.tree.leaves(got), jax.tree.leaves(want), strict=True
  ):
    # Measured 0; another compiler may round differently.
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


def test_noise_is_standard_normal_and_of_each_example():
  batch = first_batch(num_images=256, num_texts=1, side=8)
  images = corrupted(dual_loss(), batch).images
  noise = np.asarray(images.velocity) + clean_latents(images)
  assert stats.kstest(noise.ravel(), "norm").pvalue > 1e-3
  alike = np.corrcoef(noise.reshape(256, -1)) - np.eye(256)
  # Of 192 numbers each: 0.07 is one standard deviation, measured 0.30.
  assert np.abs(alike).max() < 0.5


def test_latents_are_drawn_apart_in_both_streams():
  batch = first_batch(num_images=16, num_texts=16, side=8)
  drawn = corrupted(dual_loss(), batch)
  noises = [
    latents - np.asarray(PixelCodec().encode(pixels))
    for latents, pixels in (
      (clean_latents(drawn.images), batch.text_to_image.images),
      (np.asarray(drawn.texts.latents), batch.image_to_text.images),
    )
  ]
  for noise in noises:
    assert stats.kstest(noise.ravel() / SPREAD, "norm").pvalue > 1e-3
  assert stats.pearsonr(*(x.ravel() for x in noises)).pvalue > 1e-3


def test_noisy_images_do_not_lose_their_caption_more_often():
  batch = first_batch(num_images=5000, num_texts=1, side=1)
  images = corrupted(dual_loss(), batch).images
  is_dropped = (np.asarray(images.text) == 1).all(1)
  sigma = np.asarray(images.sigma)
  result = stats.ks_2samp(sigma[is_dropped], sigma[~is_dropped])
  assert result.pvalue > 1e-3


@pytest.mark.parametrize(("chance", "want"), [(0.0, False), (1.0, True)])
def test_no_caption_or_every_caption_can_be_dropped(chance, want):
  images = corrupted(dual_loss(condition_dropout=chance), first_batch()).images
  is_dropped = (np.asarray(images.text) == 1).all(1)
  assert (is_dropped == want).all()
