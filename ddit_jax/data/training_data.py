"""The data of a run: batches of both tasks and a validation batch."""

import dataclasses
import functools
import logging
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from ddit_jax.batch import DualBatch
from ddit_jax.data.aspect_buckets import (
  BucketMixture,
  Shape,
  assign_shapes,
  bucket_report,
  image_sizes,
  shape_digest,
)
from ddit_jax.data.bad_records import ReadLog
from ddit_jax.data.config import DataConfig, TaskConfig
from ddit_jax.data.example import (
  Source,
  TrainingRecord,
  has_images,
  instruction_of,
)
from ddit_jax.data.held_out import HeldOut, Part
from ddit_jax.data.loader import (
  DualLoader,
  RowsOf,
  TaskLoader,
  dual_batch,
  stack_records,
  usable_cores,
)
from ddit_jax.data.mixture import Mixture, source_seed
from ddit_jax.data.reader import Transform
from ddit_jax.data.schedule import WeightSchedule, parse_schedule
from ddit_jax.data.source_records import (
  PartOf,
  mixed_sources,
  rows_of_source,
  source_readers,
)
from ddit_jax.data.sources.digits import DigitTask
from ddit_jax.data.tokenizers import Tokenizer
from ddit_jax.data.transforms import (
  ImageToTextTransform,
  TextToImageTransform,
)

_log = logging.getLogger(__name__)

_TRANSFORMS = {
  "text_to_image": TextToImageTransform,
  "image_to_text": ImageToTextTransform,
}
_PURPOSES = tuple(_TRANSFORMS)
_NO_SOURCES: Mapping[str, Source] = types.MappingProxyType({})
_NONE_HELD_OUT = HeldOut(held_out_share=0.0)
# Not a seed that a run is likely to have.
_VALIDATION_SEED = 2**31 + 7


def _read_sizes(source: Source) -> list[Shape | None]:
  _log.info("reading %d image sizes of %s", len(source), source.name)
  return image_sizes(source, usable_cores())


def _instructions(
  config: DataConfig, sources: Mapping[str, Source]
) -> tuple[str, ...]:
  """The different instructions of the questions that are trained on."""
  if "image_to_text" not in config.tasks_on():
    return ()
  asked = mixed_sources("image_to_text", config.image_to_text, sources)
  found = set(map(instruction_of, asked.values())) - {None}
  return tuple(sorted(found))


class Task(Protocol):
  """The records of one task.

  Attributes:
    is_in_memory: True if records are already in memory.
  """

  is_in_memory: bool

  def mixture(self) -> Mixture | BucketMixture:
    """Records in the order of training."""

  def validation(self) -> Sequence[TrainingRecord]:
    """Validation records, the same for every seed."""


