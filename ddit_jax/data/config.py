"""What a run reads: the `data` section of a config."""

import dataclasses

from ddit_jax.digits.world import WORLDS
from ddit_jax.errors import suggest


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskConfig:
  """One of the two streams of examples.

  Attributes:
    batch_size: global batch size; 0 turns the stream and its loss off.
    image_size: side of the square images of `data.sources`, in pixels; the
      digit world has its own.
    text_length: tokens of every text.
    mixture: step -> name -> weight, from that step on. Names are those of
      `data.sources`; in the digit world they are kinds of text ("caption" and
      the kinds of question), and its images need none.
    crop: "centre" or "random" square of an image.
    flip_probability: of mirroring an image whose text names no side.
    rewritten_probability: of taking a rewritten caption where there is one.
    cache: folder that `ddit prepare --cache` wrote, whose encoder outputs take
      the place of images; "" reads and encodes the images.
    pool_size: scenes of the digit world drawn once for this stream; 0 takes
      `data.pool_size`.
  """

  batch_size: int
  image_size: int = 256
  text_length: int = 10
  mixture: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
  crop: str = "centre"
  flip_probability: float = 0.0
  rewritten_probability: float = 1.0
  cache: str = ""
  pool_size: int = 0

  def __post_init__(self):
    if self.batch_size < 0:
      raise ValueError(f"batch_size is negative: {self.batch_size}")
    if self.pool_size < 0:
      raise ValueError(
        f"pool_size is negative: {self.pool_size}; 0 takes data.pool_size"
      )
    for name in ("image_size", "text_length"):
      if getattr(self, name) <= 0:
        raise ValueError(f"{name} must be positive, got {getattr(self, name)}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
  """What both streams read.

  Attributes:
    world: the digit world, see `ddit_jax.digits.world`; only used without
      `sources`.
    sources: name -> what `ddit_jax.data.sources.registry` takes; {} draws
      the digit world.
    tokenizer: "KIND:FOLDER", KIND "t5" or "gpt2"; "" takes T5's of
      `model.encoders_from`, or without it the digit world's.
    max_bad_share: of a source's records that may be unreadable; more stop the
      run.
    pool_size: scenes drawn once for each stream that names no number itself.
    validation_size: examples of each stream's validation loss.
    text_to_image: the stream of the image loss.
    image_to_text: the stream of the text loss.
  """

  world: str = "one_digit"
  sources: dict[str, dict[str, object]] = dataclasses.field(
    default_factory=dict
  )
  tokenizer: str = ""
  max_bad_share: float = 0.01
  pool_size: int = 20000
  validation_size: int = 256
  text_to_image: TaskConfig = TaskConfig(batch_size=32)
  image_to_text: TaskConfig = TaskConfig(
    batch_size=48, mixture={"0": {"caption": 1.0}}
  )

  def streams(self) -> dict[str, TaskConfig]:
    """Both streams by name."""
    return {
      "text_to_image": self.text_to_image,
      "image_to_text": self.image_to_text,
    }

  def streams_on(self) -> dict[str, TaskConfig]:
    """Those with a batch."""
    streams = self.streams().items()
    return {name: stream for name, stream in streams if stream.batch_size}

  @property
  def max_text_length(self) -> int:
    """Tokens of the longer stream's texts."""
    return max(stream.text_length for stream in self.streams().values())

  @property
  def image_sides(self) -> tuple[int, int]:
    """Sides of both streams' square images, in pixels."""
    if self.sources:
      return self.text_to_image.image_size, self.image_to_text.image_size
    canvas = WORLDS[self.world].canvas
    return canvas, canvas

  def __post_init__(self):
    if self.world not in WORLDS:
      raise ValueError(
        f"world {self.world!r} is unknown: {suggest(self.world, WORLDS)}"
      )
    for name in ("pool_size", "validation_size"):
      if getattr(self, name) <= 0:
        raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
    for name, stream in self.streams().items():
      if stream.cache and not self.sources:
        raise ValueError(
          f"{name}.cache is {stream.cache!r}, but the digit world is drawn as "
          "it goes: leave it empty, or name data.sources"
        )
    if not self.streams_on():
      raise ValueError(
        "text_to_image.batch_size and image_to_text.batch_size are both 0: "
        "nothing to do"
      )
