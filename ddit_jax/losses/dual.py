"""The dual loss L = L_image + lambda_text * L_text (paper eq. 9)."""

import dataclasses
import functools
import math
from typing import Any, Protocol, runtime_checkable

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, Shaped

from ddit_jax.batch import DualBatch, Images, ImageToTextBatch, TextToImageBatch
from ddit_jax.diffusion.flow_matching import FlowMatching
from ddit_jax.diffusion.masked_diffusion import MaskedDiffusion
from ddit_jax.errors import check_choices
from ddit_jax.losses import flow_matching, masked_diffusion
from ddit_jax.losses.flow_matching import NoisyImages
from ddit_jax.losses.masked_diffusion import (
  LossNormalization,
  MaskedTexts,
  chunked_log_likelihoods,
)
from ddit_jax.losses.time_buckets import BUCKETED, Buckets, sort_into_buckets
from ddit_jax.prng import key_for
from ddit_jax.sharding.rules import num_shards


@runtime_checkable
class NetworkOutput(Protocol):
  """The network outputs that the loss uses."""

  velocity: Float[Array, "batch height width channels"] | None
  logits: Float[Array, "batch length vocab"] | None
  text_hidden: Float[Array, "batch length features"] | None


@runtime_checkable
class Model(Protocol):
  """The network and its encoders, as pure functions of `variables`.

  Attributes:
    mask_id: the token id that stands for a masked token.
    has_mask_embedding: True if masked texts, but not clean ones, depend on a
      trained embedding.
  """

  mask_id: int
  has_mask_embedding: bool

  def encode(
    self, variables: Any, images: Images, key: Key[Array, ""]
  ) -> Float[Array, "batch height width channels"]:
    """Clean latents of pixels or of cached moments, sampled with `key`."""

  def condition(
    self,
    variables: Any,
    text: Shaped[Array, "batch length *features"],
    is_text_clean: bool = False,
  ) -> Shaped[Array, "batch length *condition"]:
    """The network's text input of token ids; features are returned as is.

    `is_text_clean` says that no token is masked.
    """

  def predict(
    self, variables: Any, latents, condition, sigma, has_image=None
  ) -> NetworkOutput:
    """Velocity, logits and the text head's input."""

  def text_logits(
    self, variables: Any, text_hidden: Float[Array, "batch positions features"]
  ) -> Float[Array, "batch positions vocab"]:
    """Logits of some positions of `NetworkOutput.text_hidden`."""


