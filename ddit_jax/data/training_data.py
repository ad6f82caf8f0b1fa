"""The data of a run: batches of both tasks and a validation batch."""

import dataclasses
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from ddit_jax.batch import DualBatch
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
)
from ddit_jax.data.mixture import Mixture, source_seed
from ddit_jax.data.reader import RecordReader, Transform
from ddit_jax.data.schedule import parse_schedule
from ddit_jax.data.sources.digits import DigitTask
from ddit_jax.data.sources.packed_texts import PackedDocuments
from ddit_jax.data.tokenizers import Tokenizer
from ddit_jax.data.transforms import (
  ImageToTextTransform,
  PackedRowTransform,
  TextOnlyTransform,
  TextToImageTransform,
)
from ddit_jax.errors import check_known

_TRANSFORMS = {
  "text_to_image": TextToImageTransform,
  "image_to_text": ImageToTextTransform,
}
_PURPOSES = tuple(_TRANSFORMS)
_NO_SOURCES: Mapping[str, Source] = types.MappingProxyType({})
_NONE_HELD_OUT = HeldOut(held_out_share=0.0)
# Name and rows of a source -> some of its rows.
_PartOf = Callable[[str, Any], Any]
# Not a seed that a run is likely to have.
_VALIDATION_SEED = 2**31 + 7


class Task(Protocol):
  """The records of one task.

  Attributes:
    is_in_memory: True if records are already in memory.
  """

  is_in_memory: bool

  def mixture(self) -> Mixture:
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

    Raises:
      ValueError: a source is unknown, or has no images for the image loss.
    """
    self._config, self._seed = config, seed
    self._purpose = _PURPOSES.index(name)
    self._schedule = parse_schedule(config.mixture)
    self._transform, self._held_out = transform, held_out
    self._sources = mixed_sources(name, config, sources)
    self._cached = {**self._sources, **cached}
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

  def mixture(self) -> Mixture:
    """The sources in the order of training.

    Raises:
      ValueError: a source is empty, or its texts fill no row.
    """
    return self._mixture(self._cached, self._seed, self._training_part)

  def validation(self) -> Mixture:
    """Validation records, with the weights of step 0 and a separate order.

    They come from the validation sources, are held out, or, of sources with
    neither, are records of training; see `validation_reports`.
    """
    return self._mixture(
      {**self._cached, **self._validation_sources},
      _VALIDATION_SEED,
      self._validation_part,
    )

  def validation_reports(self) -> list[str]:
    """For each source, what its validation examples are."""
    lines, readers = [], self._readers(self._cached, 0, lambda _, rows: rows)
    for name, reader in readers.items():
      if name in self._validation_sources:
        found = f"{len(self._validation_sources[name])} of its own source"
      elif count := len(self._held_out_of(name, len(reader))):
        found = f"{count} of {len(reader)} records, held out from training"
      else:
        found = f"some of the {len(reader)} that it is trained on"
      lines.append(f"validation records of {name}: {found}")
    return lines

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
    return Part(rows, held_out, is_held_out=False) if len(held_out) else rows

  def _validation_part(self, name: str, rows: Any) -> Any:
    held_out = self._held_out_of(name, len(rows))
    return Part(rows, held_out, is_held_out=True) if len(held_out) else rows

  def _readers(
    self, sources: Mapping[str, Source], seed: int, part_of: _PartOf
  ) -> dict[str, RecordReader]:
    return source_readers(sources, self._transform, seed=seed, part_of=part_of)

  def _mixture(
    self, sources: Mapping[str, Source], seed: int, part_of: _PartOf
  ) -> Mixture:
    words = np.random.SeedSequence([seed, self._purpose]).generate_state(2)
    draws, order = (int(word) for word in words)
    return Mixture(
      self._readers(sources, draws, part_of),
      self._schedule,
      batch_size=self._config.batch_size,
      seed_of=lambda name: source_seed(order, name),
    )


def mixed_sources(
  name: str, config: TaskConfig, sources: Mapping[str, Source]
) -> dict[str, Source]:
  """The sources of a task's mixture, by name.

  Args:
    name: of the task.
    config: of the task.
    sources: all that are open.

  Raises:
    ValueError: a source is unknown.
  """
  for weights in config.mixture.values():
    check_known(weights, sources, what=f"data.{name}.mixture names")
  names = sorted(parse_schedule(config.mixture).names())
  return {one: sources[one] for one in names}


def source_readers(
  sources: Mapping[str, Source],
  transform: Transform,
  *,
  seed: int,
  part_of: _PartOf = lambda _, rows: rows,
) -> dict[str, RecordReader]:
  """Records of each source, all in the same form.

  Where no source of the text task has images, its records have none either,
  and no black images are stored.

  Args:
    sources: of one task's mixture, by name.
    transform: of that task's examples.
    seed: of the draws, 0 or more.
    part_of: name and rows of a source -> those of its rows that are read.

  Raises:
    ValueError: a source is empty, or its texts fill no row.
  """
  is_text_only = not any(map(has_images, sources.values()))
  if is_text_only and isinstance(transform, ImageToTextTransform):
    transform = TextOnlyTransform(texts=transform.texts)
  readers = {}
  for name, source in sorted(sources.items()):
    rows, to_record = _rows_of(source, transform)
    readers[name] = RecordReader(part_of(name, rows), to_record, seed=seed)
  return readers


def _rows_of(source: Source, transform: Transform):
  """(source, transform of its examples)."""
  if not isinstance(source, PackedDocuments):
    return source, transform
  texts = transform.texts
  no_image = {}
  if isinstance(transform, ImageToTextTransform):
    no_image = transform.no_image()
  return (
    source.rows(texts.tokenizer, texts.length),
    PackedRowTransform(
      length=texts.length,
      unknown_id=texts.tokenizer.unknown_id,
      no_image=no_image,
    ),
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
  """

  config: DataConfig
  tasks: Mapping[str, Task]
  log: ReadLog
  description: str
  instructions: tuple[str, ...] = ()

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
      )
      for name, task in config.tasks_on().items()
    }
    lines = [
      f"source {name}: {len(source)} records, skipped {dict(source.removed)}"
      for name, source in sources.items()
    ]
    lines += [f"{n} reads the cache {config.tasks()[n].cache}" for n in caches]
    for task in tasks.values():
      lines += task.validation_reports()
    # Both tasks validate a source alike.
    description = "\n".join(dict.fromkeys(lines))
    asked = {}
    if "image_to_text" in tasks:
      asked = mixed_sources("image_to_text", config.image_to_text, sources)
    found = set(map(instruction_of, asked.values())) - {None}
    return cls(config, tasks, log, description, tuple(sorted(found)))

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
