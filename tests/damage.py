"""Seeded damage for fuzzers: JSON with one hostile value, bytes with flips."""

import json
import random

# Text that `json.dumps` cannot write stands under a name until the end.
_RAW = {
  "@digits@": "9" * 5000,
  "@nested@": "[" * 20_000 + "]" * 20_000,
  "@huge@": "1" + "0" * 400,
  "@overflow@": "1e999",
}
_VALUES = (
  *_RAW,
  *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, 1.5, -0.0),
  *(float("nan"), float("inf"), float("-inf"), 1e-320),
  *("", "x", "\ud800", "\x1b[31m\n", "../../x", "\0", "F32" * 200),
  *([], {}, [[]], ["F32"], {"F32": None}, [1, -1], [None]),
)


def damaged_json(text: str, rng: random.Random) -> bytes:
  """The document with one value replaced, added, removed or repeated."""
  body = json.loads(text)
  holder, key = rng.choice(list(_places(body)))
  kind = rng.choice(("replace", "replace", "replace", "remove", "add"))
  if kind == "remove":
    del holder[key]
  elif kind == "add" and isinstance(holder, dict):
    holder[rng.choice(("x", "\ud800", "\x1b[2J", "", *holder))] = rng.choice(
      _VALUES
    )
  else:
    holder[key] = rng.choice(_VALUES)
  found = json.dumps(body)
  for name, raw in _RAW.items():
    found = found.replace(f'"{name}"', raw)
  if rng.random() < 0.05:
    found = found.replace("{", '{"x": 1, "x": 2, ', 1)
  return found.encode()


def damaged_bytes(data: bytes, rng: random.Random) -> bytes:
  """The bytes with a few flipped, a piece cut out, repeated or inserted."""
  kind = rng.choice(("flip", "flip", "cut", "end", "repeat", "insert"))
  start = rng.randrange(len(data))
  stop = min(len(data), start + rng.randrange(1, 40))
  if kind == "flip":
    found = bytearray(data)
    for _ in range(rng.randrange(1, 4)):
      found[rng.randrange(len(found))] ^= 1 << rng.randrange(8)
    return bytes(found)
  if kind == "end":
    return data[:start]
  middle = {
    "cut": b"",
    "repeat": 2 * data[start:stop],
    "insert": rng.randbytes(stop - start) + data[start:stop],
  }
  return data[:start] + middle[kind] + data[stop:]


def _places(body):
  """(container, key) of every value below `body`."""
  items = body.items() if isinstance(body, dict) else enumerate(body)
  for key, value in list(items):
    yield body, key
    if isinstance(value, (dict, list)):
      yield from _places(value)
