"""What `ddit prepare --cache` is asked for, and whether it makes sense."""

import dataclasses
from collections.abc import Mapping

from ddit_jax.data.examples import Source, has_images
from ddit_jax.data.known_names import check_known
from ddit_jax.data.schedules import parse_schedule
from ddit_jax.experiment.cache_origins import (
  check_can_be_cached,
  takes_features,
)
from ddit_jax.settings import ExperimentSettings

LATENTS, T5 = "latents", "t5"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CacheRequest:
  """The flags of the command line.

  Attributes:
    stream: "text_to_image" or "image_to_text"; its mixture names the sources.
    parts: LATENTS, or LATENTS and T5.
    out: folder that receives one folder a source.
    rows_per_device: images or texts encoded at once; None takes as many as a
      device has in a training step, at most 32.
    num_shards: files of each kind and source; None chooses.
    max_bad_rate: share of a source's records that may be bad.
    threads: that read and decode; None takes one a core.
  """

  stream: str
  parts: tuple[str, ...]
  out: str
  rows_per_device: int | None = None
  num_shards: int | None = None
  max_bad_rate: float = 0.01
  threads: int | None = None

  @property
  def has_features(self) -> bool:
    """True if T5's features are asked for."""
    return T5 in self.parts

  def check(self, settings: ExperimentSettings) -> None:
    """Raises ValueError unless the settings' stream can be cached like this."""
    check_known([self.stream], settings.data.streams(), what="--stream has no")
    check_known(self.parts, (LATENTS, T5), what="--cache has no part")
    check_can_be_cached(settings, self.stream)
    if LATENTS not in self.parts:
      raise ValueError(
        f"--cache={','.join(self.parts)} lacks latents, beside which all else "
        "is kept: write --cache=latents,t5"
      )
    if self.has_features and not takes_features(settings, self.stream):
      raise ValueError(
        f"--cache asks for t5, but {self.stream} of this config takes no "
        "features of clean captions (masked texts are encoded at each step, "
        "and some networks embed tokens themselves): write --cache=latents"
      )
    self._check_numbers()

  def sources(
    self, settings: ExperimentSettings, opened: Mapping[str, Source]
  ) -> dict[str, Source]:
    """Those of the stream's mixture that have images, by name.

    Raises:
      ValueError: the mixture names unknown ones, or none has images.
    """
    mixture = settings.data.streams()[self.stream].mixture
    what = f"data.{self.stream}.mixture names"
    for weights in mixture.values():
      check_known(weights, opened, what=what)
    names = sorted(parse_schedule(mixture).names())
    found = {name: opened[name] for name in names if has_images(opened[name])}
    if not found:
      raise ValueError(f"{what} no source with images: nothing can be cached")
    return found

  def _check_numbers(self) -> None:
    counts = {
      "rows_per_device": self.rows_per_device,
      "shards": self.num_shards,
      "threads": self.threads,
    }
    for name, count in counts.items():
      if count is not None and count < 1:
        raise ValueError(f"--{name} must be positive, got {count}")
    if not 0 <= self.max_bad_rate <= 1:
      raise ValueError(
        f"--max_bad_rate must lie in 0..1, got {self.max_bad_rate}"
      )
