"""Programs that equal runs in one test process share.

Of a short run that finds its programs in the compilation cache, tracing,
lowering and loading them again are 12 of its 13 s: JAX forgets them with the
run that asked for them, and here they are kept.
"""

import dataclasses
from collections.abc import Hashable
from typing import Any

import jax
import numpy as np

from ddit_jax.experiment import compiled_step, validation
from ddit_jax.pipelines import on_mesh
from ddit_jax.train.loop import TrainConfig
from ddit_jax.train.step import TrainStep

_jitted = compiled_step.jitted
_init_validator = validation.Validator.__init__
_init_grid = validation._SampleGrid.__init__
_init_on_mesh = on_mesh.ModelOnMesh.__init__
_programs: dict[Hashable, Any] = {}


def share() -> None:
  """Lets all later runs, and pipelines that load them, share programs."""
  compiled_step.jitted = _SharedStep
  validation.Validator.__init__ = _validator_with_shared_losses
  validation._SampleGrid.__init__ = _grid_with_shared_sampler
  on_mesh.ModelOnMesh.__init__ = _model_with_shared_programs


def _layout(tree: Any) -> Hashable:
  """What a program depends on of its inputs and outputs."""
  leaves, structure = jax.tree.flatten(tree)
  parts = [
    leaf
    if isinstance(leaf, jax.sharding.Sharding)
    else (np.shape(leaf), leaf.dtype, getattr(leaf, "sharding", None))
    for leaf in leaves
  ]
  return structure, tuple(parts)


class _SharedStep:
  """As `compiled_step.jitted`, but equal steps are lowered once."""

  def __init__(self, step: Any, shardings: Any):
    self._jitted = _jitted(step, shardings)
    self.trace = self._jitted.trace
    if isinstance(step, TrainStep):
      # All of `train` that is traced.
      names = ("num_steps", "num_microbatches", "weight_gathering")
      used = {name: getattr(step.train, name) for name in names}
      step = dataclasses.replace(step, train=TrainConfig(**used))
    self._key = step, _layout(shardings)

  def lower(self, *inputs: Any) -> "_Lowered":
    optimised = not jax.config.read("jax_disable_most_optimizations")
    key = *self._key, _layout(inputs), optimised
    if key not in _programs:
      _programs[key] = _Lowered(self._jitted.lower(*inputs))
    return _programs[key]


class _Lowered:
  """As `jax.stages.Lowered`, but compiled once for the same options."""

  def __init__(self, lowered: jax.stages.Lowered):
    self._lowered, self._compiled = lowered, {}

  def compile(self, compiler_options: Any) -> jax.stages.Compiled:
    key = repr(compiler_options)
    if key not in self._compiled:
      self._compiled[key] = self._lowered.compile(compiler_options)
    return self._compiled[key]


def _validator_with_shared_losses(
  self, model, loss, null_tokens, batch, writer
):
  _init_validator(self, model, loss, null_tokens, batch, writer)
  key = "validation", model, loss, null_tokens.tobytes()
  self._jitted = _programs.setdefault(key, self._jitted)


def _grid_with_shared_sampler(
  self, model, tokenizer, null_tokens, batch, size, config, writer
):
  _init_grid(self, model, tokenizer, null_tokens, batch, size, config, writer)
  words = tokenizer.mask_id, tokenizer.end_id
  mesh = jax.tree.leaves(batch)[0].sharding.mesh
  key = "grid", model, words, null_tokens.tobytes(), mesh, size, config
  self._sample = _programs.setdefault(key, self._sample)


def _model_with_shared_programs(self, model, variables, mesh):
  _init_on_mesh(self, model, variables, mesh)
  own = {"_model", "_variables", "_mesh"}
  programs = {name: x for name, x in vars(self).items() if name not in own}
  vars(self).update(_programs.setdefault((type(self), model, mesh), programs))
