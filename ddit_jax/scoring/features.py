"""Fréchet and kernel distances and CLIP scores from files of features.

A file is .npy with features [rows, dims], or .npz with "features" and perhaps
"network", the name of what made them. Nothing is unpickled.
"""

import pathlib
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ddit_jax.errors import InputError
from ddit_jax.evaluation import clip_score, frechet
from ddit_jax.files import open_regular
from ddit_jax.scoring import records
from ddit_jax.scoring.scored import ItemScores, Scored

# Only distances on these are FID and KID; the two differ by whole points.
_FID_NETWORKS = (
  "inception-2015-12-05 clean-fid",
  "inception-2015-12-05 pytorch-fid",
)
_FID_DIMS = 2048
_UNREADABLE = (
  ValueError,
  OSError,
  EOFError,
  KeyError,
  MemoryError,
  NotImplementedError,
  zipfile.BadZipFile,
  zlib.error,
)


@dataclass(frozen=True, kw_only=True)
class FeatureFile:
  """The features of one set of images or texts.

  Attributes:
    rows: [rows, dims], finite; None if the file holds moments only.
    moments: of the rows, or "mu" and "sigma" of the file, as pytorch-fid
      stores them.
    network: what made them, "" if the file does not say.
    row_of: of each row the image that it belongs to, [rows]; None if each
      row is its own.
  """

  rows: Float[np.ndarray, "rows dims"] | None
  moments: frechet.Moments | None
  network: str
  row_of: np.ndarray | None


def read_features(path: pathlib.Path) -> FeatureFile:
  """Reads a .npy or .npz file.

  Raises:
    InputError: it is damaged, holds Python objects, or other arrays.
  """
  arrays = _arrays(path)
  if {"mu", "sigma"} <= set(arrays):
    rows, moments = None, _moments(arrays, path)
  elif "features" in arrays:
    rows = _matrix(arrays["features"], path)
    moments = frechet.Moments.of(rows) if len(rows) > 1 else None
  else:
    raise InputError(
      f'{path} holds {sorted(arrays)}: expected "features" [rows, dims], or '
      '"mu" and "sigma"'
    )
  row_of = arrays.get("row")
  if row_of is not None and (
    rows is None
    or row_of.shape != (len(rows),)
    or not np.issubdtype(row_of.dtype, np.integer)
  ):
    raise InputError(f'{path}: "row" must be a whole number for each feature')
  return FeatureFile(
    rows=rows,
    moments=moments,
    network=str(arrays.get("network", "")),
    row_of=row_of,
  )


def fid(
  predictions: pathlib.Path, references: Sequence[pathlib.Path]
) -> Scored:
  """Fréchet and kernel distance; called FID and KID on Inception alone.

  Args:
    predictions: features of generated images.
    references: one file, features of real images, or "mu" and "sigma".
  """
  return score_distances(
    read_features(predictions), read_features(references[0])
  )


def score_distances(first: FeatureFile, second: FeatureFile) -> Scored:
  """The distances between two sets of features of one network."""
  if first.network != second.network:
    raise InputError(
      f"the features are of {first.network!r} and of {second.network!r}: take "
      "one network for both"
    )
  if first.moments is None or second.moments is None:
    raise InputError("a covariance needs at least two rows of features")
  distance = frechet.frechet_distance(first.moments, second.moments)
  figures = {"frechet_distance": distance.value}
  notes = []
  if first.rows is not None and second.rows is not None:
    figures["kernel_distance"] = frechet.kernel_distance(
      first.rows, second.rows
    )
  else:
    notes.append("no kernel distance: a file holds moments instead of features")
  if distance.used_offset:
    notes.append("the root was not finite: 1e-6 was added to both diagonals")
  dims = len(first.moments.mean)
  if any(f.rows is not None and len(f.rows) <= dims for f in (first, second)):
    notes.append(
      f"fewer images than the {dims} dimensions: the covariance is singular, "
      "and the distance depends on the number of images"
    )
  if first.network in _FID_NETWORKS and dims == _FID_DIMS:
    figures["fid"] = figures["frechet_distance"]
    if "kernel_distance" in figures:
      figures["kid"] = figures["kernel_distance"]
  else:
    notes.append(
      f"not FID: the features are of {first.network or 'an unnamed network'}, "
      f"{dims} dimensions"
    )
  return Scored(figures=figures, notes=tuple(notes))


