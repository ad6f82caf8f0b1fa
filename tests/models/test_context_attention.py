"""Joint attention on meshes against float64 loops over the whole sequence."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from ddit_jax.errors import InputError
from ddit_jax.models.attention import choose_kernel, joint_attention
from tests.models import oracles

AXES = ("replica", "fsdp", "context", "tensor")


def mesh_of(**sizes):
  shape = tuple(sizes.get(axis, 1) for axis in AXES)
  return jax.make_mesh(
    shape,
    AXES,
    axis_types=(AxisType.Auto,) * 4,
    devices=jax.devices()[: math.prod(shape)],
  )


def drawn(num_image, num_text, heads):
  """Queries, keys, values and the gradient of the result, of both streams."""
  draw = np.random.default_rng(0)

  def of(tokens):
    shape = (2, tokens, heads, 4)
    return tuple(jnp.float32(draw.normal(size=shape)) for _ in range(4))

  return of(num_image), of(num_text)


def stacked(part):
  return jnp.stack(part[:3], axis=2)


def attended(image, text, kernel="auto", **options):
  """By the kernel that a block would choose on the present mesh."""
  chosen = choose_kernel(
    kernel,
    num_tokens=image.shape[1] + text.shape[1],
    num_heads=text.shape[3],
    head_dim=text.shape[4],
    dtype=text.dtype,
    mesh=jax.sharding.get_abstract_mesh(),
  )
  return joint_attention(image, text, kernel=chosen, **options)


def joint(image, text):
  return [
    np.concatenate(pair, axis=1, dtype=np.float64)
    for pair in zip(image, text, strict=True)
  ]


@pytest.mark.parametrize("has_mask", [False, True])
@pytest.mark.parametrize(
  ("sizes", "tokens", "heads", "kernel"),
  [
    # The two examples are not split.
    pytest.param({"fsdp": 4, "tensor": 2}, (8, 4), 4, "auto", id="no_context"),
    pytest.param({"context": 4}, (8, 4), 4, "auto", id="all_to_all"),
    pytest.param(
      {"fsdp": 2, "context": 2, "tensor": 2}, (9, 5), 4, "auto", id="odd"
    ),
    pytest.param({"context": 4}, (8, 4), 3, "auto", id="ring"),
    pytest.param(
      {"context": 4, "tensor": 2}, (9, 5), 4, "ring", id="ring_odd_tensor"
    ),
  ],
)
def test_every_mesh_equals_loops_in_float64(
  sizes, tokens, heads, kernel, has_mask
):
  image, text = drawn(*tokens, heads)
  mask = None
  if has_mask:
    # Whole blocks of keys are hidden from the first example.
    mask = np.ones((2, sum(tokens)), bool)
    mask[0, 2 : tokens[0]] = False
  *qkv, pulled = joint(image, text)
  want, want_gradients = oracles.attention_and_gradients(*qkv, mask, pulled)

  @jax.jit
  def run(image, text):
    def attend(image, text):
      key_mask = None if mask is None else jnp.asarray(mask)
      return attended(image, text, kernel, key_mask=key_mask)

    out, pull = jax.vjp(attend, stacked(image), stacked(text))
    gradients = pull((image[3], text[3]))
    return out, [tuple(jnp.moveaxis(one, 2, 0)) for one in gradients]

  with jax.set_mesh(mesh_of(**sizes)):
    lowered = run.lower(image, text).as_text()
    out, gradients = run(image, text)
  is_ring = kernel == "ring" or heads == 3
  assert ("collective_permute" in lowered) == is_ring
  is_swapped = sizes.get("context", 1) > 1 and not is_ring
  assert ("all_to_all" in lowered) == is_swapped
  # Rounding of float32 sums.
  np.testing.assert_allclose(np.concatenate(out, axis=1), want, atol=1e-5)
  for ours, theirs in zip(joint(*gradients), want_gradients, strict=True):
    np.testing.assert_allclose(ours, theirs, atol=2e-5)


def test_half_precision_goes_round_the_ring_with_float32_sums():
  image, text = drawn(32, 16, 3)
  image, text = (
    tuple(x.astype(jnp.bfloat16) for x in part[:3]) for part in (image, text)
  )
  with jax.set_mesh(mesh_of(context=4)):
    out = jax.jit(attended)(stacked(image), stacked(text))
  assert {x.dtype for x in out} == {jnp.dtype("bfloat16")}
  got = np.concatenate([np.asarray(x, np.float64) for x in out], axis=1)
  # Rounding of the result and of the weights of the second product.
  np.testing.assert_allclose(
    got, oracles.attention(*joint(image, text)), atol=0.02
  )


@pytest.mark.parametrize(
  ("sizes", "kernel", "message"),
  [
    ({"context": 2}, "xla", r"split over mesh.context = 2, but a device has 3"),
    ({"fsdp": 2}, "ring", r"'ring' needs tokens that are split"),
  ],
)
def test_a_kernel_that_the_mesh_cannot_run_is_refused(sizes, kernel, message):
  image, text = drawn(4, 2, 3)
  with (
    jax.set_mesh(mesh_of(**sizes)),
    pytest.raises(InputError, match=message),
  ):
    attended(stacked(image), stacked(text), kernel)
