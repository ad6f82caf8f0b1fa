"""Batches of images of nearly the same aspect ratio.

Aspect ratio bucketing: the images of a batch share one of a few shapes of
about the same area, and each image goes to the shape that cuts least of it.
"""

import collections
import concurrent.futures
import errno
import hashlib
import itertools
import sys
from collections.abc import Callable, Mapping, Sequence

import grain
import numpy as np
from jaxtyping import Int

from ddit_jax.data.example import BadRecord, Source, TrainingRecord
from ddit_jax.data.image_header import HeaderError, image_size_of_bytes
from ddit_jax.data.mixture import Mixture, RowSelection, SourceOrder
from ddit_jax.data.schedule import WeightSchedule, parse_schedule
from ddit_jax.errors import InputError

# (height, width) in pixels.
Shape = tuple[int, int]

# Records whose sizes a thread reads in one go.
_CHUNK = 1024
# Numbers of errors that are a file's own and come back at every start: it is
# missing, may not be read, or its name cannot be one.
_OF_THE_FILE = (
  errno.ENOENT,
  errno.ENOTDIR,
  errno.EISDIR,
  errno.EACCES,
  errno.EPERM,
  errno.ELOOP,
  errno.ENAMETOOLONG,
  errno.EINVAL,
)

# Weights of buckets are rounded to this fraction of a phase's batches.
_RESOLUTION = 10_000


def lost_share(size: Shape, shape: Shape) -> float:
  """The share of an image's pixels outside a crop of the shape, in [0, 1)."""
  across, down = size[1] * shape[0], size[0] * shape[1]
  return 1 - min(across, down) / max(across, down)


def nearest_shape(size: Shape, shapes: Sequence[Shape]) -> Shape:
  """The shape that loses the smallest share of an image's pixels."""
  return min(shapes, key=lambda shape: (lost_share(size, shape), shape))


def image_sizes(source: Source, num_threads: int) -> list[Shape | None]:
  """Every record's image size, from headers; each file is read once.

  None stands for records without an image or with a bad one, which training
  reports when it reads them.

  Raises:
    InputError: the operating system cannot read a file now. A record that has
      no size at one start and one at the next would change the order of others.
  """

  def some(start: int) -> list[Shape | None]:
    stop = min(start + _CHUNK, len(source))
    return [_image_size(source, index) for index in range(start, stop)]

  with concurrent.futures.ThreadPoolExecutor(max(num_threads, 1)) as pool:
    chunks = pool.map(some, range(0, len(source), _CHUNK))
    return list(itertools.chain.from_iterable(chunks))


def _image_size(source: Source, index: int) -> Shape | None:
  try:
    image = source[index].image
    return None if image is None else tuple(image_size_of_bytes(image))
  except HeaderError:
    return None
  except (BadRecord, OSError) as error:
    cause = error.__cause__ if isinstance(error, BadRecord) else error
    # Libraries raise OSError for damaged files, too, without a number.
    number = getattr(cause, "errno", None)
    if number is None or number in _OF_THE_FILE:
      return None
    raise InputError(
      f"{source.name}: the size of an image cannot be read ({error}): try "
      "again, or take the file out"
    ) from error


def shape_digest(numbers: Int[np.ndarray, " rows"]) -> str:
  """Hex digest of the number of each record's shape."""
  data = np.ascontiguousarray(numbers, "<i8").tobytes()
  return hashlib.blake2b(data, digest_size=8).hexdigest()


def assign_shapes(
  sizes: Mapping[str, Sequence[Shape | None]],
  shapes: Sequence[Shape],
  *,
  square: Shape,
  least: int,
) -> dict[str, Int[np.ndarray, " rows"]]:
  """The number of the shape of every record of every source.

  A shape of fewer than `least` images is given up, as a batch of it would
  repeat them: they go to the best of the others. Records without a size are
  squares.

  Args:
    sizes: source's name to its images' sizes.
    shapes: numbered by their place.
    square: one of `shapes`, which is always kept.
    least: images that a shape must have in all sources together.
  """
  # Few sizes are common to many images.
  found = collections.Counter(x for known in sizes.values() for x in known)
  num_images: collections.Counter[Shape] = collections.Counter()
  for size, count in found.items():
    if size is not None:
      num_images[nearest_shape(size, shapes)] += count
  kept = [x for x in shapes if x == square or num_images[x] >= least]
  numbers = {
    size: shapes.index(square if size is None else nearest_shape(size, kept))
    for size in found
  }
  return {
    name: np.array([numbers[size] for size in known], np.int64)
    for name, known in sizes.items()
  }


