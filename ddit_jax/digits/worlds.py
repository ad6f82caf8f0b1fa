"""The worlds: how large the canvas is, and what lies on it."""

import dataclasses

from ddit_jax.digits import compositions


@dataclasses.dataclass(frozen=True, kw_only=True)
class World:
  """Sizes of one world, in pixels.

  Attributes:
    canvas: side of the square image.
    digit_size: side of the square cell a digit is drawn in.
    max_objects: most digits in a scene, 1 to 4.
    jitter_px: with one object a scene, how far its centre strays from the
      middle of the canvas, uniform on both axes; with more, places are free
      and this is not read.
    saturation: of every colour, 0 (white) to 1.
  """

  canvas: int
  digit_size: int
  max_objects: int
  jitter_px: float = 0.0
  saturation: float = 0.75

  def __post_init__(self):
    if not 1 <= self.max_objects <= compositions.MAX_COUNT:
      raise ValueError(
        f"max_objects is {self.max_objects}; a world holds 1 to "
        f"{compositions.MAX_COUNT} objects"
      )
    if self.digit_size < 8:
      raise ValueError(
        f"digit_size is {self.digit_size}; the glyphs have 8 pixels a side "
        "and are only ever enlarged, so choose 8 or more"
      )
    if not 0 <= self.saturation <= 1:
      raise ValueError(f"saturation is {self.saturation}; it lies in [0, 1]")
    if self.jitter_px < 0:
      raise ValueError(f"jitter_px is {self.jitter_px}; it cannot be negative")
    if self.canvas < self.needed_canvas:
      raise ValueError(
        f"canvas is {self.canvas}; {self.max_objects} digits of "
        f"{self.digit_size} px need at least {self.needed_canvas} px"
      )

  @property
  def is_one_digit(self) -> bool:
    """True if every scene holds exactly one digit."""
    return self.max_objects == 1

  @property
  def gap(self) -> float:
    """Least distance between two cells; with less, counting suffers."""
    return max(3.0, self.digit_size / 4)

  @property
  def needed_canvas(self) -> float:
    """The smallest canvas on which every allowed scene fits."""
    if self.is_one_digit:
      return self.digit_size + 2 * self.jitter_px
    return 2 * self.digit_size + self.gap


WORLDS = {
  "one_digit": World(canvas=16, digit_size=13, max_objects=1, jitter_px=0.5),
  "scenes_32": World(canvas=32, digit_size=10, max_objects=4),
  "scenes_48": World(canvas=48, digit_size=16, max_objects=4),
}
