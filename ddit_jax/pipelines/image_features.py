"""CLIP's features of drawn images and of those that they are compared with."""

import dataclasses
import functools
import pathlib
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, UInt8
from PIL import Image

from ddit_jax.checkpoint.manifest import contents_digest
from ddit_jax.conversion.configs import module_of
from ddit_jax.encoders.clip_vision import normed
from ddit_jax.errors import preparing
from ddit_jax.experiment.captioner import IMAGE_ENCODER
from ddit_jax.experiment.pretrained import PretrainedModel
from ddit_jax.pipelines.evaluation_task import BASELINE, EvaluationTask
from ddit_jax.pipelines.on_mesh import in_batches, to_host
from ddit_jax.protocols.protocol import hashed_files
from ddit_jax.sharding.mesh import MeshConfig

_BATCH_SIZE = 64


class ImageFeatures:
  """Makes the files of features that images of one's own are scored by.

  The first process computes them, on one device.

  Args:
    path: converted weights with CLIP's image encoder.
    crop: how a square is made of an image of a record.
    mesh: of all processes, which read the weights together.

  Raises:
    InputError: the weights are damaged, or hold no image encoder.
  """

  def __init__(self, path: str, crop: str, mesh: Mesh):
    self._crop = crop
    with preparing():
      weights = PretrainedModel.open(path)
      weights.check_has((IMAGE_ENCODER,))
      self._encoder = module_of(weights.record.configs[IMAGE_ENCODER])
      variables = weights.restore(IMAGE_ENCODER, self._encoder, mesh)
    self._variables = to_host(variables)
    digest = contents_digest(weights.folder, IMAGE_ENCODER)
    self._network = f"CLIP's image encoder, BLAKE2b {digest}"
    self._jitted = jax.jit(self._pooled)

  def with_files(
    self, task: EvaluationTask, folder: pathlib.Path, *, is_baseline: bool
  ) -> EvaluationTask:
    """The task with features of its drawn images and of its records' images.

    Files that were given are left as they are.

    Args:
      task: of images, with records.
      folder: of its results, where the images lie and the files will.
      is_baseline: see `scored_result`.
    """
    (part,) = task.protocol.parts.values()
    drawn_role = f"{BASELINE}_" * is_baseline + part.predictions
    (real_role,) = part.references
    if {drawn_role, real_role} & task.files.keys():
      return task
    drawn = [_opened(folder / item.path) for item in task.items]
    side = len(drawn[0])
    real = (task.read(item, side, self._crop) for item in task.items)
    files = {
      drawn_role: self._written(folder / f"{drawn_role}.npz", drawn),
      real_role: self._written(folder / f"{real_role}.npz", real),
    }
    files |= task.files
    return dataclasses.replace(task, files=files, hashes=hashed_files(files))

  def _written(
    self, path: pathlib.Path, images: Iterable[np.ndarray]
  ) -> pathlib.Path:
    """A file that `scoring.features.read_features` reads."""
    np.savez(path, features=self.of(images), network=self._network)
    return path

  def of(
    self, images: Iterable[UInt8[np.ndarray, "side side 3"]]
  ) -> Float[np.ndarray, "images features"]:
    """Features of square images, which are resized as CLIP's own are."""
    side = self._encoder.module.config.image_size
    pixels = np.stack([_resized(image, side) for image in images])
    mesh = MeshConfig().make(jax.local_devices()[:1])
    place = NamedSharding(mesh, PartitionSpec())
    variables = jax.device_put(self._variables, place)
    encode = functools.partial(self._jitted, variables)
    return in_batches(encode, pixels, mesh=mesh, batch_size=_BATCH_SIZE)

  def _pooled(
    self, variables, pixels: UInt8[Array, "batch height width 3"]
  ) -> Float[Array, "batch features"]:
    values = normed(pixels.astype(jnp.float32) / 255)
    return self._encoder.apply(variables, values).pooled


def _opened(path: pathlib.Path) -> UInt8[np.ndarray, "height width 3"]:
  with Image.open(path) as image:
    return np.asarray(image.convert("RGB"))


def _resized(
  image: UInt8[np.ndarray, "side side 3"], side: int
) -> UInt8[np.ndarray, "new_side new_side 3"]:
  bicubic = Image.Resampling.BICUBIC
  return np.asarray(Image.fromarray(image).resize((side, side), bicubic))
