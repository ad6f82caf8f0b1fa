"""A classifier for the digit in a segment of an image."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8
from PIL import Image
from scipy import ndimage
from sklearn import svm

from ddit_jax.digits.rendering import render_all
from ddit_jax.digits.scenes import Scene, SceneObject
from ddit_jax.digits.segmentation import Segment, find_segments
from ddit_jax.digits.world import COLORS, Handwriting, World, handwriting

_SIDE = 12  # pixels of the square a crop is resized to
_PENALTY = 10.0  # C of the support vector machine
_NUM_NEIGHBOURS = 3
_BLOCK = 1024  # segments compared at once; limits memory to megabytes
_ACCEPTED_FRACTION = 0.99  # of real crops by unseen writers
# Never change it: scores from different seeds are not comparable.
_SEED = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Distortion:
  """The distortion of one copy of the training handwriting.

  Attributes:
    warp: fraction of the largest rotation, shear and stretch.
    blur: standard deviation, as a fraction of the digit's size.
    noise: standard deviation, for channels in [0, 1].
  """

  warp: float
  blur: float
  noise: float


# A classifier trained on clean crops alone fails on slightly shifted or blurred
# digits. Chosen on the validation writers.
_DISTORTIONS = (
  _Distortion(warp=0.0, blur=0.00, noise=0.000),
  _Distortion(warp=0.2, blur=0.08, noise=0.012),
  _Distortion(warp=0.4, blur=0.06, noise=0.024),
  _Distortion(warp=0.6, blur=0.04, noise=0.036),
  _Distortion(warp=0.8, blur=0.02, noise=0.048),
  _Distortion(warp=1.0, blur=0.00, noise=0.060),
)
_MAX_ROTATION = np.deg2rad(10)
_MAX_SHEAR = 0.15
_MAX_LOG_STRETCH = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
  """The classifier's results for n segments.

  Attributes:
    digits: by the support vector machine, 0 to 9.
    second_opinions: the vote of the three nearest training crops.
    is_digit: False if no training crop is as close as to real digits
      by unseen writers. Rejects noise, discs, boxes and digits turned by 90
      degrees, but few bars (they are ones), a third of mirrored digits and no
      average of two digits: look at the images too.
  """

  digits: Int64[np.ndarray, " segments"]
  second_opinions: Int64[np.ndarray, " segments"]
  is_digit: Bool[np.ndarray, " segments"]


class DigitClassifier:
  """Classifies segments of one world's images; see `fit_classifier`."""

  def __init__(
    self,
    features: Float32[np.ndarray, "crops 144"],
    digits: Int64[np.ndarray, " crops"],
    *,
    max_distance: float,
  ):
    """Fits the support vector machine.

    Args:
      features: from `segment_features`.
      digits: their labels.
      max_distance: largest distance of a digit to the nearest training crop.
    """
    self._machine = svm.SVC(C=_PENALTY, kernel="rbf").fit(features, digits)
    self._features = features
    self._digits = digits
    self._max_distance = max_distance

  def predict(self, segments: Sequence[Segment]) -> Predictions:
    """Classifies every segment."""
    if not segments:
      none = np.zeros(0, np.int64)
      return Predictions(
        digits=none, second_opinions=none, is_digit=none.astype(bool)
      )
    features = segment_features(segments)
    starts = range(_BLOCK, len(features), _BLOCK)
    nearest, distance = zip(
      *(self._nearest(block) for block in np.split(features, starts)),
      strict=True,
    )
    return Predictions(
      digits=self._machine.predict(features),
      second_opinions=_votes(self._digits[np.concatenate(nearest)]),
      is_digit=np.concatenate(distance) <= self._max_distance,
    )

  def _nearest(
    self, features: Float32[np.ndarray, "segments 144"]
  ) -> tuple[
    Int64[np.ndarray, "segments neighbours"], Float32[np.ndarray, " segments"]
  ]:
    """Rows of the nearest training crops, and the distance of the first."""
    distances = _distances(features, self._features)
    rows = np.argpartition(distances, _NUM_NEIGHBOURS, axis=1)[
      :, :_NUM_NEIGHBOURS
    ]
    near = np.take_along_axis(distances, rows, axis=1)
    order = np.argsort(near, axis=1)
    return np.take_along_axis(rows, order, axis=1), near.min(axis=1)


def fit_classifier(
  world: World, *, splits: Sequence[str] = ("train", "validation")
) -> DigitClassifier:
  """A classifier of digits of the world's size; takes about two seconds.

  Glyphs are rendered as in the world, in six distorted copies, and segmented
  like generated images. The rejection threshold is the distance within which
  99 % of undistorted crops have a crop by another writer.

  Args:
    world: the sizes and colours.
    splits: whose handwriting to train on; never the one to be classified.

  Raises:
    ValueError: a distorted digit is too faint to be found.
  """
  rng = np.random.default_rng(_SEED)
  features, digits, forms, is_clean = [], [], [], []
  for split in splits:
    writing = handwriting(split)
    for distortion in _DISTORTIONS:
      crops = _training_crops(writing, world, distortion, rng)
      features.append(segment_features(crops))
      digits.append(writing.labels)
      forms.append(writing.forms)
      is_clean.append(np.full(len(crops), distortion is _DISTORTIONS[0]))
  all_features = np.concatenate(features)
  return DigitClassifier(
    all_features,
    np.concatenate(digits),
    max_distance=_distance_between_writers(
      all_features, np.concatenate(forms), np.concatenate(is_clean)
    ),
  )