class SourceTask:
  """One task's records from opened sources, mixed by the config."""

  is_in_memory = False

  def __init__(
    self,
    name: str,
    config: TaskConfig,
    *,
    sources: Mapping[str, Source],
    transform: Transform,
    seed: int,
    held_out: HeldOut = _NONE_HELD_OUT,
    cached: Mapping[str, Source] = _NO_SOURCES,
    validation_sources: Mapping[str, Source] = _NO_SOURCES,
    sizes_of: Callable[[str], Sequence[Shape | None]] | None = None,
  ):
    """Reads nothing yet.

    Args:
      name: "text_to_image" or "image_to_text".
      config: of the task.
      sources: at least those of its mixture, by name.
      transform: of their examples.
      seed: of the run.
      held_out: how many records only validation reads.
      cached: the sources with encoder outputs in place of images, by name; {}
        reads images.
      validation_sources: by the name of the source that each validates.
      sizes_of: a source's name -> the image sizes of all its records; None
        reads them.

    Raises:
      ValueError: a source is unknown, or has no images for the image loss.
    """
    self._config, self._seed = config, seed
    self._purpose = _PURPOSES.index(name)
    self._schedule = parse_schedule(config.mixture)
    self._transform, self._held_out = transform, held_out
    self._sources = mixed_sources(name, config, sources)
    self._cached = {**self._sources, **cached}
    self._sizes_of = sizes_of or (lambda one: _read_sizes(sources[one]))
    self._validation_sources = {
      one: validation_sources[one]
      for one in self._sources
      if one in validation_sources
    }
    self._held_out_rows: dict[str, np.ndarray] = {}
    opened = [*self._sources.items(), *self._validation_sources.items()]
    for one, source in opened:
      if name == "text_to_image" and not has_images(source):
        raise ValueError(
          f"data.{name}.mixture names {one!r}, which is text-only: name it in "
          "data.image_to_text.mixture"
        )

  def mixture(self) -> Mixture | BucketMixture:
    """The sources in the order of training.

    Raises:
      ValueError: a source is empty, or its texts fill no row.
    """
    if self._in_buckets:
      return self._bucket_mixture()
    return self._mixture(self._cached, self._seed, self._training_part)

  def validation(self) -> Mixture:
    """Validation records, with the weights of step 0 and a separate order.

    They come from the validation sources, are held out, or, of sources with
    neither, are records of training; see `validation_reports`. Their images
    are squares also where training has other shapes.
    """
    transform = self._transform
    if self._in_buckets:
      config = dataclasses.replace(transform.images.config, crop="centre")
      images = dataclasses.replace(transform.images, config=config)
      transform = dataclasses.replace(transform, images=images)
    return self._mixture(
      {**self._cached, **self._validation_sources},
      _VALIDATION_SEED,
      self._validation_part,
      transform=transform,
    )

  def validation_reports(self) -> list[str]:
    """For each source, what its validation examples are."""
    lines, readers = [], source_readers(self._cached, self._transform, seed=0)
    for name, reader in readers.items():
      if name in self._validation_sources:
        found = f"{len(self._validation_sources[name])} of its own source"
      elif count := len(self._held_out_of(name, len(reader))):
        found = f"{count} of {len(reader)} records, held out from training"
      else:
        found = f"some of the {len(reader)} that it is trained on"
      lines.append(f"validation records of {name}: {found}")
    return lines

  def bucket_reports(self) -> list[str]:
    """How many records have each shape, where batches have several."""
    if not self._in_buckets:
      return []
    name = _PURPOSES[self._purpose]
    return [bucket_report(name, self._config.shapes, self._shape_numbers)]

  def shape_digests(self) -> dict[str, str]:
    """Source's name to the digest of its records' shapes; {} for squares."""
    if not self._in_buckets:
      return {}
    numbers = self._shape_numbers
    return {name: shape_digest(found) for name, found in numbers.items()}

  def _held_out_of(self, name: str, num_rows: int) -> np.ndarray:
    if name in self._validation_sources:
      return np.arange(0)
    if name not in self._held_out_rows:
      self._held_out_rows[name] = self._held_out.indices(
        self._sources[name], num_rows
      )
    return self._held_out_rows[name]

  def _training_part(self, name: str, rows: Any) -> Any:
    held_out = self._held_out_of(name, len(rows))
    return Part(rows, held_out, has_listed=False) if len(held_out) else rows

  def _validation_part(self, name: str, rows: Any) -> Any:
    held_out = self._held_out_of(name, len(rows))
    return Part(rows, held_out, has_listed=True) if len(held_out) else rows

  @property
  def _in_buckets(self) -> bool:
    """True if batches have the shapes of their images."""
    has_some = any(map(has_images, self._sources.values()))
    return self._config.crop == "bucket" and has_some

  @functools.cached_property
  def _shape_numbers(self) -> dict[str, np.ndarray]:
    """Source's name to the number of the shape of each training record."""
    sizes = {}
    for name, source in self._sources.items():
      rows, _ = rows_of_source(source, self._transform)
      known = [None] * len(rows)
      if has_images(source):
        known = self._sizes_of(name)
      held_out = set(self._held_out_of(name, len(rows)).tolist())
      sizes[name] = [x for i, x in enumerate(known) if i not in held_out]
    return assign_shapes(
      sizes,
      self._config.shapes,
      square=(self._config.image_size,) * 2,
      least=self._config.batch_size,
    )

  def _bucket_mixture(self) -> BucketMixture:
    numbers = self._shape_numbers

    def mixture_of(number: int, schedule: WeightSchedule) -> Mixture:
      def part_of(name: str, rows: Any) -> Part:
        listed = np.flatnonzero(numbers[name] == number)
        return Part(self._training_part(name, rows), listed, has_listed=True)

      shape = self._config.shapes[number]
      images = dataclasses.replace(self._transform.images, bucket=shape)
      return self._mixture(
        self._sources,
        source_seed(self._seed, f"{shape}"),
        part_of,
        transform=dataclasses.replace(self._transform, images=images),
        schedule=schedule,
      )

    return BucketMixture(
      numbers,
      self._schedule,
      batch_size=self._config.batch_size,
      mixture_of=mixture_of,
    )

  def _mixture(
    self,
    sources: Mapping[str, Source],
    seed: int,
    part_of: PartOf,
    *,
    transform: Transform | None = None,
    schedule: WeightSchedule | None = None,
  ) -> Mixture:
    schedule = schedule or self._schedule
    words = np.random.SeedSequence([seed, self._purpose]).generate_state(2)
    draws, order = (int(word) for word in words)
    readers = source_readers(
      sources,
      transform or self._transform,
      seed=draws,
      part_of=part_of,
      names=schedule.names(),
    )
    return Mixture(
      readers,
      schedule,
      batch_size=self._config.batch_size,
      seed_of=lambda name: source_seed(order, name),
    )