def clip_scores(
  predictions: pathlib.Path, references: Sequence[pathlib.Path]
) -> Scored:
  """CLIP scores of images and their texts, by both published rules.

  Args:
    predictions: features of images.
    references: features of the texts, one row an image; and perhaps those of
      reference captions, with "row", the image of each.
  """
  images = read_features(predictions)
  texts = read_features(references[0])
  captions = read_features(references[1]) if len(references) > 1 else None
  return score_clip(images, texts, captions)


def score_clip(
  images: FeatureFile, texts: FeatureFile, captions: FeatureFile | None
) -> Scored:
  """Scores features of one network; see `clip_scores`."""
  given = [file for file in (images, texts, captions) if file is not None]
  if any(file.rows is None for file in given):
    raise InputError("CLIP scores need features, not moments")
  networks = sorted({file.network for file in given})
  if len(networks) > 1:
    raise InputError(
      f"the features are of {networks}: take one network for all"
    )
  scaled = clip_score.scaled_cosines(images.rows, texts.rows)
  scores = {
    "scaled_cosine": scaled,
    "clipscore": clip_score.clipscore(images.rows, texts.rows),
  }
  if captions is not None:
    grouped = _by_image(captions, len(images.rows))
    scores["text_score"] = clip_score.text_scores(texts.rows, grouped)
    scores["ref_clipscore"] = clip_score.ref_clipscore(
      images.rows, texts.rows, grouped
    )
  figures = {name: float(np.mean(some)) for name, some in scores.items()}
  # Of the mean, not of each: torchmetrics.
  figures["scaled_cosine_at_least_0"] = max(0.0, figures["scaled_cosine"])
  ids = tuple(map(str, range(len(scaled))))
  return Scored(
    figures=figures,
    items={
      name: ItemScores(ids=ids, groups=ids, scores=tuple(map(float, some)))
      for name, some in scores.items()
    },
    notes=(f"CLIP network: {images.network or 'not named by the files'}",),
  )


def _by_image(
  captions: FeatureFile, num_images: int
) -> list[Float[np.ndarray, "captions dims"]]:
  if captions.row_of is None:
    raise InputError('the reference captions need "row", the image of each')
  grouped = [captions.rows[captions.row_of == n] for n in range(num_images)]
  lacking = [n for n, rows in enumerate(grouped) if not len(rows)]
  if lacking or len(captions.rows) != sum(map(len, grouped)):
    raise InputError(
      f"{len(lacking)} of {num_images} images have no reference caption, or "
      "captions are of other images: the official script stops here"
    )
  return grouped


def _arrays(path: pathlib.Path) -> Mapping[str, np.ndarray]:
  with open_regular(path) as file:
    try:
      loaded = np.load(file, allow_pickle=False)
      if isinstance(loaded, np.ndarray):
        return {"features": loaded}
      if (
        sum(one.file_size for one in loaded.zip.infolist()) > records.MAX_BYTES
      ):
        raise InputError(
          f"{path} unpacks to more than {records.MAX_BYTES} bytes"
        )
      return {name: loaded[name] for name in loaded.files}
    except InputError:
      raise
    except _UNREADABLE as error:
      raise InputError(
        f"{path} is not a .npy or .npz file of plain arrays: {error}"
      ) from error


def _matrix(
  array: np.ndarray, path: pathlib.Path
) -> Float[np.ndarray, "rows dims"]:
  if array.ndim != 2 or not array.size or array.dtype.kind != "f":
    raise InputError(
      f"{path}: features must be floating point [rows, dims], got "
      f"{array.dtype} {list(array.shape)}"
    )
  if not np.isfinite(array).all():
    raise InputError(
      f"{path}: {int((~np.isfinite(array)).sum())} features are not finite"
    )
  return array.astype(np.float64)


def _moments(
  arrays: Mapping[str, np.ndarray], path: pathlib.Path
) -> frechet.Moments:
  mean, covariance = arrays["mu"], arrays["sigma"]
  if mean.ndim != 1 or covariance.shape != mean.shape * 2:
    raise InputError(
      f"{path}: mu and sigma must be [dims] and [dims, dims], got "
      f"{list(mean.shape)} and {list(covariance.shape)}"
    )
  return frechet.Moments(
    mean=_matrix(mean[None], path)[0], covariance=_matrix(covariance, path)
  )
