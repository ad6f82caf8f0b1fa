"""The error of bad input: settings, files, folders, prompts."""

import contextlib
from collections.abc import Iterator


class InputError(ValueError):
  """What was given cannot be used; the message is one line with the way out."""


@contextlib.contextmanager
def preparing() -> Iterator[None]:
  """Marks the phase before any compute, where a ValueError is bad input."""
  try:
    yield
  except InputError:
    raise
  except (ValueError, OSError) as error:
    raise InputError(" ".join(str(error).split())) from error
