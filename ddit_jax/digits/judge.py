"""Does an image keep its prompt? GenEval's logic on the digits in it."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from PIL import Image
from scipy import ndimage
from sklearn import svm

from ddit_jax.digits import scenes
from ddit_jax.digits import world as compositions
from ddit_jax.digits.prompts import Prompt
from ddit_jax.digits.segmentation import Piece, find_pieces
from ddit_jax.digits.world import DIGIT_WORDS, Handwriting, World, handwriting
from ddit_jax.evaluation import geneval

_SIDE = 12  # pixels of the square a crop is resized to
_PENALTY = 10.0  # C of the support vector machine
_NEIGHBOURS = 3
_BLOCK = 1024  # pieces compared at once, so that memory stays in megabytes
_ACCEPTED_SHARE = 0.99  # of real crops by writers the reader has not seen
# Fixed for ever: another seed would be another judge.
_SEED = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Pass:
  """How much one pass over the handwriting is distorted.

  Attributes:
    warp: share of the greatest rotation, shear and stretch.
    blur: standard deviation as a share of the digit's size.
    noise: standard deviation, channels in [0, 1].
  """

  warp: float
  blur: float
  noise: float


# A reader trained on clean crops alone fails on a digit that is drawn a little
# to one side or a little blurred. Chosen on the validation writers.
_PASSES = (
  _Pass(warp=0.0, blur=0.00, noise=0.000),
  _Pass(warp=0.2, blur=0.08, noise=0.012),
  _Pass(warp=0.4, blur=0.06, noise=0.024),
  _Pass(warp=0.6, blur=0.04, noise=0.036),
  _Pass(warp=0.8, blur=0.02, noise=0.048),
  _Pass(warp=1.0, blur=0.00, noise=0.060),
)
_MAX_ROTATION = np.deg2rad(10)
_MAX_SHEAR = 0.15
_MAX_LOG_STRETCH = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Readings:
  """What the reader says about n pieces.

  Attributes:
    digits: int64 [n], the machine's reading, 0 to 9.
    second_opinions: int64 [n], the vote of the three nearest training crops.
    is_digit: bool [n], False if no training crop is as near as real digits
      by unseen writers are. Catches noise, discs, boxes and digits on their
      side, but few bars (they are ones), a third of mirrored digits and no
      average of two digits: look at the images too.
  """

  digits: np.ndarray
  second_opinions: np.ndarray
  is_digit: np.ndarray


class DigitReader:
  """Reads pieces of one world's images; build it with `fit_reader`."""

  def __init__(
    self, features: np.ndarray, digits: np.ndarray, *, max_distance: float
  ):
    """Fits the machine to training crops.

    Args:
      features: float32 [n, 144], from `piece_features`.
      digits: int64 [n], what they show.
      max_distance: to the nearest training crop, of what is still a digit.
    """
    self._machine = svm.SVC(C=_PENALTY, kernel="rbf").fit(features, digits)
    self._features = features
    self._digits = digits
    self._max_distance = max_distance

  def read(self, pieces: Sequence[Piece]) -> Readings:
    """Reads every piece."""
    if not pieces:
      nothing = np.zeros(0, np.int64)
      return Readings(
        digits=nothing, second_opinions=nothing, is_digit=nothing.astype(bool)
      )
    features = piece_features(pieces)
    starts = range(_BLOCK, len(features), _BLOCK)
    nearest, distance = zip(
      *(self._nearest(block) for block in np.split(features, starts)),
      strict=True,
    )
    return Readings(
      digits=self._machine.predict(features),
      second_opinions=_votes(self._digits[np.concatenate(nearest)]),
      is_digit=np.concatenate(distance) <= self._max_distance,
    )

  def _nearest(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the nearest training crops, nearest first, and its distance."""
    distances = _distances(features, self._features)
    rows = np.argpartition(distances, _NEIGHBOURS, axis=1)[:, :_NEIGHBOURS]
    near = np.take_along_axis(distances, rows, axis=1)
    order = np.argsort(near, axis=1)
    return np.take_along_axis(rows, order, axis=1), near.min(axis=1)


def fit_reader(
  world: World, *, splits: Sequence[str] = ("train", "validation")
) -> DigitReader:
  """A reader for digits of the world's size, in about two seconds.

  Glyphs are drawn as the world draws them, distorted in six passes, and cut
  out as generated images are. The rejection threshold is the distance that
  99 % of undistorted crops keep to the nearest crop of all other writers.

  Args:
    world: the sizes and colours.
    splits: whose handwriting to learn; never the one that is to be read.

  Raises:
    ValueError: if a distorted digit is too faint to be found.
  """
  rng = np.random.default_rng(_SEED)
  features, digits, forms, is_clean = [], [], [], []
  for split in splits:
    writing = handwriting(split)
    for distortion in _PASSES:
      crops = _practice_crops(writing, world, distortion, rng)
      features.append(piece_features(crops))
      digits.append(writing.labels)
      forms.append(writing.forms)
      is_clean.append(np.full(len(crops), distortion is _PASSES[0]))
  all_features = np.concatenate(features)
  return DigitReader(
    all_features,
    np.concatenate(digits),
    max_distance=_distance_between_writers(
      all_features, np.concatenate(forms), np.concatenate(is_clean)
    ),
  )


def piece_features(pieces: Sequence[Piece]) -> np.ndarray:
  """Crops as 12 x 12 squares of brightness, float32 [n, 144].

  A crop is padded with black to a square, so that a narrow one stays narrow,
  and its brightest pixel becomes 1.
  """
  features = np.empty((len(pieces), _SIDE * _SIDE), np.float32)
  for row, piece in enumerate(pieces):
    height, width = piece.brightness.shape
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    square = np.zeros((side, side), np.float32)
    square[top : top + height, left : left + width] = piece.brightness
    resized = Image.fromarray(square).resize(
      (_SIDE, _SIDE), Image.Resampling.BILINEAR
    )
    features[row] = np.asarray(resized).ravel()
  return features / features.max(axis=1, keepdims=True)


def _practice_crops(
  writing: Handwriting,
  world: World,
  distortion: _Pass,
  rng: np.random.Generator,
) -> list[Piece]:
  """The largest piece of every glyph, drawn in any colour and distorted."""
  size = world.digit_size
  canvas = size + 2 * max(4, size // 4)
  sheet = dataclasses.replace(world, canvas=canvas, max_objects=1, jitter_px=0)
  drawn = scenes.render_all(
    [
      scenes.Scene(
        (
          scenes.Thing(
            digit=int(digit),
            color=int(rng.integers(len(compositions.COLORS))),
            x=canvas / 2 + rng.uniform(-0.5, 0.5),
            y=canvas / 2 + rng.uniform(-0.5, 0.5),
            glyph=row,
          ),
        )
      )
      for row, digit in enumerate(writing.labels)
    ],
    sheet,
    writing,
  )
  distorted = _distort(drawn, distortion, rng, digit_size=size)
  found = find_pieces(distorted, digit_size=size)
  if lost := sum(not pieces for pieces in found):
    raise ValueError(
      f"{lost} of {len(found)} digits of {size} px leave no piece once "
      f"distorted ({distortion}): choose a larger digit_size"
    )
  return [max(pieces, key=lambda p: p.brightness.size) for pieces in found]


def _distort(
  images: np.ndarray,
  distortion: _Pass,
  rng: np.random.Generator,
  *,
  digit_size: int,
) -> np.ndarray:
  """Each image turned, sheared, stretched, blurred and noised, uint8."""
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
  features: np.ndarray, forms: np.ndarray, is_clean: np.ndarray
) -> float:
  """What 99 % of clean crops keep to the nearest crop of another writer."""
  nearest = [
    _distances(
      features[is_clean & (forms == form)], features[forms != form]
    ).min(axis=1)
    for form in np.unique(forms)
  ]
  return float(np.quantile(np.concatenate(nearest), _ACCEPTED_SHARE))


def _distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
  """Euclidean distances, float32 [len(first), len(second)]."""
  squares = (first**2).sum(axis=1)[:, None] + (second**2).sum(axis=1)
  return np.sqrt(np.maximum(squares - 2 * first @ second.T, 0))


def _votes(neighbours: np.ndarray) -> np.ndarray:
  """Majority of three digits, nearest first; of three different the first."""
  first, second, third = neighbours.T
  return np.where(second == third, second, first)


UNREADABLE = "unreadable"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Findings:
  """The things in an image, by two ways of reading them.

  Attributes:
    first: every thing by the first reading.
    agreed: the same things; those whose second reading differs are
      "unreadable".
  """

  first: tuple[geneval.Detection, ...]
  agreed: tuple[geneval.Detection, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
  """Whether an image keeps its prompt.

  Attributes:
    is_correct: True if it does by the first reading of every digit.
    is_strictly_correct: True if it also does when a digit counts only where
      the second reading agrees.
    reasons: what is wrong by the first reading, one line each.
  """

  is_correct: bool
  is_strictly_correct: bool
  reasons: tuple[str, ...]


class Checker:
  """Finds and reads the digits of one world's images.

  Building one takes about two seconds; `checker_for` builds each only once.
  """

  def __init__(self, world: World):
    self._world = world
    self._reader = fit_reader(world)

  def find(self, images: np.ndarray) -> list[Findings]:
    """The things in each image, uint8 [n, S, S, 3].

    Raises:
      ValueError: for images of another size or type.
    """
    side = self._world.canvas
    if images.dtype != np.uint8 or images.shape[1:] != (side, side, 3):
      raise ValueError(
        f"images must be uint8 [n, {side}, {side}, 3] in this world, got "
        f"{images.dtype} {list(images.shape)}"
      )
    pieces = find_pieces(images, digit_size=self._world.digit_size)
    readings = self._reader.read([p for found in pieces for p in found])
    ends = np.cumsum([len(found) for found in pieces], dtype=int)
    return [
      _describe(found, readings, first_row=end - len(found))
      for found, end in zip(pieces, ends, strict=True)
    ]

  def detections(self, image: np.ndarray) -> list[geneval.Detection]:
    """The things in one image, uint8 [S, S, 3], by the first reading.

    Pieces that are no digit have the class "unreadable".
    """
    return list(self.find(image[None])[0].first)

  def verdict(self, prompt: Prompt, image: np.ndarray) -> Verdict:
    """Judges one image, uint8 [S, S, 3]."""
    return judge(prompt, self.find(image[None])[0])


@functools.cache
def checker_for(world: World) -> Checker:
  """The checker of this world, built at the first call."""
  return Checker(world)


def judge(prompt: Prompt, findings: Findings) -> Verdict:
  """Judges what was found in an image."""
  metadata = prompt.to_metadata()
  lenient = geneval.judge(metadata, findings.first)
  agreed = geneval.judge(metadata, findings.agreed)
  return Verdict(
    is_correct=lenient.is_correct,
    # Agreement alone could forgive one digit too many, where it is disputed.
    is_strictly_correct=lenient.is_correct and agreed.is_correct,
    reasons=lenient.reasons,
  )


def _describe(
  pieces: Sequence[Piece], readings: Readings, *, first_row: int
) -> Findings:
  """One image's pieces, whose readings begin at `first_row`."""
  first, agreed = [], []
  for row, piece in enumerate(pieces, first_row):
    digit, second = readings.digits[row], readings.second_opinions[row]
    name = DIGIT_WORDS[digit] if readings.is_digit[row] else UNREADABLE
    for things, class_name in (
      (first, name),
      (agreed, name if digit == second else UNREADABLE),
    ):
      things.append(
        geneval.Detection(
          class_name=class_name, box=piece.box, color=piece.color
        )
      )
  return Findings(first=tuple(first), agreed=tuple(agreed))
