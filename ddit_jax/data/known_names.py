"""Refuses unknown names and names the nearest known one."""

import difflib
from collections.abc import Iterable


def check_known(
  names: Iterable[str], known: Iterable[str], *, what: str
) -> None:
  """Checks keys or kinds that a person wrote.

  Args:
    names: what was written.
    known: what there is.
    what: the beginning of the message, e.g. "filters has no key".

  Raises:
    ValueError: for the first name that is unknown.
  """
  known = sorted(known)
  for name in names:
    if name in known:
      continue
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(f"{what} {name!r}: {hint}there are {', '.join(known)}")
