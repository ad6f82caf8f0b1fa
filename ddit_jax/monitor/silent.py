"""What takes the place of writer and progress bar in all processes but one."""

from typing import Any


class Silent:
  """Has their methods and does nothing."""

  def __enter__(self) -> "Silent":
    return self

  def __exit__(self, *_: object) -> None:
    """Nothing is open."""

  def write_scalars(self, step: int, scalars: dict[str, float]) -> None:
    """As `MetricWriter`."""

  def write_images(self, step: int, images: dict[str, Any]) -> None:
    """As `MetricWriter`."""

  def truncate_after(self, step: int) -> None:
    """As `MetricWriter`."""

  def update(self, step: int, scalars: dict[str, float]) -> None:
    """As `ProgressBar`."""
