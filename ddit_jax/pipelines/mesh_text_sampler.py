"""Texts batch by batch over a mesh: jitted calls of the text sampler."""

import functools
from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Bool, Int, UInt8, UInt32

from ddit_jax.experiment.config import SampleConfig
from ddit_jax.pipelines.on_mesh import ModelOnMesh, in_batches
from ddit_jax.pipelines.text_batches import (
  fill_growing_canvas,
  finish_and_drop,
)
from ddit_jax.prng import key_for, root_key, row_keys
from ddit_jax.sampling.text_sampler import (
  PartialTexts,
  Texts,
  TextSampler,
  text_predictor,
)
from ddit_jax.sharding.mesh import batch_ways

# (places of the rows, their texts so far); see `Pipeline.infill`.
_OnCallEnd = Callable[[np.ndarray, Texts], None]


class MeshTextSampler(ModelOnMesh):
  """The text sampler of one model.

  It compiles once per batch size and config. A row's draws follow from the
  seed and the row's index alone, not from the batch size or the other rows.
  """

  def _jit(self) -> None:
    self._start_texts = jax.jit(
      self._started_texts, static_argnames=("sampler", "keeps_trace")
    )
    self._advance_texts = jax.jit(
      self._advanced_texts, static_argnames=("sampler", "is_one_call")
    )
    self._finish_texts = jax.jit(TextSampler.finish, static_argnums=0)

  def fill(
    self,
    images: UInt8[np.ndarray, "rows height width 3"],
    tokens: Int[np.ndarray, "rows length"],
    prompt_mask: Bool[np.ndarray, "rows length"],
    *,
    mask_id: int,
    end_id: int,
    keeps_trace: bool,
    indices: UInt32[np.ndarray, " rows"],
    seed: int,
    config: SampleConfig,
    on_call_end: _OnCallEnd | None = None,
  ) -> Texts:
    """Fills the tokens where `prompt_mask` is False.

    A row's draws follow from the seed and its index in `indices`. With
    `on_call_end` each call of the network is a program of its own; for the
    other arguments see `infill`.
    """
    sampler = TextSampler(config.text, mask_id, end_id)
    root = key_for(root_key(seed), "image_to_text")

    def filled(rows, tokens, prompt_mask):
      return in_batches(
        functools.partial(
          self._texts,
          sampler,
          root,
          keeps_trace=keeps_trace,
          on_call_end=on_call_end,
        ),
        (rows, (indices[rows], images[rows], tokens, prompt_mask)),
        mesh=self._mesh,
        batch_size=config.batch_size,
      )

    length, canvas_length = tokens.shape[1], config.text.canvas_length
    return fill_growing_canvas(
      filled,
      tokens,
      prompt_mask,
      canvas_length=canvas_length or length,
      mask_id=mask_id,
      end_id=end_id,
    )

  def _texts(
    self,
    sampler: TextSampler,
    root: jax.Array,
    batch,
    *,
    keeps_trace: bool,
    on_call_end: _OnCallEnd | None,
  ) -> Texts:
    """The texts of one batch."""
    places, rows = batch
    advance = functools.partial(
      self._advance_texts,
      self._variables,
      sampler=sampler,
      is_one_call=on_call_end is not None,
    )
    if on_call_end is not None:
      on_call_end = functools.partial(on_call_end, np.asarray(places))
    started = self._start_texts(
      self._variables, root, rows, sampler=sampler, keeps_trace=keeps_trace
    )
    ways = batch_ways(self._mesh)
    if not sampler.sampling.drops_finished_rows:
      ways = len(rows[0])
    return finish_and_drop(
      advance,
      functools.partial(self._finish_texts, sampler),
      started,
      mesh=self._mesh,
      least=ways,
      on_call_end=on_call_end,
    )

  def _started_texts(
    self, variables, root: jax.Array, rows, *, sampler: TextSampler, keeps_trace
  ) -> tuple[tuple[jax.Array, jax.Array], PartialTexts]:
    indices, images, tokens, prompt_mask = rows
    latents = self._model.encode(variables, images)
    keys = row_keys(root, indices)
    progress = sampler.start(tokens, prompt_mask, keys, keeps_trace=keeps_trace)
    return (latents, keys), progress

  def _advanced_texts(
    self,
    variables,
    inputs,
    progress,
    num_left,
    *,
    sampler: TextSampler,
    is_one_call: bool,
  ) -> PartialTexts:
    latents, keys = inputs
    predict = text_predictor(self._model, variables, latents, sampler.sampling)
    if is_one_call:
      return sampler.call(predict, progress, keys)
    return sampler.advance(predict, progress, keys, num_left=num_left)