def segment_features(
  segments: Sequence[Segment],
) -> Float32[np.ndarray, "segments 144"]:
  """Crops as 12 x 12 squares of brightness.

  A crop is padded with black to a square, which keeps its aspect ratio, and
  scaled to a brightest pixel of 1.
  """
  features = np.empty((len(segments), _SIDE * _SIDE), np.float32)
  for row, segment in enumerate(segments):
    height, width = segment.brightness.shape
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    square = np.zeros((side, side), np.float32)
    square[top : top + height, left : left + width] = segment.brightness
    resized = Image.fromarray(square).resize(
      (_SIDE, _SIDE), Image.Resampling.BILINEAR
    )
    features[row] = np.asarray(resized).ravel()
  return features / features.max(axis=1, keepdims=True)


def _training_crops(
  writing: Handwriting,
  world: World,
  distortion: _Distortion,
  rng: np.random.Generator,
) -> list[Segment]:
  """The largest segment of every glyph, in a random colour, distorted."""
  size = world.digit_size
  canvas = size + 2 * max(4, size // 4)
  single = dataclasses.replace(world, canvas=canvas, max_objects=1, jitter_px=0)
  rendered = render_all(
    [
      Scene(
        (
          SceneObject(
            digit=int(digit),
            color=int(rng.integers(len(COLORS))),
            x=canvas / 2 + rng.uniform(-0.5, 0.5),
            y=canvas / 2 + rng.uniform(-0.5, 0.5),
            glyph=row,
          ),
        )
      )
      for row, digit in enumerate(writing.labels)
    ],
    single,
    writing,
  )
  distorted = _distort(rendered, distortion, rng, digit_size=size)
  found = find_segments(distorted, digit_size=size)
  if lost := sum(not segments for segments in found):
    raise ValueError(
      f"{lost} of {len(found)} digits of {size} px leave no segment after "
      f"{distortion}: choose a larger digit_size"
    )
  return [max(segments, key=lambda p: p.brightness.size) for segments in found]


def _distort(
  images: UInt8[np.ndarray, "images side side 3"],
  distortion: _Distortion,
  rng: np.random.Generator,
  *,
  digit_size: int,
) -> UInt8[np.ndarray, "images side side 3"]:
  """Rotates, shears, stretches, blurs and adds noise to images."""
  count, side = images.shape[:2]
  angle, shear, stretch_y, stretch_x = distortion.warp * rng.uniform(
    -1, 1, (4, count, 1, 1)
  )
  angle = _MAX_ROTATION * angle
  middle = (side - 1) / 2
  y, x = np.mgrid[:side, :side] - middle
  from_y = np.cos(angle) * y + np.sin(angle) * x
  from_x = np.cos(angle) * x - np.sin(angle) * y + _MAX_SHEAR * shear * from_y
  from_y = middle + from_y * np.exp(_MAX_LOG_STRETCH * stretch_y)
  from_x = middle + from_x * np.exp(_MAX_LOG_STRETCH * stretch_x)
  which = np.broadcast_to(np.arange(count)[:, None, None], from_y.shape)
  warped = np.stack(
    [
      ndimage.map_coordinates(channel, [which, from_y, from_x], order=1)
      for channel in np.moveaxis(images.astype(np.float32), -1, 0)
    ],
    axis=-1,
  )
  blur = distortion.blur * digit_size
  blurred = ndimage.gaussian_filter(warped, (0, blur, blur, 0))
  noise = 255 * distortion.noise * rng.standard_normal(blurred.shape)
  return np.rint(np.clip(blurred + noise, 0, 255)).astype(np.uint8)


def _distance_between_writers(
  features: Float32[np.ndarray, "crops 144"],
  forms: Int64[np.ndarray, " crops"],
  is_clean: Bool[np.ndarray, " crops"],
) -> float:
  """The 0.99 quantile of clean crops' distance to another writer's crop."""
  nearest = [
    _distances(
      features[is_clean & (forms == form)], features[forms != form]
    ).min(axis=1)
    for form in np.unique(forms)
  ]
  return float(np.quantile(np.concatenate(nearest), _ACCEPTED_FRACTION))


def _distances(
  first: Float32[np.ndarray, "n features"],
  second: Float32[np.ndarray, "m features"],
) -> Float32[np.ndarray, "n m"]:
  """Euclidean distances of all pairs."""
  squares = (first**2).sum(axis=1)[:, None] + (second**2).sum(axis=1)
  return np.sqrt(np.maximum(squares - 2 * first @ second.T, 0))


def _votes(
  neighbours: Int64[np.ndarray, "segments 3"],
) -> Int64[np.ndarray, " segments"]:
  """Majority of three digits, nearest first; the first if all differ."""
  first, second, third = neighbours.T
  return np.where(second == third, second, first)
