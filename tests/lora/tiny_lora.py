"""A tiny network under adapters, in both variants, and its variables."""

import functools

import jax
import numpy as np

from ddit_jax.lora.lora import LoraConfig, LoraNetwork
from ddit_jax.models.config import size
from ddit_jax.models.module import Network

NETWORK = Network(
  size("tiny", depth=2, width=16, num_heads=2, vocab_size=8, max_text_length=4)
)
LORA = LoraConfig(rank=3, alpha=6.0, targets="attention,mlp")
ADAPTED = LoraNetwork(NETWORK, LORA)


@functools.cache
def base():
  """The frozen parameters; no zeros, in which mistakes would hide."""
  params = jax.jit(NETWORK.init)(jax.random.key(0))["params"]
  return noisy(params, 1)


def variables(*, is_trained: bool):
  """Adapters, fresh or as if trained, on `base`."""
  fresh = dict(_fresh())
  if is_trained:
    fresh["params"] = noisy(fresh["params"], 3)
  return fresh | {"base": base()}


@functools.cache
def _fresh():
  return jax.jit(ADAPTED.init)(jax.random.key(2))


def noisy(tree, seed: int):
  """Every array with normal noise of 0.1 added."""
  draw = np.random.default_rng(seed)

  def moved(leaf):
    return leaf + np.float32(0.1) * draw.normal(size=leaf.shape).astype("f4")

  return jax.tree.map(moved, tree)


def inputs(batch: int = 2):
  """(latents, tokens, sigma) of the network."""
  channels = NETWORK.config.latent_channels
  latents = jax.random.normal(jax.random.key(4), (batch, 4, 4, channels))
  tokens = jax.random.randint(jax.random.key(5), (batch, 4), 0, 8)
  sigma = jax.random.uniform(jax.random.key(6), (batch,))
  return latents, tokens, sigma
