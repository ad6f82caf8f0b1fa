"""The one exception that bad input of a conversion raises."""


class ConversionError(ValueError):
  """A file, folder or option that cannot be converted; one line says why."""


def named(items, *, limit: int = 4) -> str:
  """The first few of `items` and how many more there are, on one line."""
  items = list(items)
  more = len(items) - limit
  tail = f" and {more} more" if more > 0 else ""
  return ", ".join(str(item) for item in items[:limit]) + tail
