"""Images batch by batch over a mesh: jitted calls of the image sampler."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, PyTree, UInt8, UInt32

from ddit_jax.errors import preparing
from ddit_jax.experiment.config import SampleConfig
from ddit_jax.pipelines.on_mesh import ModelOnMesh, in_batches
from ddit_jax.prng import key_for, root_key, row_keys
from ddit_jax.sampling.flow_solvers import SOLVERS, Calls
from ddit_jax.sampling.image_sampler import (
  Edit,
  ImageSampling,
  Inputs,
  Kind,
  PartialImages,
  begin,
  conditioned,
  run_calls,
  sample_latents,
)
from ddit_jax.sampling.step_cache import magnitude_ratios

# (step, time from `num_train_timesteps` to 0, values) -> changed values; see
# `ImagePipeline.text_to_image`.
_OnStepEnd = Callable[[int, float, dict[str, Any]], Mapping[str, Any] | None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageRows:
  """What is drawn, in the model's input format.

  Attributes:
    texts: the prompts.
    null_texts: the empty or negative prompt, one for all or one each.
    indices: of the rows, see `prng.row_keys`.
    images: to change; None draws from noise alone.
    masks: 1 where `images` are drawn anew; None changes all.
  """

  texts: PyTree[Int[np.ndarray, "rows length"]]
  null_texts: PyTree[Int[np.ndarray, "nulls length"]]
  indices: UInt32[np.ndarray, " rows"]
  images: UInt8[np.ndarray, "rows height width 3"] | None = None
  masks: Float32[np.ndarray, "rows height width"] | None = None

  def split(self) -> tuple[dict[str, Any], Any]:
    """(arrays of a row for each image, the null prompt of all or None)."""
    rows = {name: getattr(self, name) for name in _COLUMNS}
    if len(jax.tree.leaves(self.null_texts)[0]) == 1:
      return rows, self.null_texts
    return {**rows, "null_texts": self.null_texts}, None


def _roots(seed: int) -> tuple[jax.Array, jax.Array]:
  """The roots of the noise at the start and at each step."""
  root = root_key(seed)
  return key_for(root, "text_to_image"), key_for(root, "step_noise")


_COLUMNS = ("texts", "indices", "images", "masks")


class MeshImageSampler(ModelOnMesh):
  """The image sampler of one model.

  Compiles once per batch size and config. An image follows from the seed and
  its row's index alone, not from the batch size or the other rows.
  """

  def _jit(self) -> None:
    self._draw = jax.jit(
      self._drawn, static_argnames=("latent_shape", "sampling")
    )
    self._inputs = jax.jit(
      self._inputs_of, static_argnames=("latent_shape", "sampling")
    )
    self._begin = jax.jit(self._begun, static_argnames=("kinds", "sampling"))
    self._advance = jax.jit(
      self._advanced, static_argnames=("kinds", "sampling")
    )
    self._ratios = jax.jit(
      self._ratios_of, static_argnames=("latent_shape", "sampling")
    )
    self._decode = jax.jit(self._model.decode)

  def draw(
    self,
    rows: ImageRows,
    *,
    seed: int,
    size: tuple[int, int],
    config: SampleConfig,
    on_step_end: _OnStepEnd | None = None,
  ) -> UInt8[np.ndarray, "rows height width 3"]:
    """One image per row.

    Args:
      rows: what to draw.
      seed: of the noise.
      size: (height, width) in pixels.
      config: of the image sampler, and the batch size.
      on_step_end: called after each step of each batch, which then runs as a
        program of its own.

    Raises:
      InputError: the size or the settings are incompatible with the network,
        or the seed out of range.
    """
    sampling = config.image
    with preparing():
      latent_shape = self._model.latent_shape(*size)
      sampling.check_depth(self._model.network.config.depth)
      if rows.images is not None:
        sampling.edit_sigmas()
    columns, shared_null = rows.split()
    roots = _roots(seed)
    fixed = {"latent_shape": latent_shape, "sampling": sampling}
    if on_step_end is None:
      draw = functools.partial(
        self._draw, self._variables, shared_null, roots, **fixed
      )
    else:
      draw = functools.partial(
        self._stepwise, shared_null, roots, on_step_end=on_step_end, **fixed
      )
    return in_batches(
      draw, columns, mesh=self._mesh, batch_size=config.batch_size
    )

  def magnitude_ratios(
    self,
    rows: ImageRows,
    *,
    seed: int,
    size: tuple[int, int],
    config: SampleConfig,
  ) -> Float[np.ndarray, " steps"]:
    """See `step_cache.magnitude_ratios`; arguments as `draw` took them."""
    latent_shape = self._model.latent_shape(*size)
    columns, shared_null = rows.split()
    ratios = functools.partial(
      self._ratios,
      self._variables,
      shared_null,
      _roots(seed),
      latent_shape=latent_shape,
      sampling=config.image,
    )
    size = config.batch_size
    return in_batches(ratios, columns, mesh=self._mesh, batch_size=size).mean(
      axis=0
    )

  def decode(
    self, latents: Float[Array, "rows height width channels"]
  ) -> UInt8[Array, "rows height width 3"]:
    """The images of latents."""
    return self._decode(self._variables, latents)

  def _ratios_of(
    self, variables, *given, sampling: ImageSampling, **shape
  ) -> jax.Array:
    """The ratios of the whole batch, once for each row."""
    inputs = self._inputs_of(variables, *given, sampling=sampling, **shape)
    predict = functools.partial(self._model.predict, variables)
    ratios = magnitude_ratios(predict, inputs, sampling=sampling)
    return jnp.broadcast_to(ratios, (len(inputs.noise), len(ratios)))

  def _drawn(
    self, variables, *given, sampling: ImageSampling, **shape
  ) -> jax.Array:
    inputs = self._inputs_of(variables, *given, sampling=sampling, **shape)
    predict = functools.partial(self._model.predict, variables)
    latents = sample_latents(predict, inputs, sampling=sampling)
    return self._model.decode(variables, latents)

  def _inputs_of(
    self,
    variables,
    shared_null,
    roots,
    rows,
    *,
    latent_shape: tuple[int, int, int],
    sampling: ImageSampling,
  ) -> Inputs:
    root, step_root = roots
    draw = functools.partial(jax.random.normal, shape=latent_shape)
    noise = jax.vmap(draw)(row_keys(root, rows["indices"]))
    keys = None
    if sampling.solver == "euler_stochastic":
      keys = row_keys(step_root, rows["indices"])
    return conditioned(
      self._model,
      variables,
      rows["texts"],
      rows["null_texts"] if shared_null is None else shared_null,
      noise,
      edit=self._edit(variables, rows, latent_shape),
      keys=keys,
    )

  def _edit(self, variables, rows, latent_shape) -> Edit | None:
    if rows["images"] is None:
      return None
    latents = self._model.encode(variables, rows["images"])
    mask = rows["masks"]
    if mask is not None:
      # The nearest pixel, as in diffusers.
      stride = mask.shape[1] // latent_shape[0]
      mask = mask[:, ::stride, ::stride, None]
    return Edit(latents, mask)

  def _stepwise(
    self,
    shared_null,
    roots,
    rows,
    *,
    latent_shape: tuple[int, int, int],
    sampling: ImageSampling,
    on_step_end: _OnStepEnd,
  ) -> jax.Array:
    """As `_drawn`, one program a step."""
    inputs = self._inputs(
      self._variables,
      shared_null,
      roots,
      rows,
      latent_shape=latent_shape,
      sampling=sampling,
    )
    is_edit = inputs.edit is not None
    sigmas = sampling.edit_sigmas() if is_edit else sampling.sigmas()
    calls = SOLVERS[sampling.solver].calls(sigmas)
    kinds = sampling.kinds(calls)
    run = {"sampling": sampling}
    progress = self._begin(self._variables, inputs, calls, kinds=kinds, **run)
    for step in range(len(sigmas) - 1):
      places = np.flatnonzero(calls.step == step)
      part = jax.tree.map(lambda column, at=places: column[at], calls)
      run["kinds"] = tuple(kinds[place] for place in places)
      progress = self._advance(self._variables, progress, inputs, part, **run)
      time = float(sigmas[step]) * sampling.num_train_timesteps
      values = {
        "latents": progress.state.latents,
        "indices": np.asarray(rows["indices"]),
      }
      changed = on_step_end(step, time, values) or {}
      state = progress.state._replace(
        latents=jnp.asarray(changed.get("latents", progress.state.latents))
      )
      progress = progress._replace(state=state)
    return self.decode(progress.state.latents)

  def _begun(
    self,
    variables,
    inputs: Inputs,
    calls: Calls,
    *,
    kinds: tuple[Kind, ...],
    sampling: ImageSampling,
  ) -> PartialImages:
    predict = functools.partial(self._model.predict, variables)
    return begin(predict, inputs, calls, kinds, sampling=sampling)

  def _advanced(
    self,
    variables,
    progress: PartialImages,
    inputs: Inputs,
    calls: Calls,
    *,
    kinds: tuple[Kind, ...],
    sampling: ImageSampling,
  ) -> PartialImages:
    predict = functools.partial(self._model.predict, variables)
    return run_calls(predict, progress, inputs, calls, kinds, sampling=sampling)
