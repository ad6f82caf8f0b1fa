"""A sampler's program as shapes and shardings, without any arrays."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.interpreters import partial_eval
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ddit_jax.encoders.flops import t5_flops
from ddit_jax.experiment.abstract_step import abstract_model
from ddit_jax.experiment.config import Config
from ddit_jax.experiment.model import DualModel
from ddit_jax.planning.traced_flops import traced_flops
from ddit_jax.sampling.image_sampler import generate_latents
from ddit_jax.sampling.text_sampler import text_predictor
from ddit_jax.sharding.mesh import check_batch_divides
from ddit_jax.sharding.rules import partition_spec


@dataclasses.dataclass(frozen=True, kw_only=True)
class AbstractSampling:
  """What a sampler runs on a batch, and the shapes of its arguments.

  Attributes:
    model: the network between its encoders.
    function: pure function of (variables, batch).
    variables: shapes and shardings of all weights.
    batch: of its inputs.
    texts: (number, length) of those that the text encoder reads.
  """

  model: DualModel
  function: Callable[[Any, Any], jax.Array]
  variables: Any
  batch: dict[str, jax.ShapeDtypeStruct]
  texts: tuple[int, int]

  @classmethod
  def of(cls, config: Config, mesh: Mesh, step: str) -> "AbstractSampling":
    """The program of `ddit sample` with this config.

    Args:
      config: of the run.
      mesh: of devices that need not be attached.
      step: "t2i", prompts to pixels: T5, all steps of the network and the
        decoder; "i2t", one network call: the logits of partly masked texts.

    Raises:
      ValueError: the mesh does not divide `sample.batch_size`, or the config
        trains a captioner.
    """
    if config.captioner.is_on:
      raise ValueError(
        f"captioner.features is {config.captioner.features}: only its training "
        "step can be planned, --step=train"
      )
    check_batch_divides(mesh, config.sample.batch_size, "sample.batch_size")
    model = abstract_model(config)
    make = _text_to_image if step == "t2i" else _image_to_text
    function, batch, texts = make(config, model, mesh)
    variables = model.abstract_variables(mesh)
    return cls(
      model=model,
      function=function,
      variables=variables,
      batch=batch,
      texts=texts,
    )

  @property
  def arguments(self) -> dict[str, Any]:
    """Shapes and shardings by kind."""
    network = self.variables["network"]
    encoders = {k: v for k, v in self.variables.items() if k != "network"}
    return {
      "parameters": network["params"],
      "frozen_encoders": encoders,
      "constants": network["constants"],
      "batch": self.batch,
    }

  def model_flops(self) -> dict[str, int]:
    """FLOPs of the batch by part, counted in the traced program."""
    return self._flops_by_part

  @functools.cached_property
  def _flops_by_part(self) -> dict[str, int]:
    total = _flops(self.function, self.variables, self.batch)
    found = {}
    if self.model.text_encoder is not None:
      number, length = self.texts
      text = t5_flops(self.model.text_encoder.module.config, length)
      found["text_encoder"] = number * text.forward
    if self.model.autoencoder is not None and "noise" in self.batch:
      noise = self.batch["noise"]
      found["vae"] = _flops(self.model.decode, self.variables, noise)
    return {"network": total - sum(found.values())} | found

  def ideal_flops(self) -> int:
    """Of the network and the text encoder."""
    flops = self.model_flops()
    return sum(flops.get(part, 0) for part in ("network", "text_encoder"))

  def trace(self, mesh: Mesh) -> jax.stages.Traced:
    """The function traced for the mesh."""
    with jax.set_mesh(mesh):
      return jax.jit(self.function).trace(self.variables, self.batch)


def _text_to_image(config: Config, model: DualModel, mesh: Mesh):
  """(function, batch, texts) of `AbstractSampling`."""
  length = config.data.text_to_image.text_length
  rows = config.sample.batch_size

  def function(variables, batch):
    latents = generate_latents(
      model,
      variables,
      batch["prompts"],
      batch["null_prompt"],
      batch["noise"],
      sampling=config.sample.image,
    )
    return model.decode(variables, latents)

  side, _ = config.data.image_sides
  batch = {
    "prompts": _array(mesh, (rows, length), "i4"),
    "null_prompt": _array(mesh, (1, length), "i4", is_split=False),
    "noise": _array(mesh, (rows, *model.latent_shape(side, side)), "f4"),
  }
  return function, batch, (rows + 1, length)


def _image_to_text(config: Config, model: DualModel, mesh: Mesh):
  """As `_text_to_image`."""
  sampling, rows = config.sample.text, config.sample.batch_size

  def function(variables, batch):
    predict = text_predictor(model, variables, batch["latents"], sampling)
    return predict(batch["tokens"])

  texts = rows * sampling.num_drafts, config.data.image_to_text.text_length
  _, side = config.data.image_sides
  batch = {
    "tokens": _array(mesh, texts, "i4"),
    "latents": _array(mesh, (rows, *model.latent_shape(side, side)), "f4"),
  }
  return function, batch, texts


def _array(mesh: Mesh, shape: tuple[int, ...], dtype: str, *, is_split=True):
  """Rows that the mesh splits, or that every device has."""
  spec = partition_spec("batch") if is_split else PartitionSpec()
  place = NamedSharding(mesh, spec)
  return jax.ShapeDtypeStruct(shape, dtype, sharding=place)


def _flops(function, *shapes) -> int:
  """Of what the result needs, without a head that nothing reads.

  Outside of a mesh, where attention counts for all devices.
  """
  bare = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), shapes
  )
  jaxpr = jax.make_jaxpr(function)(*bare).jaxpr
  needed, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
  return traced_flops(needed)
