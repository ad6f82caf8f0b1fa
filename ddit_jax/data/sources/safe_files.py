"""Reads files that untrusted lists name, from one folder only."""

import os
import stat

from ddit_jax.data.examples import BadRecord
from ddit_jax.data.image_headers import (
  HeaderError,
  ImageSize,
  image_size_of_file,
)
from ddit_jax.data.sources import file_lists

# Far above any image that decodes to the pixels Pillow allows.
MAX_BYTES = 2**28


def is_unsafe(path: str) -> bool:
  """Whether a relative path leads out of its folder, as it is written."""
  return (
    not path
    or "\0" in path
    or os.path.isabs(path)
    or ".." in path.split("/")
    or path.endswith("/")
  )


def images_folder(
  path: str | os.PathLike, *, follow_links: bool
) -> "SafeFolder":
  """The folder that a source's key `images` names.

  Raises:
    ValueError: it is not there, or no folder; or follow_links is no bool.
  """
  return SafeFolder(
    file_lists.existing_folder(path, what="images"), follow_links=follow_links
  )


class SafeFolder:
  """A folder outside of which nothing is read, links included.

  Attributes:
    path: with all links resolved.
    follow_links: True reads what links inside the folder point to, wherever
      that lies.
  """

  def __init__(self, path: str | os.PathLike, *, follow_links: bool = False):
    """The folder itself may be a link.

    Raises:
      ValueError: follow_links is no bool.
    """
    if not isinstance(follow_links, bool):
      raise ValueError(f"follow_links is True or False, not {follow_links!r}")
    self.path = os.path.realpath(path)
    self.follow_links = follow_links
    self._inside = os.path.join(self.path, "")

  def holds(self, real: str) -> bool:
    """Whether a path without links lies below the folder."""
    return real.startswith(self._inside)

  def read(self, path: str, record_id: str) -> bytes:
    """A whole file.

    Raises:
      BadRecord: unsafe_path, missing_file, unreadable_file, or
        image_too_large (over `MAX_BYTES`).
    """
    descriptor = self._open(path, record_id)
    try:
      with os.fdopen(descriptor, "rb") as file:
        size = os.fstat(descriptor).st_size
        if size > MAX_BYTES:
          raise BadRecord(
            "image_too_large", f"{path} has {size} bytes", record_id
          )
        return file.read(MAX_BYTES)
    except OSError as error:
      raise BadRecord("unreadable_file", str(error), record_id) from error

  def image_size(self, path: str, record_id: str) -> ImageSize:
    """Size of an image from its header.

    Raises:
      BadRecord: as `read`, and not_an_image or truncated_image.
    """
    descriptor = self._open(path, record_id)
    try:
      return image_size_of_file(descriptor)
    except HeaderError as error:
      raise BadRecord(error.reason, f"{path}: {error}", record_id) from error
    except OSError as error:
      raise BadRecord("unreadable_file", str(error), record_id) from error
    finally:
      os.close(descriptor)

  def _open(self, path: str, record_id: str) -> int:
    """A descriptor of a regular file that may be read."""
    if is_unsafe(path):
      detail = f"{path!r} is no path below the folder"
      raise BadRecord("unsafe_path", detail, record_id)
    try:
      real = os.path.realpath(self._inside + path, strict=True)
      if not (self.follow_links or self.holds(real)):
        detail = (
          f"{path!r} is a link out of {self.path}, which follow_links allows"
        )
        raise BadRecord("unsafe_path", detail, record_id)
      # Opening a pipe would wait for its writer.
      descriptor = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except (FileNotFoundError, NotADirectoryError) as error:
      detail = f"{path} is not in {self.path}"
      raise BadRecord("missing_file", detail, record_id) from error
    except OSError as error:
      raise BadRecord("unreadable_file", str(error), record_id) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
      os.close(descriptor)
      raise BadRecord("unreadable_file", f"{path} is no file", record_id)
    return descriptor