@flax.struct.dataclass
class CorruptedBatch:
  """A global batch after all random draws; leading axes may be split.

  A task that is off is None.
  """

  images: NoisyImages | None
  texts: MaskedTexts | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class DualLoss:
  """Draws the corruption, runs the network on both tasks, adds the terms.

  Attributes:
    flow_matching: the image diffusion.
    masked_diffusion: the text diffusion.
    text_weight: lambda_text.
    loss_normalization: divisor of the text loss, all positions of the
      texts (release) or those that may be masked.
    condition_dropout: fraction of captions replaced by the null caption.
    is_merged: True runs both tasks as one batch through the network, which
      needs equal latent shapes and text lengths. Its weights are then gathered
      and its gradients reduced once instead of twice.
    text_chunk: positions of each text whose float32 logits exist at once; 0
      means all.
  """

  flow_matching: FlowMatching = FlowMatching()
  masked_diffusion: MaskedDiffusion = MaskedDiffusion()
  text_weight: float = 0.2
  loss_normalization: LossNormalization = "all_positions"
  condition_dropout: float = 0.1
  is_merged: bool = False
  text_chunk: int = 0

  def __post_init__(self):
    check_choices(self)
    if not 0 <= self.condition_dropout <= 1:
      raise ValueError(
        f"condition_dropout must be in [0, 1], got {self.condition_dropout}"
      )
    if self.text_weight < 0:
      raise ValueError(f"text_weight is negative: {self.text_weight}")
    if self.text_chunk < 0:
      raise ValueError(f"text_chunk is negative: {self.text_chunk}")

  def corrupt(
    self,
    batch: DualBatch,
    root: jax.Array,
    step: jax.Array,
    *,
    model: Model,
    variables: Any,
    null_tokens: jax.typing.ArrayLike,
  ) -> CorruptedBatch:
    """All random draws of one step, over the global batch of both tasks.

    Args:
      batch: images and tokens of the tasks that are on.
      root: key of the run's randomness.
      step: number of the step.
      model: encodes images to latents and captions to features.
      variables: of the model.
      null_tokens: the empty caption, [length].
    """
    images = texts = None
    if batch.text_to_image is not None:
      images = self._noisy_images(
        batch.text_to_image, root, step, model, variables, null_tokens
      )
    if batch.image_to_text is not None:
      texts = self._masked_texts(
        batch.image_to_text, root, step, model, variables
      )
    return CorruptedBatch(images=images, texts=texts)

  def losses(
    self, model: Model, variables: Any, corrupted: CorruptedBatch
  ) -> tuple[dict[str, jax.Array], dict[str, Buckets]]:
    """Each task's loss, and losses by time.

    Args:
      model: the network.
      variables: of the model; the gradient is with respect to parts of them.
      corrupted: a global batch, or a part of one: sums over the parts add up
        to the global batch's.

    Returns:
      {"image": ..., "text": ...} of the tasks that are on, before `weights`;
      and errors in buckets of sigma and of text time.
    """
    images, texts = corrupted.images, corrupted.texts
    if self.is_merged and None not in (images, texts):
      velocity, text_prediction = _merged_pass(model, variables, images, texts)
    else:
      velocity, text_prediction = _separate_passes(
        model, variables, images, texts
      )
    losses, buckets = {}, {}
    if images is not None:
      errors = flow_matching.squared_errors(velocity, images.velocity)
      losses["image"] = flow_matching.image_loss(errors, images)
      buckets[f"{BUCKETED}sigma"] = sort_into_buckets(errors, images.sigma)
    if texts is not None:
      likelihoods = self._log_likelihoods(
        model, variables, text_prediction, texts
      )
      losses["text"] = masked_diffusion.text_loss(likelihoods, texts)
      num_masked = texts.is_masked.sum(axis=-1)
      buckets[f"{BUCKETED}text_time"] = sort_into_buckets(
        -likelihoods, texts.t, counts=num_masked
      )
    return losses, buckets

  def alone(self, corrupted: CorruptedBatch) -> dict[str, CorruptedBatch]:
    """The batch of each task; {"both": all} if one is off.

    See `Objective.alone`.
    """
    if None in (corrupted.images, corrupted.texts):
      return {"both": corrupted}
    return {
      "image": corrupted.replace(texts=None),
      "text": corrupted.replace(images=None),
    }

  def for_validation(self) -> "DualLoss":
    """The same loss with sigmas in strata, see `Objective.for_validation`."""
    even = dataclasses.replace(self.flow_matching, sigma_draw="stratified")
    return dataclasses.replace(self, flow_matching=even)

  @property
  def weights(self) -> dict[str, float]:
    """The weight of each task's loss in the total (paper eq. 9)."""
    return {"image": 1.0, "text": self.text_weight}

  def total(self, losses: dict[str, jax.Array]) -> jax.Array:
    """The weighted sum of the tasks that are on."""
    return sum(self.weights[name] * loss for name, loss in losses.items())

  def _noisy_images(
    self, batch: TextToImageBatch, root, step, model, variables, null_tokens
  ) -> NoisyImages:
    key = key_for(root, "image_posterior", step)
    text, null_text = batch.tokens, jnp.asarray(null_tokens)
    if batch.features is not None:
      text = batch.features
      null = model.condition(variables, null_text[None], is_text_clean=True)
      null_text = null[0].astype(text.dtype)
    return flow_matching.corrupt_images(
      model.encode(variables, batch.images, key),
      text,
      root,
      step,
      flow_matching=self.flow_matching,
      null_text=null_text,
      condition_dropout=self.condition_dropout,
    )

  def _masked_texts(
    self, batch: ImageToTextBatch, root, step, model, variables
  ) -> MaskedTexts:
    latents = None
    if batch.images is not None:
      key = key_for(root, "condition_posterior", step)
      latents = model.encode(variables, batch.images, key)
    return masked_diffusion.mask_texts(
      latents,
      batch.tokens,
      batch.loss_mask,
      root,
      step,
      masked_diffusion=self.masked_diffusion,
      loss_normalization=self.loss_normalization,
      mask_id=model.mask_id,
      has_image=batch.has_image,
    )

  def _log_likelihoods(
    self, model, variables, text_prediction, texts
  ) -> Float[Array, " batch"]:
    """The sum over each text's masked positions of log p."""
    if not self.text_chunk:
      return masked_diffusion.token_log_likelihoods(
        text_prediction.logits, texts, model.mask_id
      ).sum(axis=-1)
    return chunked_log_likelihoods(
      text_prediction.text_hidden,
      texts,
      mask_id=model.mask_id,
      read_logits=functools.partial(model.text_logits, variables),
      chunk=self.text_chunk,
    )


