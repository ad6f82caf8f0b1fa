"""Segments of a generated image: connected ink that should be one digit."""

import dataclasses

import numpy as np
from jaxtyping import Complex, Float, Float32, Int, Int64, Shaped, UInt8
from scipy import ndimage
from scipy.sparse import csgraph

from ddit_jax.digits.world import COLORS, HUES

_MIN_BRIGHTNESS = 0.25  # the largest channel of ink exceeds this
_JOIN_DISTANCE_PX = 2
# As fractions of the area of a digit's cell.
_CRUMB_AREA = 0.05  # below it, joined to a neighbour of any colour
_MIN_AREA = 0.08  # below it after joining, dropped
# Below this a segment has no clear hue; the worlds' ink has 0.75.
_MIN_SATURATION = 0.25
# Eight neighbours in an image, none in the images before and after it.
_NEIGHBOURS = np.stack([np.zeros((3, 3)), np.ones((3, 3)), np.zeros((3, 3))])


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Segment:
  """Connected ink that should be one digit.

  Attributes:
    box: left, top, right, bottom in pixels; right and bottom are exclusive.
    color: name of the nearest of the eight hues; None if it has no clear hue.
    brightness: of the box, largest channel in [0, 1];
      ink of other segments inside the box is 0.
  """

  box: tuple[int, int, int, int]
  color: str | None
  brightness: Float32[np.ndarray, "height width"]


def find_segments(
  images: Shaped[np.ndarray, "..."], *, digit_size: int
) -> list[list[Segment]]:
  """The segments of each image, in the order of their topmost ink.

  Ink is 8-connected. Two components less than 2 px apart are one segment if
  they have the same colour name or if one of them is a crumb (less than 5 % of
  a digit's cell). Segments of less than 8 % of the cell are dropped.

  Args:
    images: uint8 [n, height, width, 3].
    digit_size: side of a digit's cell in pixels.

  Raises:
    ValueError: images of another type or shape.
  """
  if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
    raise ValueError(
      f"images must be uint8 [n, height, width, 3], got {images.dtype} "
      f"{list(images.shape)}"
    )
  if not len(images):
    return []
  brightness = images.max(axis=3).astype(np.float32) / 255
  hues = hue_vectors(images)
  labels, _ = ndimage.label(brightness > _MIN_BRIGHTNESS, _NEIGHBOURS)
  components = _measure(labels, brightness, hues)
  cell = digit_size**2
  labels = _join(labels, components, max_crumb=_CRUMB_AREA * cell)
  joined = _measure(labels, brightness, hues)
  found: list[list[Segment]] = [[] for _ in images]
  for label in np.flatnonzero(joined.areas >= _MIN_AREA * cell):
    left, top, right, bottom = (int(edge) for edge in joined.boxes[label])
    image = joined.image_of[label]
    window = (image, slice(top, bottom), slice(left, right))
    is_other = (labels[window] != label + 1) & (labels[window] > 0)
    segment = Segment(
      box=(left, top, right, bottom),
      color=joined.colors[label],
      brightness=np.where(is_other, 0, brightness[window]),
    )
    found[image].append(segment)
  return found


def hue_vectors(
  images: UInt8[np.ndarray, "*dims 3"],
) -> Complex[np.ndarray, "*dims"]:
  """Hue as direction and chroma (max - min) as length of a complex number.

  Summed over a region they point along its circular mean hue. Red points
  along 1; lengths are in [0, 1].
  """
  red, green, blue = np.moveaxis(images.astype(np.float32) / 255, -1, 0)
  largest = np.maximum(np.maximum(red, green), blue)
  chroma = largest - np.minimum(np.minimum(red, green), blue)
  divisor = np.where(chroma > 0, chroma, 1)
  sixths = np.where(
    largest == red,
    (green - blue) / divisor,
    np.where(
      largest == green,
      2 + (blue - red) / divisor,
      4 + (red - green) / divisor,
    ),
  )
  return chroma * np.exp(1j * np.pi / 3 * sixths)


def color_name(hue_vector: complex, brightness: float) -> str | None:
  """The nearest colour of a region, from sums over its pixels.

  None for grey or mixed hues: the sum is shorter than a quarter of
  `brightness`.
  """
  if abs(hue_vector) < _MIN_SATURATION * brightness:
    return None
  offset = np.angle(hue_vector, deg=True) - np.array(HUES)
  distance = np.abs((offset + 180) % 360 - 180)
  return COLORS[int(distance.argmin())]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Regions:
  """Properties of the labels 1, 2, ...; index 0 describes label 1."""

  image_of: Int64[np.ndarray, " labels"]
  boxes: Int64[np.ndarray, "labels 4"]  # right and bottom exclusive
  areas: Float[np.ndarray, " labels"]  # pixels
  colors: list[str | None]


def _measure(
  labels: Int[np.ndarray, "images y x"],
  brightness: Float32[np.ndarray, "images y x"],
  hues: Complex[np.ndarray, "images y x"],
) -> _Regions:
  windows = ndimage.find_objects(labels)

  def total(
    values: Float[np.ndarray, "images y x"],
  ) -> Float[np.ndarray, " labels"]:
    weights = values.ravel()
    sums = np.bincount(labels.ravel(), weights, minlength=len(windows) + 1)
    return sums[1:]

  hue_sums = total(hues.real) + 1j * total(hues.imag)
  return _Regions(
    image_of=np.array([image.start for image, _, _ in windows], np.int64),
    boxes=np.array(
      [(x.start, y.start, x.stop, y.stop) for _, y, x in windows], np.int64
    ).reshape(-1, 4),
    areas=total(np.ones_like(brightness)),
    colors=[
      color_name(hue_sum, value)
      for hue_sum, value in zip(hue_sums, total(brightness), strict=True)
    ],
  )


def _join(
  labels: Int[np.ndarray, "images y x"], regions: _Regions, *, max_crumb: float
) -> Int[np.ndarray, "images y x"]:
  """Relabels: all components of one segment get one label, from 1 on."""
  segment_of = np.zeros(len(regions.areas) + 1, labels.dtype)
  segments = 0
  first_of_image = np.flatnonzero(np.diff(regions.image_of, prepend=-1))
  for members in np.split(np.arange(len(regions.areas)), first_of_image[1:]):
    count, group = _groups(members, regions, max_crumb=max_crumb)
    segment_of[members + 1] = segments + 1 + group
    segments += count
  return segment_of[labels]


def _groups(
  members: Int[np.ndarray, " members"], regions: _Regions, *, max_crumb: float
) -> tuple[int, Int[np.ndarray, " members"]]:
  """Number of segments in one image, and the segment of each component."""
  if len(members) < 2:
    return len(members), np.zeros(len(members), np.int64)
  near_edges, far_edges = np.split(regions.boxes[members], 2, axis=1)
  gaps = near_edges[:, None] - far_edges[None]
  distance = np.maximum(gaps, gaps.transpose(1, 0, 2)).max(axis=2)
  colors = np.array([str(regions.colors[m]) for m in members])
  is_crumb = regions.areas[members] < max_crumb
  belong = (colors[:, None] == colors) | is_crumb[:, None] | is_crumb
  return csgraph.connected_components(
    belong & (distance < _JOIN_DISTANCE_PX), directed=False
  )
