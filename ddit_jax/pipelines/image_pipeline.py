"""Text to image: what all pipelines share."""

import abc
import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int, PyTree, UInt8

from ddit_jax.errors import InputError, preparing
from ddit_jax.experiment.config import SampleConfig
from ddit_jax.experiment.model import DualModel
from ddit_jax.models.module import Variables
from ddit_jax.pipelines.edit_inputs import edited_images, masks
from ddit_jax.pipelines.generated_images import GeneratedImages
from ddit_jax.pipelines.inputs import (
  Changes,
  check_latents,
  image_sides,
  row_indices,
  sample_config,
  text_list,
)
from ddit_jax.pipelines.mesh_image_sampler import ImageRows, MeshImageSampler
from ddit_jax.sampling.step_cache import StepCache, check_can_calibrate

_log = logging.getLogger(__name__)

# (pipeline, step, time, values) -> values to change, or None.
Callback = Callable[
  ["ImagePipeline", int, float, dict[str, Any]], Mapping[str, Any] | None
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepCacheReport:
  """What a step cache saves and costs.

  Attributes:
    ratios: of the residual's magnitude at each step to that before.
    reused_steps: that do not run the network's blocks.
    mean_drift: mean distance of pixels to images without the cache, in levels
      of 255.
    largest_drift: the largest distance.
  """

  ratios: list[float]
  reused_steps: tuple[int, ...]
  mean_drift: float
  largest_drift: int

  def __str__(self) -> str:
    steps = ", ".join(map(str, self.reused_steps)) or "none"
    return (
      f"step cache: {len(self.reused_steps)} of {len(self.ratios)} steps reuse "
      f"the blocks ({steps}); drift of pixels {self.mean_drift:.2f} of 255 on "
      f"average, {self.largest_drift} at most"
    )


class ImagePipeline(abc.ABC):
  """A model that draws images from prompts.

  Attributes:
    model: the network with its encoders.
    variables: weights of the model's parts, on `mesh`.
    mesh: the devices.
    sample: default sampling config.
    image_size: default side of generated images, in pixels.
  """

  def __init__(
    self,
    model: DualModel,
    variables: dict[str, Variables],
    *,
    mesh: Mesh,
    sample: SampleConfig,
    image_size: int,
  ):
    self.model = model
    self.variables = variables
    self.mesh = mesh
    self.sample = sample
    self.image_size = image_size
    self._image_sampler = MeshImageSampler(model, variables, mesh)

  @abc.abstractmethod
  def prompt_ids(
    self, prompts: Sequence[str]
  ) -> PyTree[Int[np.ndarray, "prompts length"]]:
    """Token ids of prompts as the model takes them; raises InputError."""

  def text_to_image(
    self,
    prompts: Sequence[str],
    *,
    negative_prompt: str | Sequence[str] = "",
    num_images_per_prompt: int = 1,
    image: Any = None,
    mask_image: Any = None,
    seed: int = 0,
    sample: SampleConfig | Changes | None = None,
    size: int | tuple[int, int] | None = None,
    indices: Sequence[int] | None = None,
    callback_on_step_end: Callback | None = None,
    **settings,
  ) -> GeneratedImages:
    """Generates images from prompts, or changes given ones.

    Args:
      prompts: texts; the empty one generates without guidance.
      negative_prompt: of the guidance, for all prompts or one each.
      num_images_per_prompt: images of each prompt, next to each other.
      image: to change, one for all prompts or one each, see
        `edit_inputs.edited_images`; `strength` says how much.
      mask_image: white where `image` is drawn anew, black where it stays; see
        `edit_inputs.masks`.
      seed: of the noise.
      sample: what to change in the default sampling config, see
        `inputs.sample_config`.
      size: side or (height, width) in pixels; `image_size` if None.
      indices: of the images, 0, 1, ... if None. An image follows from seed,
        prompt and index, so any image of a list can be drawn again alone.
      callback_on_step_end: called after each step as in diffusers with this
        pipeline, the step (each batch begins with 0), its time (of
        `num_train_timesteps`) and values: "latents", which `decode` shows and
        the callback may return changed, and "indices".
      **settings: fields of `ImageSampling`, e.g. guidance_scale=2.0.

    Raises:
      InputError: a prompt cannot be tokenized, the size is incompatible with
        the network's patches, or an argument has another type or value.
    """
    prompts = text_list(prompts, "prompts")
    config = self._config(sample, settings)
    negatives = _negatives(negative_prompt, len(prompts), config)
    check_num_images(num_images_per_prompt)
    sides = self.sides(size)
    edit = _edit(image, mask_image, sides, len(prompts))
    of_image = np.repeat(np.arange(len(prompts)), num_images_per_prompt)
    rows = self._rows(prompts, negatives, edit, of_image, indices)
    return GeneratedImages(
      images=self._drawn(rows, sides, seed, config, callback_on_step_end),
      prompts=[prompts[i] for i in of_image],
      negative_prompts=[negatives[i] for i in of_image],
      indices=rows.indices.tolist(),
      seed=seed,
      settings=config,
    )

  def sides(self, size: int | tuple[int, int] | None) -> tuple[int, int]:
    """(height, width) of drawn images of a size; `image_size` if None.

    Raises:
      InputError: it is no size, or one that the network's patches do not fill.
    """
    sides = image_sides(self.image_size if size is None else size)
    with preparing():
      self.model.latent_shape(*sides)
    return sides

  def calibrate_step_cache(
    self,
    prompts: Sequence[str],
    *,
    negative_prompt: str | Sequence[str] = "",
    cache: StepCache | None = None,
    seed: int = 0,
    sample: SampleConfig | Changes | None = None,
    size: int | tuple[int, int] | None = None,
    **settings,
  ) -> StepCacheReport:
    """Chooses steps that need not run the network's blocks.

    It draws the prompts' images without and with the cache, and logs how far
    they are apart. Then `reused_steps=report.reused_steps` is a setting of
    `text_to_image` for any prompts with the same other settings.

    Args:
      prompts: a few typical ones.
      negative_prompt: see `text_to_image`.
      cache: how much may be reused; the defaults of `StepCache` if None.
      seed: of the noise.
      sample: see `text_to_image`.
      size: see `text_to_image`.
      **settings: see `text_to_image`.

    Raises:
      InputError: as `text_to_image`, or settings whose steps differ in kind.
    """
    with preparing():
      check_can_calibrate(self._config(sample, settings).image)
    options = {
      "negative_prompt": negative_prompt,
      "seed": seed,
      "size": size,
      "sample": sample,
      **settings,
    }
    exact = self.text_to_image(prompts, **options)
    of_image = np.arange(len(exact))
    ratios = self._image_sampler.magnitude_ratios(
      self._rows(exact.prompts, exact.negative_prompts, {}, of_image),
      seed=seed,
      size=exact.images.shape[1:3],
      config=exact.settings,
    )
    reused = (cache or StepCache()).reused_steps(ratios.tolist())
    options["reused_steps"] = reused
    near = self.text_to_image(prompts, **options)
    distance = np.abs(near.images.astype(int) - exact.images)
    report = StepCacheReport(
      ratios=ratios.tolist(),
      reused_steps=reused,
      mean_drift=float(distance.mean()),
      largest_drift=int(distance.max()),
    )
    _log.info("%s", report)
    return report

  def decode(self, latents: jax.Array) -> np.ndarray:
    """Latents to uint8 images."""
    check_latents(latents, self.model.network.config.latent_channels)
    return np.asarray(self._image_sampler.decode(latents))

  def _drawn(
    self,
    rows: ImageRows,
    sides: tuple[int, int],
    seed: int,
    config: SampleConfig,
    callback: Callback | None,
  ) -> UInt8[np.ndarray, "rows height width 3"]:
    return self._image_sampler.draw(
      rows,
      seed=seed,
      size=sides,
      config=config,
      on_step_end=callback and functools.partial(callback, self),
    )

  def _config(
    self, sample: SampleConfig | Changes | None, settings: dict[str, Any]
  ) -> SampleConfig:
    named = {f"image.{name}": value for name, value in settings.items()}
    return sample_config(sample_config(self.sample, sample), named)

  def _rows(
    self,
    prompts: Sequence[str],
    negatives: Sequence[str],
    edit: dict[str, np.ndarray],
    of_image: Int[np.ndarray, " rows"],
    indices: Sequence[int] | None = None,
  ) -> ImageRows:
    """What is drawn; `of_image` has the prompt of each row."""
    null_texts, of_null = negatives, of_image
    if len(set(negatives)) == 1:
      # One row for all.
      null_texts, of_null = negatives[:1], np.zeros(1, int)
    indices = row_indices(indices, len(of_image))
    texts, nulls = map(self.prompt_ids, (prompts, null_texts))
    return ImageRows(
      texts=jax.tree.map(lambda ids: ids[of_image], texts),
      null_texts=jax.tree.map(lambda ids: ids[of_null], nulls),
      indices=indices,
      **{name: column[of_image] for name, column in edit.items()},
    )


# Images of one prompt; far more than anyone looks at.
_MAX_IMAGES = 100_000


def check_num_images(count: int, name: str = "num_images_per_prompt") -> None:
  """Raises InputError unless so many images of a prompt can be drawn."""
  if type(count) is not int or not 1 <= count <= _MAX_IMAGES:
    raise InputError(f"{name} must be in 1 to {_MAX_IMAGES}, got {count!r}")


def _negatives(
  negative: Any, num_prompts: int, config: SampleConfig
) -> list[str]:
  """The negative prompt of each prompt."""
  is_one = isinstance(negative, str)
  negatives = text_list([negative] if is_one else negative, "negative_prompt")
  if is_one:
    negatives *= num_prompts
  if len(negatives) != num_prompts:
    raise InputError(
      f"negative_prompt has {len(negatives)} texts for {num_prompts} prompts: "
      "give one for all, or one each"
    )
  if any(negatives) and not config.image.is_guided:
    raise InputError(
      f"the negative prompt {next(filter(None, negatives))!r} has no effect "
      "without guidance: set sample.image.guidance_scale to another value than "
      "1"
    )
  return negatives


def _edit(
  image, mask_image, sides: tuple[int, int], num_prompts: int
) -> dict[str, np.ndarray]:
  """The columns of `ImageRows` that change images."""
  if image is None:
    if mask_image is not None:
      raise InputError("mask_image needs an image that it keeps: give image")
    return {}
  columns = {"images": edited_images(image, sides, num_prompts)}
  if mask_image is not None:
    columns["masks"] = masks(mask_image, sides, num_prompts)
  return columns
