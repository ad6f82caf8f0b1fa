"""A captioner's checkpoint as an object that describes images."""

from collections.abc import Mapping, Sequence

import jax
from jax.sharding import Mesh
from jaxtyping import Array, Int, Key, UInt8

from ddit_jax.data.tokenizers import Tokenizer
from ddit_jax.errors import InputError, first_few
from ddit_jax.experiment.captioner import CaptionerModel
from ddit_jax.experiment.config import Config, SampleConfig
from ddit_jax.models.module import Variables
from ddit_jax.pipelines.inputs import (
  Changes,
  ImagesLike,
  image_batch,
  row_indices,
  sample_config,
)
from ddit_jax.pipelines.on_mesh import in_batches
from ddit_jax.prng import key_for, root_key, row_keys

# What the search takes of `SampleConfig`.
_USED = ("beam_width", "batch_size")


class CaptionerPipeline:
  """Describes images; it neither draws them nor answers questions.

  Attributes:
    config: of the run that made the checkpoint.
    tokenizer: saved with it.
    model: the captioner and what it reads.
    variables: weights of the model's parts, on `mesh`.
    mesh: the devices.
    step: number of training steps.
    input_size: side of the images that it reads, in pixels.
    input_crop: how a square is made of an image, "centre" or "pad".
  """

  def __init__(
    self,
    config: Config,
    tokenizer: Tokenizer,
    model: CaptionerModel,
    variables: dict[str, Variables],
    *,
    mesh: Mesh,
    step: int,
  ):
    self.config, self.tokenizer = config, tokenizer
    self.model, self.variables, self.mesh = model, variables, mesh
    self.step = step
    self.input_size = config.data.image_sides[1]
    self.input_crop = config.data.image_to_text.square_crop
    self._search = jax.jit(self._found, static_argnames="beam_width")

  def __getattr__(self, name: str):
    raise AttributeError(
      f"a captioner, which only describes images, has no {name!r}: load a D-DiT"
    )

  def caption(
    self,
    images: ImagesLike,
    *,
    seed: int = 0,
    sample: SampleConfig | Changes | None = None,
    indices: Sequence[int] | None = None,
  ) -> list[str]:
    """Describes each image by the most likely text that the search finds.

    Args:
      images: see `inputs.image_batch`.
      seed: of the noise at `captioner.sigma`.
      sample: what to change in the checkpoint's sampling config; of it
        `beam_width` and `batch_size` are used.
      indices: of the rows, 0, 1, ... if None; a row's noise follows from seed
        and index.

    Raises:
      InputError: an argument has another type or length.
    """
    images = image_batch(images, self.input_size, self.input_crop)
    if isinstance(sample, Mapping) and (unused := sample.keys() - _USED):
      raise InputError(
        f"a captioner does not use {first_few(sorted(unused))}: of the "
        f"sampling config it takes {' and '.join(_USED)}"
      )
    config = sample_config(self.config.sample, sample)
    root = key_for(root_key(seed), "feature_noise")

    def search(rows):
      indices, images = rows
      return self._search(
        self.variables,
        images,
        row_keys(root, indices),
        beam_width=config.beam_width,
      )

    tokens = in_batches(
      search,
      (row_indices(indices, len(images)), images),
      mesh=self.mesh,
      batch_size=config.batch_size,
    )
    return [self.tokenizer.decode(row) for row in tokens]

  def _found(
    self,
    variables: dict[str, Variables],
    images: UInt8[Array, "rows height width 3"],
    keys: Key[Array, " rows"],
    *,
    beam_width: int,
  ) -> Int[Array, "rows length"]:
    """The texts of one batch."""
    found = self.model.captions(
      variables,
      images,
      keys,
      length=self.config.data.image_to_text.text_length,
      width=beam_width,
    )
    return found.tokens
