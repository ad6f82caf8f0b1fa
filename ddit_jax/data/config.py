"""The `data` section of a config: what both tasks read, and how."""

import dataclasses

from ddit_jax.data.bad_records import BadRecordLimit
from ddit_jax.data.held_out import HeldOut
from ddit_jax.data.image import ImageConfig
from ddit_jax.data.image_header import filters_from
from ddit_jax.data.loader import ONE_PER_CORE, ReadPlan, plan_reading
from ddit_jax.data.text import TextConfig
from ddit_jax.digits.world import WORLDS, World
from ddit_jax.errors import check_bounds, check_known, suggest
from ddit_jax.files import local_path

# Far above any use, and still built in a bearable time and memory.
_MOST_EXAMPLES = 10_000_000
_MOST_READERS = 1024


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskConfig(ImageConfig, TextConfig):
  """The data of one of the two tasks.

  Attributes:
    batch_size: global batch size; 0 turns the task and its loss off.
    mixture: step -> name -> weight, from that step on. Names are those of
      `data.sources`; in the digit world they are kinds of text ("caption" and
      the kinds of question), and of its text-to-image task "prompts" (those of
      generation) or "scenes", the default.
    cache: folder written by `ddit prepare --cache`, whose encoder outputs
      replace the images; "" reads and encodes the images.
    pool_size: digit-world scenes generated once for this task; 0 uses
      `data.pool_size`.
  """

  batch_size: int
  mixture: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
  cache: str = ""
  pool_size: int = 0

  def __post_init__(self):
    for name in ("batch_size", "pool_size"):
      if getattr(self, name) < 0:
        raise ValueError(f"{name} is negative: {getattr(self, name)}")
      if getattr(self, name) > _MOST_EXAMPLES:
        raise ValueError(
          f"{name} must be at most {_MOST_EXAMPLES}, got {getattr(self, name)}"
        )
    if self.cache:
      local_path(self.cache, what="cache")
    ImageConfig.__post_init__(self)
    TextConfig.__post_init__(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig(BadRecordLimit, HeldOut):
  """The data of both tasks.

  Attributes:
    world: the digit world, see `ddit_jax.digits.world`; only used without
      `sources`.
    sources: name -> mapping for `ddit_jax.data.sources.registry`; {} generates
      scenes of the digit world.
    validation_sources: name of a source -> mapping of another source, from
      which its validation examples are read; the source itself holds out none.
    filters: of the sources that set none, where their kind takes filters; see
      `ddit_jax.data.image_header.Filters`.
    tokenizer: "KIND:FOLDER", KIND "t5" or "gpt2"; "words" is built from the
      words of small `sources`; "" uses T5's of `model.encoders_from` or, if
      that is empty, the digit world's. With `init_from` the tokenizer of those
      weights is kept, to which "words" adds new words.
    num_workers: processes that read and decode the sources of each task; 0
      does it in threads. Pillow and tokenizers release Python's lock, so
      processes help only if threads do not use all cores.
    num_threads: threads that read and decode, in each worker process if there
      are any; -1 uses one per core, or none in worker processes.
    pool_size: scenes generated once for each task that sets no number itself.
    text_to_image: the task of the image loss.
    image_to_text: the task of the text loss.
  """

  world: str = "one_digit"
  sources: dict[str, dict[str, object]] = dataclasses.field(
    default_factory=dict
  )
  validation_sources: dict[str, dict[str, object]] = dataclasses.field(
    default_factory=dict
  )
  filters: dict[str, object] = dataclasses.field(default_factory=dict)
  tokenizer: str = ""
  num_workers: int = 0
  num_threads: int = ONE_PER_CORE
  pool_size: int = 20000
  text_to_image: TaskConfig = TaskConfig(batch_size=32)
  image_to_text: TaskConfig = TaskConfig(
    batch_size=48, mixture={"0": {"caption": 1.0}}
  )

  def __post_init__(self):
    BadRecordLimit.__post_init__(self)
    HeldOut.__post_init__(self)
    sizes = ("pool_size", "validation_size")
    check_bounds(self, **dict.fromkeys(sizes, _MOST_EXAMPLES))
    self.digit_world()
    filters_from(self.filters)
    is_few = max(self.num_workers, self.num_threads) <= _MOST_READERS
    if self.num_workers < 0 or self.num_threads < ONE_PER_CORE or not is_few:
      raise ValueError(
        f"num_workers is {self.num_workers} and num_threads "
        f"{self.num_threads}: write 0 or more, at most {_MOST_READERS}, or "
        "num_threads=-1 for one per core"
      )
    for name, task in self.tasks().items():
      if task.cache and not self.sources:
        raise ValueError(
          f"{name}.cache is {task.cache!r}, but the digit world is generated "
          "on the fly: leave it empty, or name data.sources"
        )
      if task.cache and self.validation_sources:
        raise ValueError(
          f"{name}.cache is {task.cache!r}, but validation_sources have no "
          "cache: leave one of them empty"
        )
    check_known(
      self.validation_sources, self.sources, what="validation_sources names"
    )
    if not self.tasks_on():
      raise ValueError(
        "text_to_image.batch_size and image_to_text.batch_size are both 0: "
        "nothing to do"
      )

  def tasks(self) -> dict[str, TaskConfig]:
    """Both tasks by name."""
    return {
      "text_to_image": self.text_to_image,
      "image_to_text": self.image_to_text,
    }

  def tasks_on(self) -> dict[str, TaskConfig]:
    """Those with a batch."""
    return {name: one for name, one in self.tasks().items() if one.batch_size}

  @property
  def image_sides(self) -> tuple[int, int]:
    """Side lengths of both tasks' square images, in pixels."""
    if self.sources:
      return self.text_to_image.image_size, self.image_to_text.image_size
    canvas = self.digit_world().canvas
    return canvas, canvas

  @property
  def image_shapes(self) -> list[tuple[int, int]]:
    """Every (height, width) that images of a task have, in pixels."""
    if not self.sources:
      return [(side, side) for side in self.image_sides]
    tasks = self.tasks().values()
    return [shape for task in tasks for shape in task.shapes]

  @property
  def max_text_length(self) -> int:
    """Text length of the task with longer texts."""
    return max(task.text_length for task in self.tasks().values())

  def digit_world(self) -> World:
    """The digit world used without `sources`."""
    if self.world not in WORLDS:
      hint = suggest(self.world, WORLDS)
      raise ValueError(f"world {self.world!r} is unknown: {hint}")
    return WORLDS[self.world]

  def plan_reading(self, record_bytes: int, num_rows: int) -> ReadPlan:
    """See `loader.plan_reading`."""
    return plan_reading(
      record_bytes,
      num_rows,
      num_workers=self.num_workers,
      num_threads=self.num_threads,
    )
