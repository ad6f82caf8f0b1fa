"""Attention against three loops and against what must hold exactly."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh

from ddit_jax.errors import InputError
from ddit_jax.models import chunked_attention
from ddit_jax.models.attention import attend, choose_kernel
from tests.models import oracles


def drawn(*shapes, seed=0, scale=1.0):
  draw = np.random.default_rng(seed)
  return [jnp.float32(scale * draw.normal(size=s)) for s in shapes]


@pytest.fixture(params=["xla", "chunked"])
def kernel(request, monkeypatch):
  """A kernel of the CPU; chunks have one or a few of the heads."""
  monkeypatch.setattr(chunked_attention, "_BYTES_OF_CORE", 1)
  monkeypatch.setattr("os.cpu_count", lambda: 2)
  return request.param


@pytest.mark.parametrize("shape", [(2, 5, 3, 4), (1, 7, 1, 8)])
def test_attention_equals_three_loops(shape, kernel):
  query, key, value = drawn(shape, shape, shape)
  want = oracles.attention(*(np.asarray(x, "f8") for x in (query, key, value)))
  # Measured 2e-7.
  got = attend(query, key, value, kernel=kernel)
  np.testing.assert_allclose(got, want, atol=4e-6)


def test_one_key_means_its_value_is_copied():
  query, key, value = drawn((2, 3, 2, 4), (2, 1, 2, 4), (2, 1, 2, 4))
  got = attend(query, key, value)
  np.testing.assert_array_equal(got, np.repeat(value, 3, axis=1))


def test_keys_that_are_none_might_as_well_not_be_there():
  query, key, value = drawn((2, 3, 2, 4), (2, 5, 2, 4), (2, 5, 2, 4))
  key_mask = jnp.array([[True] * 3 + [False] * 2, [True] * 5])
  got = attend(query, key, value, key_mask=key_mask)
  # Measured 1e-7.
  np.testing.assert_allclose(
    got[:1], attend(query[:1], key[:1, :3], value[:1, :3]), atol=2e-6
  )
  np.testing.assert_allclose(
    got[1:], attend(query[1:], key[1:], value[1:]), atol=2e-6
  )


def test_the_order_of_keys_does_not_matter():
  query, key, value = drawn(*[(2, 6, 2, 4)] * 3)
  order = np.random.default_rng(1).permutation(6)
  # Measured 2e-7.
  np.testing.assert_allclose(
    attend(query, key, value),
    attend(query, key[:, order], value[:, order]),
    atol=3e-6,
  )


def test_huge_scores_pick_the_best_key_without_overflow():
  query, key, value = drawn(*[(1, 4, 1, 8)] * 3, scale=1e4)
  best = np.argmax(query[0, :, 0] @ key[0, :, 0].T, axis=-1)
  np.testing.assert_allclose(
    attend(query, key, value)[0, :, 0], value[0, best, 0], rtol=1e-6
  )


def test_half_precision_has_a_float32_softmax(kernel):
  query, key, value = drawn(*[(2, 64, 2, 16)] * 3)
  halves = [jnp.asarray(x, jnp.bfloat16) for x in (query, key, value)]
  got = attend(*halves, kernel=kernel)
  assert got.dtype == jnp.bfloat16
  want = oracles.attention(*(np.asarray(x, np.float64) for x in halves))
  # Measured 0.0027 at values up to 0.7: rounding of the result and of the
  # softmax weights fed to the second product.
  np.testing.assert_allclose(np.asarray(got, np.float64), want, atol=0.015)


@pytest.mark.parametrize("num_tokens", [5, 77])
def test_gradients_equal_loops_in_float64(num_tokens, kernel):
  *qkv, pulled = drawn(*[(2, num_tokens, 2, 4)] * 4)
  mask = np.ones((2, num_tokens), bool)
  mask[0, 1:4] = False

  @jax.jit
  def run(qkv):
    out, pull = jax.vjp(
      lambda q, k, v: attend(
        q, k, v, key_mask=jnp.asarray(mask), kernel=kernel
      ),
      *qkv,
    )
    return out, pull(pulled)

  out, gradients = run(qkv)
  want, want_gradients = oracles.attention_and_gradients(
    *(np.float64(x) for x in qkv), mask, np.float64(pulled)
  )
  # Rounding of float32 sums.
  np.testing.assert_allclose(out, want, atol=4e-6)
  for ours, theirs in zip(gradients, want_gradients, strict=True):
    np.testing.assert_allclose(ours, theirs, atol=6e-6)


def test_chunks_divide_the_heads_and_fit_the_caches(monkeypatch):
  """40 x 40 scores of 4 bytes: 6,400 bytes a head."""
  monkeypatch.setattr("os.cpu_count", lambda: 2)
  for num_bytes, size in ((1, 2), (7_000, 2), (10_000, 3), (20_000, 6)):
    monkeypatch.setattr(chunked_attention, "_BYTES_OF_CORE", num_bytes)
    assert chunked_attention._chunk_size(6, 40 * 40) == size


def chosen(kernel, platform, *, dtype="bfloat16", num_tokens=320, head_dim=64):
  """The kernel on a mesh of devices that are not here."""
  device = AbstractDevice(device_kind="", num_cores=None, platform=platform)
  mesh = AbstractMesh((2,), ("fsdp",), abstract_device=device)
  return choose_kernel(
    kernel,
    num_tokens=num_tokens,
    num_heads=24,
    head_dim=head_dim,
    dtype=dtype,
    mesh=mesh,
  )


@pytest.mark.parametrize(
  ("platform", "options", "kernel"),
  [
    ("cpu", {"num_tokens": 4352}, "chunked"),
    ("cpu", {"num_tokens": 127}, "xla"),
    # 256 pixels with 64 and with 256 tokens of text.
    ("tpu", {}, "single_block"),
    ("tpu", {"num_tokens": 512}, "single_block"),
    ("tpu", {"num_tokens": 512, "dtype": "float32"}, "xla"),
    ("tpu", {"num_tokens": 641}, "xla"),
    # 512 pixels with 128.
    ("tpu", {"num_tokens": 1152}, "splash"),
    ("tpu", {"num_tokens": 1152, "dtype": "float32"}, "splash"),
    ("gpu", {}, "cudnn"),
    ("cuda", {"num_tokens": 4352}, "cudnn"),
    ("gpu", {"dtype": "float32"}, "xla"),
    ("gpu", {"head_dim": 12}, "xla"),
  ],
)
def test_auto_goes_by_platform_length_and_dtype(platform, options, kernel):
  assert chosen("auto", platform, **options) == kernel


@pytest.mark.parametrize(
  ("kernel", "platform", "options", "message"),
  [
    ("splash", "cpu", {}, "'splash' runs on a tpu, not on a cpu: set it to"),
    ("splash", "gpu", {}, "'splash' runs on a tpu, not on a gpu: set it to"),
    ("single_block", "gpu", {}, "'single_block' runs on a tpu, not on a gpu"),
    ("cudnn", "tpu", {}, "'cudnn' runs on a gpu, not on a tpu: set it to"),
    (
      "cudnn",
      "gpu",
      {"dtype": "float32"},
      'not float32 ones of 64: set model.execution.dtype="bfloat16"',
    ),
  ],
)
def test_a_kernel_that_cannot_run_is_refused(
  kernel, platform, options, message
):
  with pytest.raises(InputError, match=re.escape(message)):
    chosen(kernel, platform, **options)


def test_odd_lengths_reach_cudnn_as_even_ones(monkeypatch):
  """No NVIDIA GPU is needed to lower the call, only a version of cuDNN."""
  from jax._src.cudnn import fused_attention_stablehlo as cudnn

  monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91100)
  monkeypatch.setattr(cudnn, "check_compute_capability", lambda _: True)
  monkeypatch.setattr(
    cudnn, "is_cuda_compute_capability_equal", lambda _: False
  )
  monkeypatch.setattr("ddit_jax.models.attention._platform", lambda _: "gpu")
  query = jnp.zeros((2, 333, 4, 64), jnp.bfloat16)
  mask = jnp.ones((2, 333), bool)

  def loss(query):
    out = attend(query, query, query, key_mask=mask, kernel="cudnn")
    assert out.shape == query.shape
    return out.astype(jnp.float32).sum()

  traced = jax.jit(jax.grad(loss)).trace(query)
  text = traced.lower(lowering_platforms=("cuda",)).as_text()
  assert "__cudnn$fmhaScaleBiasSoftmaxBackward" in text
  assert "334x4x64xbf16" in text
