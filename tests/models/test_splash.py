"""The TPU kernel, interpreted, against float64 loops; and that it compiles."""

import importlib.util
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddit_jax.models.splash import block_size, splash_attention
from tests.models import oracles


def drawn(num_tokens, *, heads=1, head_dim=8, batch=1):
  """Queries, keys, values and the result's gradient, float32."""
  draw = np.random.default_rng(num_tokens)
  shape = (batch, num_tokens, heads, head_dim)
  return [jnp.float32(draw.normal(size=shape)) for _ in range(4)]


def null_image_mask(batch, num_tokens, *, num_image):
  """The first example sees 3 of its image tokens, the others all."""
  mask = np.ones((batch, num_tokens), bool)
  mask[0, 3:num_image] = False
  return mask


@pytest.mark.parametrize(
  ("num_tokens", "batch", "has_mask"),
  [(77, 1, False), (77, 2, True), (128, 2, True), (320, 1, True)],
)
def test_the_kernel_equals_loops_in_float64(num_tokens, batch, has_mask):
  *qkv, pulled = drawn(num_tokens, batch=batch)
  mask = None
  if has_mask:
    mask = null_image_mask(batch, num_tokens, num_image=num_tokens - 13)
  want, want_gradients = oracles.attention_and_gradients(
    *(np.asarray(x, np.float64) for x in qkv),
    mask,
    np.asarray(pulled, np.float64),
  )

  @jax.jit
  def run(qkv):
    out, pull = jax.vjp(
      lambda q, k, v: splash_attention(
        *(q, k, v),
        key_mask=None if mask is None else jnp.asarray(mask),
        is_interpreted=True,
      ),
      *qkv,
    )
    return out, pull(pulled)

  out, gradients = run(qkv)
  # Rounding of float32 sums.
  np.testing.assert_allclose(out, want, atol=1e-5)
  for ours, theirs in zip(gradients, want_gradients, strict=True):
    np.testing.assert_allclose(ours, theirs, atol=4e-5)


@pytest.mark.parametrize(
  ("num_tokens", "block"),
  # 320 joint tokens are padded to 384, the 1,280 of stage 2b not at all, the
  # 4,352 of 1,024 pixels to 4,480.
  [(1, 128), (128, 128), (320, 384), (1088, 384), (1280, 640), (4352, 640)],
)
def test_blocks_are_large_but_pad_little(num_tokens, block):
  assert block_size(num_tokens) == block


_COMPILE = """
import jax, jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import AxisType
from ddit_jax.models.config import MMDiTConfig
from ddit_jax.models.joint_block import JointBlock
from ddit_jax.sharding.mesh import MeshConfig

devices = topologies.get_topology_desc(
  topology_name="v5e:2x2", platform="tpu"
).devices
config = MMDiTConfig(
  depth=1, width=256, num_heads=4, context_dim=8, vocab_size=0, max_grid=32
)
block = JointBlock(config, True, jnp.bfloat16, "auto")
image = jax.ShapeDtypeStruct((4, 1024, 256), jnp.bfloat16)
text = jax.ShapeDtypeStruct((4, 77, 256), jnp.bfloat16)
vector = jax.ShapeDtypeStruct((4, 256), jnp.bfloat16)
mask = jax.ShapeDtypeStruct((4, 1101), jnp.bool_)
boxed = jax.eval_shape(block.init, jax.random.key(0), (image, text), vector)

def loss(params, streams, vector, mask):
  (image, text), _ = block.apply({"params": params}, streams, vector, mask)
  return image.astype(jnp.float32).sum() + text.astype(jnp.float32).sum()

import flax.linen as nn
params = nn.unbox(boxed)["params"]
with jax.set_mesh(MeshConfig(fsdp=2, tensor=2).make(devices)):
  lowered = jax.jit(jax.grad(loss)).trace(
    params, (image, text), vector, mask
  ).lower(lowering_platforms=("tpu",))
  text = lowered.compile().as_text()
for name in ("fwd_segmented", "dkv_segmented"):
  assert f"splash_mha_{name}" in text, name
print("compiled", text.count("tpu_custom_call"))
"""


@pytest.mark.slow
@pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)
def test_a_block_with_the_kernel_compiles_for_a_tpu():
  settings = {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
  result = subprocess.run(
    [sys.executable, "-c", _COMPILE],
    env=os.environ | settings,
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 0, result.stderr
  # One forward kernel, and one for both gradients.
  assert "compiled 2" in result.stdout