@dataclasses.dataclass(frozen=True)
class TrainingData:
  """The data of both tasks of a run, with statistics of reading.

  Attributes:
    config: of the run.
    tasks: those that are on, by name.
    log: bad records and truncated texts.
    description: the data sets, in a few lines.
    instructions: those of the questions, see `example.instruction_of`.
    shape_digests: task to source's name to `aspect_buckets.shape_digest`; of
      tasks whose batches have several shapes.
  """

  config: DataConfig
  tasks: Mapping[str, Task]
  log: ReadLog
  description: str
  instructions: tuple[str, ...] = ()
  shape_digests: Mapping[str, Mapping[str, str]] = dataclasses.field(
    default_factory=dict
  )

  @classmethod
  def of_digits(
    cls,
    config: DataConfig,
    *,
    tokenizer: Tokenizer,
    seed: int,
    log: ReadLog,
  ) -> "TrainingData":
    """Scenes of the digit world.

    Raises:
      ValueError: a mixture is invalid.
    """
    tasks = {
      name: DigitTask(name, config, tokenizer=tokenizer, seed=seed)
      for name in config.tasks_on()
    }
    return cls(config, tasks, log, f"digit world {config.world}")

  @classmethod
  def of_sources(
    cls,
    config: DataConfig,
    sources: Mapping[str, Source],
    *,
    transforms: Mapping[str, Transform],
    caches: Mapping[str, Mapping[str, Source]],
    seed: int,
    log: ReadLog,
    validation_sources: Mapping[str, Source] = _NO_SOURCES,
  ) -> "TrainingData":
    """The opened sources of a config.

    Args:
      config: of the run.
      sources: by name in the config.
      transforms: of each task that is on.
      caches: task -> the sources of its mixture, with encoder outputs in place
        of images; of the tasks that read a cache.
      seed: of the run.
      log: bad records and truncated texts.
      validation_sources: by the name of the source that each validates.

    Raises:
      ValueError: a mixture names unknown sources or is invalid.
    """
    for name, source in sources.items():
      log.list_faults(name, getattr(source, "faults", ()))
    # Of a source in both tasks they are read once.
    sizes_of = functools.cache(lambda name: _read_sizes(sources[name]))
    tasks = {
      name: SourceTask(
        name,
        task,
        sources=sources,
        transform=transforms[name],
        seed=seed,
        held_out=config,
        cached=caches.get(name, {}),
        validation_sources=validation_sources,
        sizes_of=sizes_of,
      )
      for name, task in config.tasks_on().items()
    }
    lines = [
      f"source {name}: {len(source)} records, skipped {dict(source.removed)}"
      for name, source in sources.items()
    ]
    lines += [f"{n} reads the cache {config.tasks()[n].cache}" for n in caches]
    for task in tasks.values():
      lines += [*task.validation_reports(), *task.bucket_reports()]
    # Both tasks validate a source alike.
    description = "\n".join(dict.fromkeys(lines))
    digests = {name: task.shape_digests() for name, task in tasks.items()}
    return cls(
      config,
      tasks,
      log,
      description,
      instructions=_instructions(config, sources),
      shape_digests={name: known for name, known in digests.items() if known},
    )

  def training_loader(self, rows_of: RowsOf = range) -> DualLoader:
    """Batches of the tasks that are on, from their beginning.

    Args:
      rows_of: global batch size -> which rows this process reads; all of them
        by default. See `prefetch.rows_of_process`.

    Raises:
      ValueError: a source is empty, a text does not fit, or not even one
        record may be read ahead.
    """
    return DualLoader(
      {name: self._loader(task, rows_of) for name, task in self.tasks.items()}
    )

  def validation_batch(self, rows_of: RowsOf = range) -> DualBatch:
    """This process's rows of a fixed batch."""
    rows = rows_of(self.config.validation_size)
    read = {}
    for name, task in self.tasks.items():
      found = task.validation()
      read[name], outcomes = stack_records([found[row] for row in rows])
      for outcome in outcomes:
        self.log.add(outcome)
    return dual_batch(**read)

  def counts(self) -> dict[str, int]:
    """Statistics of reading in this process; see `ReadLog.counts`."""
    return {f"data/{name}": n for name, n in self.log.counts().items()}

  def _loader(self, task: Task, rows_of: RowsOf) -> TaskLoader:
    mixture = task.mixture()
    rows = rows_of(mixture.batch_size)
    plan = None
    if not task.is_in_memory:
      plan = self.config.plan_reading(mixture.record_bytes, len(rows))
    return TaskLoader(mixture, self.log, rows=rows, plan=plan)
