"""Small files that appear whole or not at all, and JSON of limited size."""

import json
import os
import pathlib
from typing import Any


def replace_file(
  path: pathlib.Path, data: bytes, *, survives_power_loss: bool = True
) -> None:
  """Writes a file that appears whole or not at all.

  Args:
    path: a file already there is replaced.
    data: its new contents.
    survives_power_loss: True waits for the disk; False is enough where only
      this process can be killed, or where a damaged file does no harm.
  """
  partial = path.with_name(f"{path.name}.partial")
  with open(partial, "wb") as file:
    file.write(data)
    if survives_power_loss:
      file.flush()
      os.fsync(file.fileno())
  os.replace(partial, path)
  if survives_power_loss:
    sync_folder(path.parent)


def sync_folder(folder: pathlib.Path) -> None:
  """Makes the names in a folder survive a power loss."""
  descriptor = os.open(folder, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def read_json_object(path: pathlib.Path, *, max_bytes: int) -> dict[str, Any]:
  """A JSON object from a file of limited size.

  Raises:
    ValueError: the file is too large, no JSON, or no object.
  """
  size = path.stat().st_size
  if size > max_bytes:
    raise ValueError(f"{path} has {size} bytes, at most {max_bytes} are read")
  try:
    body = json.loads(path.read_bytes().decode())
  except (ValueError, RecursionError) as error:
    cause = " ".join(str(error).split())
    raise ValueError(f"{path} is no JSON: {cause}") from error
  if not isinstance(body, dict):
    raise ValueError(f"{path} must hold a JSON object {{...}}")
  return body
