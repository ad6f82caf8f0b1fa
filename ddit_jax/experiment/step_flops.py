"""Model FLOPs of one update of the network between its encoders."""

import math

import jax.numpy as jnp

from ddit_jax.batch import DualBatch, ImageToTextBatch, TextToImageBatch
from ddit_jax.encoders.flops import (
  clip_vision_flops,
  t5_flops,
  vae_encoder_flops,
)
from ddit_jax.experiment.captioner import (
  IMAGE_ENCODER,
  CaptionerModel,
  CLIPReader,
)
from ddit_jax.experiment.model import DualModel
from ddit_jax.models.flops import (
  PassFlops,
  gpt2_flops,
  linear_flops,
  mmdit_flops,
)

_NOTHING = PassFlops(weights=0, activations=0)


def training_flops(
  model: DualModel | CaptionerModel,
  batch: DualBatch,
  *,
  is_mask_embedding_trained: bool = False,
  is_network_frozen: bool = False,
) -> dict[str, int]:
  """Model FLOPs of one update, see `PassFlops` for what counts.

  Encoders only run forward, except for the texts of the text loss while the
  mask embedding is trained: they have a backward pass through T5 to its inputs.
  Each task counts the head that its loss reads. The optimizer, the EMA and
  rematerialisation do not count.

  Args:
    model: the network and the frozen parts around it.
    batch: the global batch, or its shapes. It shows what is cached: moments of
      latents in place of pixels, features in addition to tokens.
    is_mask_embedding_trained: whether its step trains a mask embedding.
    is_network_frozen: True under adapters, whose own products are not counted.

  Returns:
    {"network": ..., "text_encoder": ..., "vae": ...}, of those the model has.
  """
  totals = dict.fromkeys(model.parts(), 0)
  passes = []
  if isinstance(model, CaptionerModel):
    passes += _caption_loss(model, batch.image_to_text)
    batch = DualBatch(None, None)
  if batch.text_to_image is not None:
    passes += _image_loss(model, batch.text_to_image)
  if batch.image_to_text is not None:
    passes += _text_loss(model, batch.image_to_text, is_mask_embedding_trained)
  for name, rows, flops, way in passes:
    if name == "network" and is_network_frozen:
      way = "passed_through"
    if name in totals:
      totals[name] += rows * getattr(flops, way)
  return totals


def _image_loss(model: DualModel, batch: TextToImageBatch):
  """(part, examples, one example's pass, its direction) of the task."""
  rows, length = batch.tokens.shape
  # With cached features the null caption alone is encoded, once.
  num_encoded = rows if batch.features is None else 1
  return [
    ("text_encoder", num_encoded, _text_pass(model, length), "forward"),
    ("vae", rows, _image_pass(model, batch.images), "forward"),
    ("network", rows, _network_pass(model, batch, "image"), "trained"),
  ]


def _text_loss(model: DualModel, batch: ImageToTextBatch, is_row_trained: bool):
  """Like `_image_loss`, for the text loss."""
  rows, length = batch.tokens.shape
  way = "passed_through" if is_row_trained else "forward"
  return [
    ("text_encoder", rows, _text_pass(model, length), way),
    ("vae", rows, _image_pass(model, batch.images), "forward"),
    ("network", rows, _network_pass(model, batch, "text"), "trained"),
  ]


def _caption_loss(model: CaptionerModel, batch: ImageToTextBatch):
  """Like `_image_loss`, for a captioner's loss; the prefix is projected."""
  rows, length = batch.tokens.shape
  _, *sides, _ = batch.images.shape
  reader, decoder = model.reader, model.network.module.decoder_config
  passes = []
  if isinstance(reader, CLIPReader):
    encoder = clip_vision_flops(reader.encoder.module.config)
    num_image = reader.num_tokens(*sides)
  else:
    dual, num_null = reader.model, len(reader.null_tokens)
    grid = _grid(dual, batch.images)
    num_image = math.prod(grid)
    encoder = mmdit_flops(
      reader.encoder.config, grid=grid, text_length=num_null, heads=()
    )
    # The empty caption is encoded once for the run.
    passes.append(("vae", rows, _image_pass(dual, batch.images), "forward"))
  way = "trained" if model.is_reader_trained else "forward"
  name = "network" if model.is_reader_trained else IMAGE_ENCODER
  projection = PassFlops(
    weights=linear_flops(num_image, reader.width, decoder.width), activations=0
  )
  text = gpt2_flops(decoder, tokens=num_image + length - 1, logits=length)
  return [
    *passes,
    (name, rows, encoder, way),
    ("network", rows, projection, "trained"),
    ("network", rows, text, "trained"),
  ]


def _text_pass(model: DualModel, length: int) -> PassFlops:
  if model.text_encoder is None:
    return _NOTHING
  return t5_flops(model.text_encoder.module.config, length)


def _image_pass(model: DualModel, images) -> PassFlops:
  is_encoded = images is None or jnp.issubdtype(images.dtype, jnp.floating)
  if model.autoencoder is None or is_encoded:
    return _NOTHING
  return vae_encoder_flops(model.autoencoder.module.config, images.shape[1])


def _network_pass(model: DualModel, batch, head: str) -> PassFlops:
  return mmdit_flops(
    model.network.config,
    grid=_grid(model, batch.images),
    text_length=batch.tokens.shape[1],
    heads=(head,),
  )


def _grid(model: DualModel, images) -> tuple[int, int] | None:
  """(rows, columns) of patches; None if there is only text."""
  if images is None:
    return None
  unit = model.pixels_per_patch
  if jnp.issubdtype(images.dtype, jnp.floating):
    unit = model.network.config.patch_size
  _, height, width, _ = images.shape
  return height // unit, width // unit
