"""Fréchet distance and kernel distance between two sets of features.

They are FID and KID only on the features of one network, Inception of
2015-12-05. Source: clean-fid's functions of the features.
"""

import warnings
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from jaxtyping import Float, Inexact

_OFFSET = 1e-6
_MAX_IMAGINARY = 1e-3
_SUBSETS = 100
_MAX_SUBSET = 1000


@dataclass(frozen=True, kw_only=True)
class Moments:
  """Mean and unbiased covariance of features.

  Attributes:
    mean: [dims].
    covariance: [dims, dims].
  """

  mean: Float[np.ndarray, " dims"]
  covariance: Float[np.ndarray, "dims dims"]

  @classmethod
  def of(cls, features: Float[np.ndarray, "images dims"]) -> "Moments":
    """Of at least two rows."""
    features = np.asarray(features, np.float64)
    return cls(
      mean=features.mean(axis=0),
      covariance=np.atleast_2d(np.cov(features, rowvar=False)),
    )


@dataclass(frozen=True, kw_only=True)
class FrechetDistance:
  """The distance, and how it came about.

  Attributes:
    value: |m1 - m2|^2 + tr(S1 + S2 - 2 sqrt(S1 S2)).
    used_offset: True if the root was not finite and 1e-6 was added to both
      diagonals.
  """

  value: float
  used_offset: bool


def frechet_distance(first: Moments, second: Moments) -> FrechetDistance:
  """The Fréchet distance of two Gaussians; can be slightly below 0.

  Raises:
    ValueError: unequal dimensions, or a root whose diagonal is not real.
  """
  if first.mean.shape != second.mean.shape:
    raise ValueError(
      f"features of {len(first.mean)} and {len(second.mean)} dimensions cannot "
      "be compared: use one network for both"
    )
  difference = first.mean - second.mean
  root = _root(first.covariance @ second.covariance)
  used_offset = not np.isfinite(root).all()
  if used_offset:
    offset = _OFFSET * np.eye(len(difference))
    root = _root((first.covariance + offset) @ (second.covariance + offset))
  imaginary = np.abs(np.diagonal(root).imag).max()
  if imaginary > _MAX_IMAGINARY:
    raise ValueError(
      f"the root of the covariances has an imaginary part of {imaginary:.3g}: "
      "the published function stops; use more samples than dimensions"
    )
  trace = (
    np.trace(first.covariance)
    + np.trace(second.covariance)
    - 2 * np.trace(root.real)
  )
  return FrechetDistance(
    value=float(difference @ difference + trace), used_offset=used_offset
  )


def kernel_distance(
  first: Float[np.ndarray, "images dims"],
  second: Float[np.ndarray, "others dims"],
  *,
  seed: int = 0,
) -> float:
  """Unbiased squared MMD under (x y / dims + 1)^3, over random subsets.

  The mean of 100 subsets of at most 1,000 rows, drawn without replacement. Two
  sets of one size up to that are compared once, as a whole: every subset would
  be all rows.

  Args:
    first: features.
    second: features of other images.
    seed: of the subsets (the published function draws them without a seed).

  Raises:
    ValueError: fewer than two rows.
  """
  size = min(len(first), len(second), _MAX_SUBSET)
  if size < 2:
    raise ValueError(f"the kernel distance needs two rows, got {size}")
  if len(first) == len(second) == size:
    return _squared_mmd(first, second)
  rng = np.random.default_rng(seed)
  return float(
    np.mean(
      [
        _squared_mmd(
          *(
            rows[rng.choice(len(rows), size, replace=False)]
            for rows in (first, second)
          )
        )
        for _ in range(_SUBSETS)
      ]
    )
  )


def _root(
  product: Float[np.ndarray, "dims dims"],
) -> Inexact[np.ndarray, "dims dims"]:
  with warnings.catch_warnings():
    # Covariances of few samples are singular; callers say so in words.
    warnings.simplefilter("ignore", scipy.linalg.LinAlgWarning)
    return scipy.linalg.sqrtm(product)


def _squared_mmd(
  first: Float[np.ndarray, "images dims"],
  second: Float[np.ndarray, "images dims"],
) -> float:
  size, dims = first.shape

  def kernel(a, b):
    return (a @ b.T / dims + 1) ** 3

  within = kernel(first, first) + kernel(second, second)
  different = within.sum() - np.trace(within)
  across = kernel(first, second).sum()
  return float((different / (size - 1) - 2 * across / size) / size)
