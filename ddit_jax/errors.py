"""The error of bad input, its line, and phrases common to its messages."""

import contextlib
import difflib
import typing
from collections.abc import Iterable, Iterator

# Characters of a message; longer ones repeat what the user gave.
_MAX_LINE = 1200


class InputError(ValueError):
  """Invalid input; the message is one line that says how to fix it."""


def one_line(message: object) -> str:
  """A message as a terminal can show it: on one line, and of bounded length.

  Names in files and folders may hold control characters, which could rewrite
  the screen, and half characters, which cannot be printed.
  """
  text = printable(" ".join(str(message).split()))
  if len(text) <= _MAX_LINE:
    return text
  half = _MAX_LINE // 2
  return f"{text[:half]} ... {text[-half:]}"


def printable(text: str) -> str:
  """The text with escapes such as \\x1b for all but visible characters."""
  return "".join(
    c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode()
    for c in text
  )


@contextlib.contextmanager
def preparing() -> Iterator[None]:
  """Marks the phase before any compute, where a ValueError is bad input."""
  try:
    yield
  except InputError:
    raise
  except (ValueError, OSError) as error:
    raise InputError(" ".join(str(error).split())) from error


def suggest(name: object, known: Iterable[str]) -> str:
  """ "did you mean 'X'?" if a known name is near, else "there are X, Y"."""
  known = sorted(known)
  near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
  if near:
    return f"did you mean {near[0]!r}?"
  return f"there are {', '.join(known)}"


def check_known(
  names: Iterable[str], known: Iterable[str], *, what: str
) -> None:
  """Checks names given by a user.

  Args:
    names: the given names.
    known: the allowed names.
    what: the beginning of the message, e.g. "filters has no key".

  Raises:
    ValueError: for the first name that is unknown.
  """
  known = sorted(known)
  for name in names:
    if name not in known:
      raise ValueError(f"{what} {name!r}: {suggest(name, known)}")


def check_divisible(part: object, **divisors: str) -> None:
  """Raises ValueError if a field is not a multiple of another one.

  Args:
    part: a dataclass.
    **divisors: field name -> name of the field that must divide it.
  """
  for name, divisor in divisors.items():
    value, by = getattr(part, name), getattr(part, divisor)
    if value % by:
      raise ValueError(f"{name} {value} is not divisible by {divisor} {by}")


def check_choices(part: object) -> None:
  """Checks every field of a dataclass whose type is a `Literal`.

  Raises:
    ValueError: for the first field whose value is not among its choices.
  """
  for name, kind in typing.get_type_hints(type(part)).items():
    if typing.get_origin(kind) is typing.Literal:
      choices, value = typing.get_args(kind), getattr(part, name)
      if value not in choices:
        raise ValueError(f"{name} must be one of {choices}, got {value!r}")


def check_bounds(part: object, **bounds: int) -> None:
  """Checks that whole numbers are positive, and not absurdly large.

  Args:
    part: has the numbers as attributes.
    **bounds: the largest value of each.

  Raises:
    ValueError: for the first that is outside.
  """
  for name, largest in bounds.items():
    value = getattr(part, name)
    if not 1 <= value <= largest:
      raise ValueError(f"{name} must be in 1 to {largest}, got {value}")


def first_few(items: Iterable[object], *, limit: int = 4) -> str:
  """The first `limit` items and the number of others, on one line."""
  items = list(items)
  more = len(items) - limit
  tail = f" and {more} more" if more > 0 else ""
  return ", ".join(str(item) for item in items[:limit]) + tail
