"""The training step on meshes, with micro-batches and weights gathered once."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from ddit_jax.batch import DualBatch, ImageToTextBatch, TextToImageBatch
from ddit_jax.data.prefetch import to_mesh
from ddit_jax.experiment.model import DualModel
from ddit_jax.losses.dual import DualLoss
from ddit_jax.models.config import size
from ddit_jax.models.module import Network
from ddit_jax.sharding.mesh import MeshConfig
from ddit_jax.train.loop import TrainConfig
from ddit_jax.train.optimizer import OptimizerConfig
from ddit_jax.train.state import init_state, state_shardings
from ddit_jax.train.step import TrainStep, ema_decay

VOCAB, LENGTH, BATCH, STEPS = 12, 6, 32, 5
NETWORK = Network(
  dataclasses.replace(
    size("tiny", vocab_size=VOCAB, max_text_length=LENGTH), depth=2, width=32
  )
)
# Epsilon far above the gradients' rounding: with the usual 1e-8 the first
# Adam steps divide rounding by itself where a gradient is nearly zero.
SETTINGS = OptimizerConfig(
  ema_decay=0.9, learning_rate=1e-3, warmup_steps=2, epsilon=1e-3, clip_norm=1.0
)
MESHES = {
  "one_device": {},
  "replica_8": {"replica": 8, "fsdp": 1},
  "fsdp_8": {"fsdp": 8},
  "fsdp_4_tensor_2": {"fsdp": 4, "tensor": 2},
  "fsdp_2_context_2_tensor_2": {"fsdp": 2, "context": 2, "tensor": 2},
}
# What `make test` runs of all meshes, micro-batches and ways to gather.
FAST = {
  ("fsdp_2_context_2_tensor_2", 4, "per_use"),
  ("fsdp_4_tensor_2", 4, "once"),
}


def host_batch(step: int) -> DualBatch:
  draw = np.random.default_rng(step)
  images = draw.integers(0, 256, (2, BATCH, 8, 8, 3), dtype=np.uint8)
  tokens = draw.integers(0, VOCAB - 1, (2, BATCH, LENGTH)).astype(np.int32)
  loss_mask = np.broadcast_to(np.arange(LENGTH) >= 2, (BATCH, LENGTH))
  return DualBatch(
    TextToImageBatch(images[0], tokens[0]),
    ImageToTextBatch(images[1], tokens[1], np.array(loss_mask)),
  )


def train_step(num_microbatches: int, gathering: str) -> TrainStep:
  loss = DualLoss(
    text_weight=0.5,
    loss_normalization="target_positions",
  )
  return TrainStep(
    model=DualModel(network=NETWORK, mask_id=VOCAB - 1),
    loss=loss,
    optimizer=SETTINGS,
    train=TrainConfig(
      num_steps=STEPS,
      num_microbatches=num_microbatches,
      weight_gathering=gathering,
    ),
    seed=0,
  )


@functools.cache
def fresh_state():
  """As numpy; each mesh gets a copy that its step may donate."""
  create = functools.partial(init_state, NETWORK, SETTINGS.make(STEPS))
  return jax.device_get(jax.jit(create)(jax.random.key(0)))


@functools.cache
def five_steps(mesh_name: str, num_microbatches: int, gathering: str):
  """(losses of each step, final state as numpy)."""
  sizes = MESHES[mesh_name]
  devices = jax.devices()[: 8 if sizes else 1]
  mesh = MeshConfig(**sizes).make(devices)
  optimizer = SETTINGS.make(STEPS)
  with jax.set_mesh(mesh):
    layout = state_shardings(NETWORK, optimizer, mesh)
    state = jax.device_put(fresh_state(), layout)
    step = jax.jit(
      train_step(num_microbatches, gathering),
      donate_argnums=0,
      out_shardings=(layout, None),
    )
    losses = []
    for i in range(STEPS):
      batch = to_mesh(host_batch(i), mesh)
      state, metrics = step(state, batch, jnp.ones(LENGTH, jnp.int32))
      losses.append({k: float(v) for k, v in metrics.items()})
    specs = jax.tree.map(lambda x: x.sharding.spec, state)
    return losses, jax.tree.map(np.asarray, state), specs


def one_device():
  return five_steps("one_device", 1, "per_use")


@pytest.mark.parametrize(
  ("mesh_name", "num_microbatches", "gathering"),
  [
    pytest.param(*run, marks=() if run in FAST else pytest.mark.slow)
    for run in itertools.product(MESHES, (1, 4), ("per_use", "once"))
  ],
)
def test_every_mesh_and_split_gives_the_same_run(
  mesh_name, num_microbatches, gathering
):
  want_losses, want, _ = one_device()
  losses, got, _ = five_steps(mesh_name, num_microbatches, gathering)
  for mine, theirs in zip(losses, want_losses, strict=True):
    for name in theirs:
      # Largest relative error measured: 3.3e-7.
      np.testing.assert_allclose(mine[name], theirs[name], rtol=2e-6)
  for trees in ((got.params, want.params), (got.ema, want.ema)):
    for mine, theirs in zip(*map(jax.tree.leaves, trees), strict=True):
      # Largest absolute error measured: 3e-8, after changes up to 3.2e-3.
      np.testing.assert_allclose(mine, theirs, atol=5e-7)


def test_the_run_did_learn_something():
  """Else equal parameters would prove nothing."""
  losses, state, _ = one_device()
  changes = jax.tree.map(
    lambda a, b: np.abs(a - b).max(), state.params, fresh_state().params
  )
  assert max(jax.tree.leaves(changes)) > 1e-3
  assert int(state.step) == STEPS
  assert len({loss["loss/total"] for loss in losses}) == STEPS


def test_moments_lie_where_their_parameters_lie():
  _, _, specs = five_steps("fsdp_2_context_2_tensor_2", 4, "per_use")
  kernel = specs.params["blocks"]["image"]["mlp"]["in"]["kernel"]
  assert kernel == PartitionSpec(None, "fsdp", "tensor")
  moments = optax.tree.get(specs.opt_state, "mu")
  assert moments["blocks"]["image"]["mlp"]["in"]["kernel"] == kernel
  assert jax.tree.leaves(moments) == jax.tree.leaves(specs.params)


def test_the_average_starts_quickly_and_ends_slow():
  steps = jnp.asarray([0, 10, 1000])
  np.testing.assert_allclose(
    ema_decay(0.9, steps), [1 / 10, 11 / 20, 0.9], rtol=1e-6
  )


def test_the_null_image_is_neither_trained_nor_decayed():
  _, state, _ = one_device()
  fresh = fresh_state().params["null_image"]
  # At most one rounding apart; decay would have moved it by 5e-6.
  np.testing.assert_allclose(state.params["null_image"], fresh, atol=1e-7)
