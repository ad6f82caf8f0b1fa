"""Attention kernels of TPUs: against float64 loops, and that they compile."""

import importlib.util
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import oracles

_COMPILE = """
import sys

import jax, jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import AxisType
from ddit_jax.models.config import MMDiTConfig
from ddit_jax.models.joint_block import JointBlock
from ddit_jax.sharding.mesh import MeshConfig

num_image, num_text = map(int, sys.argv[1:3])
names = sys.argv[3:]
devices = topologies.get_topology_desc(
  topology_name="v5e:2x2", platform="tpu"
).devices
config = MMDiTConfig(
  depth=1, width=256, num_heads=4, context_dim=8, vocab_size=0, max_grid=32
)
block = JointBlock(config, True, jnp.bfloat16, "auto")
image = jax.ShapeDtypeStruct((4, num_image, 256), jnp.bfloat16)
text = jax.ShapeDtypeStruct((4, num_text, 256), jnp.bfloat16)
vector = jax.ShapeDtypeStruct((4, 256), jnp.bfloat16)
mask = jax.ShapeDtypeStruct((4, num_image + num_text), jnp.bool_)
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
for name in names:
  assert name in text, name
assert text.count("tpu_custom_call") == len(names)
"""


def needs_tpu_compiler(test):
  """Marks a test that compiles for a TPU."""
  has_compiler = importlib.util.find_spec("libtpu") is not None
  skip = pytest.mark.skipif(not has_compiler, reason="libtpu is not installed")
  return pytest.mark.slow(skip(test))


def assert_block_compiles(num_image, num_text, kernels):
  """A block of these tokens compiles for v5e with exactly these kernels."""
  settings = {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
  arguments = [str(num_image), str(num_text), *kernels]
  result = subprocess.run(
    [sys.executable, "-c", _COMPILE, *arguments],
    env=os.environ | settings,
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 0, result.stderr


def check_kernel(
  attention, num_tokens, *, heads=1, head_dim=8, batch=1, has_mask=False
):
  """Interpreted, its result and gradients equal slow loops."""
  draw = np.random.default_rng(num_tokens)
  shape = (batch, num_tokens, heads, head_dim)
  *qkv, pulled = (jnp.float32(draw.normal(size=shape)) for _ in range(4))
  mask = None
  if has_mask:
    # The first example sees 3 of its image tokens, the others all.
    mask = np.ones((batch, num_tokens), bool)
    mask[0, 3 : num_tokens - 13] = False
  want, want_gradients = oracles.attention_and_gradients(
    *(np.asarray(x, np.float64) for x in qkv),
    mask,
    np.asarray(pulled, np.float64),
  )

  @jax.jit
  def run(qkv):
    out, pull = jax.vjp(
      lambda q, k, v: attention(
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