def _separate_passes(model: Model, variables, images, texts):
  """(velocity, the text's prediction); None for a task that is off."""
  velocity = text_prediction = None
  if images is not None:
    condition = model.condition(variables, images.text, is_text_clean=True)
    velocity = model.predict(
      variables, images.latents, condition, images.sigma
    ).velocity
  if texts is not None:
    condition = model.condition(variables, texts.tokens)
    clean_time = jnp.zeros(texts.tokens.shape[0])
    text_prediction = model.predict(
      variables, texts.latents, condition, clean_time, has_image=texts.has_image
    )
  return velocity, text_prediction


def _merged_pass(model: Model, variables, images, texts):
  """Like `_separate_passes`, but with one merged batch."""
  _check_can_merge(images, texts)
  rows = MergedRows(len(images.sigma), len(texts.t), num_shards("batch"))
  has_image = None
  if texts.has_image is not None:
    has_image = rows.merge(jnp.ones(rows.first, bool), texts.has_image)
  prediction = model.predict(
    variables,
    rows.merge(images.latents, texts.latents),
    _merged_condition(model, variables, images, texts, rows),
    rows.merge(images.sigma, jnp.zeros(rows.second)),
    has_image=has_image,
  )
  velocity, _ = rows.split(prediction.velocity)
  return velocity, jax.tree.map(lambda array: rows.split(array)[1], prediction)


def _merged_condition(model: Model, variables, images, texts, rows):
  is_encoded = images.text.ndim == 3
  if not (is_encoded or model.has_mask_embedding):
    return model.condition(variables, rows.merge(images.text, texts.tokens))
  # Captions apart, so that no gradient of the embedding is sought in them.
  captions = model.condition(variables, images.text, is_text_clean=True)
  return rows.merge(captions, model.condition(variables, texts.tokens))


@dataclasses.dataclass(frozen=True)
class MergedRows:
  """The order of two tasks' examples in one batch.

  A mesh splits a batch into runs of rows, one for each shard. Were one task
  appended to the other, half of all examples would have to change their device;
  so the merged batch has each shard's images and then its texts, shard by
  shard.

  Attributes:
    first: examples of the first task.
    second: of the second.
    num_shards: of the batch. Those that do not divide both tasks are ignored.
  """

  first: int
  second: int
  num_shards: int

  @property
  def _num_groups(self) -> int:
    return math.gcd(self.first, self.second, self.num_shards)

  def merge(
    self, first: Shaped[Array, "rows *rest"], second: Shaped[Array, "_ *rest"]
  ) -> Shaped[Array, "merged *rest"]:
    """Both tasks' examples, group by group."""
    rest = first.shape[1:]
    parts = [x.reshape(self._num_groups, -1, *rest) for x in (first, second)]
    return jnp.concatenate(parts, axis=1).reshape(-1, *rest)

  def split(
    self, merged: Shaped[Array, "merged *rest"]
  ) -> tuple[Shaped[Array, "rows *rest"], Shaped[Array, "_ *rest"]]:
    """Undoes `merge`."""
    groups, rest = self._num_groups, merged.shape[1:]
    merged = merged.reshape(groups, -1, *rest)
    size = self.first // groups
    return (
      merged[:, :size].reshape(-1, *rest),
      merged[:, size:].reshape(-1, *rest),
    )


def _check_can_merge(images, texts) -> None:
  latents = None if texts.latents is None else texts.latents.shape[1:]
  lengths = images.text.shape[1], texts.tokens.shape[1]
  if images.latents.shape[1:] == latents and lengths[0] == lengths[1]:
    return
  raise ValueError(
    "merging both tasks needs equal shapes, got images "
    f"{images.latents.shape[1:]} and {latents}, texts of {lengths[0]} and "
    f"{lengths[1]} tokens: set loss.is_merged=False"
  )
