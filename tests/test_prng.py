"""Keys have addresses: apart from each other, and the same on any mesh."""

import itertools
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from ddit_jax.errors import InputError
from ddit_jax.prng import MAX_SEED, key_for, root_key
from ddit_jax.sharding.mesh import MeshConfig

ROOT = jax.random.key(0)
PURPOSES = ("image_time", "image_noise", "text_time", "text_mask")


def data(key) -> tuple[int, ...]:
  return tuple(int(x) for x in jax.random.key_data(key))


def test_every_address_has_a_key_of_its_own():
  addresses = itertools.product(range(3), PURPOSES, range(5))
  keys = {
    data(key_for(jax.random.key(seed), purpose, step))
    for seed, purpose, step in addresses
  }
  assert len(keys) == 3 * 4 * 5


def test_no_two_seeds_share_their_keys(unchecked_shapes):
  assert data(root_key(0)) != data(root_key(MAX_SEED))
  assert data(root_key(np.int64(7))) == data(jax.random.key(7))
  # JAX would take 2**32 for 0 and -1 for 2**32 - 1.
  for seed in (-1, 2**32, 2**64, 1.0, True, "1", None):
    with pytest.raises(InputError, match="seed must be in 0 to 4294967295"):
      root_key(seed)


def threefry(key, count):
  """Threefry-2x32, 20 rounds (Salmon et al. 2011), in plain integers."""
  word = 2**32
  rotations = ((13, 15, 26, 6), (17, 29, 16, 24))
  keys = (*key, key[0] ^ key[1] ^ 0x1BD11BDA)
  x, y = ((c + k) % word for c, k in zip(count, key, strict=True))
  for block in range(5):
    for turn in rotations[block % 2]:
      x = (x + y) % word
      y = x ^ (y << turn | y >> (32 - turn)) % word
    x = (x + keys[(block + 1) % 3]) % word
    y = (y + keys[(block + 2) % 3] + block + 1) % word
  return x, y


def test_an_address_always_gives_the_same_key():
  """So a later release resumes a run with the same noise."""
  # The algorithm's published test vector.
  assert threefry((0, 0), (0, 0)) == (0x6B200159, 0x99BA4EFE)
  purpose = zlib.crc32(b"image_noise")
  by_hand = threefry(threefry((0, 0), (0, purpose)), (0, 7))
  assert data(key_for(ROOT, "image_noise", 7)) == by_hand
  assert by_hand == (3897008147, 904950889)


def test_the_step_is_zero_unless_given():
  assert data(key_for(ROOT, "x")) == data(key_for(ROOT, "x", 0))


def test_a_traced_step_gives_the_same_key():
  traced = jax.jit(lambda step: key_for(ROOT, "text_mask", step))
  for step in (0, 1, 1000):
    assert data(traced(jnp.int32(step))) == data(
      key_for(ROOT, "text_mask", step)
    )


def test_draws_of_two_addresses_are_uncorrelated():
  draws = [
    np.asarray(jax.random.normal(key_for(ROOT, *address), (20_000,)))
    for address in (("a", 0), ("a", 1), ("b", 0), ("b", 1))
  ]
  table = np.corrcoef(draws) - np.eye(4)
  # The standard error of a correlation of 20,000 draws is 0.0071.
  assert np.abs(table).max() < 4 * 0.0071


def test_the_same_noise_whatever_the_mesh():
  def noise(step):
    return jax.random.normal(key_for(ROOT, "image_noise", step), (16, 6))

  want = jax.jit(noise)(jnp.int32(3))
  for sizes, spec in (
    ({"fsdp": 8}, PartitionSpec("fsdp")),
    ({"replica": 2, "fsdp": 4}, PartitionSpec(("replica", "fsdp"))),
    ({"fsdp": 4, "tensor": 2}, PartitionSpec("fsdp", "tensor")),
  ):
    mesh = MeshConfig(**sizes).make()
    spread = jax.jit(noise, out_shardings=NamedSharding(mesh, spec))
    got = spread(jnp.int32(3))
    assert got.addressable_shards[0].data.size < got.size
    np.testing.assert_array_equal(got, want)
