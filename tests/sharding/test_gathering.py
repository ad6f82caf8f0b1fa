"""Weights gathered once: the same gradients, and one gather of each weight."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from ddit_jax.planning.collectives import collectives
from ddit_jax.planning.hlo import HloText
from ddit_jax.sharding.gathering import gathered, scattered
from ddit_jax.sharding.mesh import MeshConfig
from ddit_jax.sharding.rules import constrain

LAYERS, WIDTH, BATCH = 3, 64, 16
SPECS = {"kernel": (None, "fsdp", "tensor"), "scale": (None, None)}


def shardings(mesh):
  return {k: NamedSharding(mesh, PartitionSpec(*v)) for k, v in SPECS.items()}


def params():
  draw = np.random.default_rng(0)
  kernel = draw.standard_normal((LAYERS, WIDTH, WIDTH)) / WIDTH**0.5
  scale = 1 + 0.1 * draw.standard_normal((LAYERS, WIDTH))
  return {"kernel": np.float32(kernel), "scale": np.float32(scale)}


def loss_of(weights, x):
  def layer(x, weight):
    x = constrain(x * weight["scale"][None], "batch", None)
    x = jnp.tanh(x @ weight["kernel"].astype(x.dtype))
    return constrain(x, "batch", None), None

  x, _ = jax.lax.scan(layer, x, weights)
  return jnp.square(x).mean()


def gradients(weights, batches, *, layout, is_once: bool):
  """Summed over micro-batches, each of two passes."""
  read = gathered(weights, layout, jnp.float32) if is_once else weights

  def both(weights, pair):
    return loss_of(weights, pair[0]) + loss_of(weights, pair[1])

  def add(total, pair):
    grads = jax.grad(both)(read, pair)
    if is_once:
      grads = scattered(grads, layout)
    return jax.tree.map(jnp.add, total, grads), None

  zeros = jax.tree.map(jnp.zeros_like, weights)
  return jax.lax.scan(add, zeros, batches)[0]


@functools.cache
def compiled(is_once: bool):
  """(compiled gradients, their arguments) on a mesh of two by four."""
  mesh = MeshConfig(replica=2, fsdp=4).make()
  layout = shardings(mesh)
  draw = np.random.default_rng(1)
  shape = (2, 2, BATCH, WIDTH)
  batches = jnp.asarray(draw.standard_normal(shape), jnp.float32)
  split = NamedSharding(mesh, PartitionSpec(None, None, ("replica", "fsdp")))
  arguments = (jax.device_put(params(), layout), jax.device_put(batches, split))
  function = functools.partial(gradients, layout=layout, is_once=is_once)
  with jax.set_mesh(mesh):
    jitted = jax.jit(function, out_shardings=layout)
    return jitted.lower(*arguments).compile(), arguments


def gathers(is_once: bool) -> tuple[int, int]:
  """(runs, bytes) of all gathers."""
  program = HloText.parse(compiled(is_once)[0].as_text())
  found = [x for x in collectives(program) if x.kind == "all-gather"]
  return sum(x.runs for x in found), sum(x.runs * x.bytes for x in found)


def test_the_gradients_are_the_same():
  results = []
  for is_once in (False, True):
    function, arguments = compiled(is_once)
    results.append(jax.tree.map(np.asarray, function(*arguments)))
  per_use, once = results
  for name in SPECS:
    # Measured 0.
    np.testing.assert_allclose(once[name], per_use[name], rtol=1e-6, atol=1e-7)


def test_each_weight_is_gathered_once():
  kernel = 4 * LAYERS * WIDTH * WIDTH
  assert gathers(is_once=True) == (1, kernel)
  # Two micro-batches of two passes, forward and backward.
  assert gathers(is_once=False)[1] == 8 * kernel


def test_copies_stay_split_along_tensor_and_others_are_not_made():
  mesh = MeshConfig(fsdp=4, tensor=2).make()
  layout = shardings(mesh)
  copy = functools.partial(gathered, shardings=layout, dtype=jnp.bfloat16)
  read = jax.jit(copy)(jax.device_put(params(), layout))
  assert (read["kernel"].dtype, read["scale"].dtype) == ("bfloat16", "float32")
  assert read["kernel"].sharding.is_equivalent_to(
    NamedSharding(mesh, PartitionSpec(None, None, "tensor")), 3
  )
  np.testing.assert_array_equal(
    read["kernel"], params()["kernel"].astype(jnp.bfloat16)
  )
  one = MeshConfig().make(jax.devices()[:1])
  same = gathered(params(), shardings(one), jnp.bfloat16)
  assert same["kernel"].dtype == np.float32
