"""Where one thing lies from another: left of, right of, above, below."""

OPPOSITES = {
  "left of": "right of",
  "right of": "left of",
  "above": "below",
  "below": "above",
}
RELATIONS = tuple(OPPOSITES)


def clear_relation(dx: float, dy: float) -> str | None:
  """The relation of a thing offset by (dx, dy) pixels; y points down.

  None if the larger component is less than twice the smaller: a diagonal
  has no single name. None for no offset at all.
  """
  wide, high = abs(dx), abs(dy)
  if max(wide, high) == 0 or max(wide, high) < 2 * min(wide, high):
    return None
  if wide > high:
    return "left of" if dx < 0 else "right of"
  return "above" if dy < 0 else "below"


def loose_relations(dx: float, dy: float) -> tuple[str, ...]:
  """Every relation whose component exceeds half the length (GenEval's rule).

  On a diagonal two hold.
  """
  half = 0.5 * (dx * dx + dy * dy) ** 0.5
  holds = (dx < -half, dx > half, dy < -half, dy > half)
  return tuple(
    name for name, is_true in zip(RELATIONS, holds, strict=True) if is_true
  )