class BucketMixture:
  """Records by their position in training, one shape for each batch.

  Each shape has a `Mixture` of its own. The sources keep the weights of their
  schedule up to rounding to a ten-thousandth: a shape's batches are as frequent
  as its records, and within them a source is weighted by its records of that
  shape.

  Attributes:
    batch_size: records of one step.
    record_bytes: size of the largest record in memory.
  """

  def __init__(
    self,
    numbers: Mapping[str, Int[np.ndarray, " rows"]],
    schedule: WeightSchedule,
    *,
    batch_size: int,
    mixture_of: Callable[[int, WeightSchedule], Mixture],
  ):
    """Args:
    numbers: source's name to the number of the shape of each record.
    schedule: weights of sources by step.
    batch_size: global.
    mixture_of: number of a shape and the weights of its sources by the
      batches of that shape -> its records.
    """
    self.batch_size = batch_size
    counts = {
      name: collections.Counter(found.tolist())
      for name, found in numbers.items()
    }
    weights = {
      phase.start: _weights(dict(phase.parts), counts)
      for phase in schedule.phases
    }
    batches = parse_schedule(
      {
        start: {f"{b}": sum(parts.values()) for b, parts in of_shape.items()}
        for start, of_shape in weights.items()
      }
    )
    order = SourceOrder(batches, batch_size=1)
    self._mixtures = [
      mixture_of(int(name), _local_schedule(int(name), weights, order))
      for name in order.names
    ]
    self._order = _BatchOrder(order, self._mixtures, batch_size)
    self.record_bytes = max(one.record_bytes for one in self._mixtures)

  def __len__(self) -> int:
    return sys.maxsize

  def __getitem__(self, position: int) -> TrainingRecord:
    """The record at a position, 0 or more."""
    mixture, place = self._order.place(position)
    return self._mixtures[mixture][place]

  def record_id(self, position: int) -> str:
    """The id of the record at a position, for logs."""
    mixture, place = self._order.place(position)
    return self._mixtures[mixture].record_id(place)

  def rows(self, rows: Sequence[int], start: int = 0) -> grain.MapDataset:
    """See `Mixture.rows`."""
    records = [x for one in self._mixtures for x in one.records]
    return grain.MapDataset.select_from_datasets(
      records, RowSelection(self._order, tuple(rows), start)
    )


class _BatchOrder:
  """The data set at a position, and its number of earlier occurrences."""

  def __init__(
    self, order: SourceOrder, mixtures: Sequence[Mixture], batch_size: int
  ):
    self.batch_size = batch_size
    self._batches = order
    self._orders = [one.order for one in mixtures]
    sizes = [len(one.names) for one in self._orders]
    self._offsets = np.cumsum([0, *sizes]).tolist()

  def place(self, position: int) -> tuple[int, int]:
    """(number of the mixture, position in it)."""
    batch, row = divmod(position, self.batch_size)
    mixture, earlier = self._batches.locate(batch)
    return mixture, earlier * self.batch_size + row

  def locate(self, position: int) -> tuple[int, int]:
    """(number of the source among those of all mixtures, earlier records)."""
    mixture, place = self.place(position)
    source, visit = self._orders[mixture].locate(place)
    return self._offsets[mixture] + source, visit


def _weights(
  parts: Mapping[str, int], counts: Mapping[str, Mapping[int, int]]
) -> dict[int, dict[str, int]]:
  """Number of a shape -> source -> weight, whole numbers of one scale."""
  total = sum(parts.values())
  weights: dict[int, dict[str, int]] = collections.defaultdict(dict)
  for name, part in parts.items():
    num_records = sum(counts[name].values())
    for number, count in counts[name].items():
      share = part / total * count / num_records
      weights[number][name] = max(1, round(share * _RESOLUTION))
  return dict(weights)


def _local_schedule(
  number: int,
  weights: Mapping[int, Mapping[int, Mapping[str, int]]],
  order: SourceOrder,
) -> WeightSchedule:
  """The weights of a shape's sources by its own batches."""
  return parse_schedule(
    {
      order.counts(start)[f"{number}"]: of_shape[number]
      for start, of_shape in weights.items()
      if number in of_shape
    }
  )


def bucket_report(
  task: str,
  shapes: Sequence[Shape],
  numbers: Mapping[str, Int[np.ndarray, " rows"]],
) -> str:
  """One line with each shape's records."""
  joined = np.concatenate(list(numbers.values()))
  counts = np.bincount(joined, minlength=len(shapes))
  found = ", ".join(
    f"{height}x{width} {count}"
    for (height, width), count in zip(shapes, counts, strict=True)
    if count
  )
  return f"{task}: records by height x width of their batches: {found}"
