"""The small words of the page: escaping, numbers, images as embedded PNG."""

import base64
import html
import io
import math
from typing import Any

import numpy as np

_SECONDS_PER_MINUTE = 60
_SECONDS_PER_HOUR = 3600


def escape(text: Any) -> str:
  """Any value as text that is safe between tags and inside attributes."""
  return html.escape(str(text), quote=True)


def image_tag(image: np.ndarray, *, alt: str) -> str:
  """An `img` element with the pixels inside it, drawn without blurring.

  Args:
    image: uint8 [height, width, 1 or 3 channels].
    alt: what the picture shows, for those who cannot see it.

  Raises:
    ValueError: an array of another kind.
  """
  from PIL import Image

  is_picture = (
    isinstance(image, np.ndarray)
    and image.dtype == np.uint8
    and image.ndim == 3
    and image.shape[2] in (1, 3)
    and image.size > 0
  )
  if not is_picture:
    seen = f"{getattr(image, 'dtype', type(image))} {np.shape(image)}"
    raise ValueError(
      f"report image {alt!r} is {seen}: pass uint8 [height, width, 1 or 3]"
    )
  pixels = image[:, :, 0] if image.shape[2] == 1 else image
  buffer = io.BytesIO()
  Image.fromarray(np.ascontiguousarray(pixels)).save(
    buffer, format="PNG", optimize=True
  )
  data = base64.b64encode(buffer.getvalue()).decode("ascii")
  height, width = image.shape[:2]
  return (
    f'<img class="pixels" src="data:image/png;base64,{data}" '
    f'width="{width}" height="{height}" alt="{escape(alt)}">'
  )


def number(value: float | None) -> str:
  """A short number: "0.123", "60 000", "5.6e-05"; a dash for None and NaN."""
  if value is None or not math.isfinite(value):
    return "–"
  if abs(value) < 1e3 or abs(value) >= 1e9:
    return f"{value:.3g}"
  return f"{value:,.0f}".replace(",", "\u202f")


def percent(value: float | None) -> str:
  """A share of one as "82.4 %"; a dash for None and NaN."""
  if value is None or not math.isfinite(value):
    return "–"
  return f"{100 * value:.1f}\u202f%"


def duration(seconds: float) -> str:
  """Seconds in the unit a reader would choose: "42 s", "3.5 min", "2.1 h"."""
  if seconds < 10:
    return f"{seconds:.1f}\u202fs"
  if seconds < 2 * _SECONDS_PER_MINUTE:
    return f"{seconds:.0f}\u202fs"
  if seconds < 2 * _SECONDS_PER_HOUR:
    return f"{seconds / _SECONDS_PER_MINUTE:.1f}\u202fmin"
  return f"{seconds / _SECONDS_PER_HOUR:.1f}\u202fh"


def require(record: dict[str, Any], keys: tuple[str, ...], what: str) -> None:
  """Raises ValueError naming the keys that a record of the report lacks."""
  missing = [key for key in keys if key not in record]
  if missing:
    raise ValueError(
      f"{what} lacks {missing}: the report needs {list(keys)} in it"
    )
