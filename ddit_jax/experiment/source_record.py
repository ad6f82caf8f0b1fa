"""What a run's sources hold, stored with it to notice changes at a resume."""

import json
import logging
from collections.abc import Collection, Mapping

from ddit_jax.data.example import Source
from ddit_jax.errors import InputError

SOURCES_FILE = "sources.json"

_log = logging.getLogger(__name__)


def source_files(sources: Mapping[str, Source]) -> dict[str, bytes]:
  """A checkpoint's metadata about the sources; {} if there are none."""
  if not sources:
    return {}
  facts = {
    name: {"fingerprint": source.fingerprint(), "num_records": len(source)}
    for name, source in sources.items()
  }
  return {SOURCES_FILE: json.dumps(facts, indent=2).encode()}


def is_named(key: str, names: Collection[str]) -> bool:
  """Whether a key, or a section it is in, is among `names`."""
  return any(f"{key}.".startswith(f"{name}.") for name in names)


def changed_sources(
  files: Mapping[str, bytes],
  sources: Mapping[str, Source],
  *,
  changeable: Collection[str],
) -> dict[str, Source]:
  """The sources that hold something else than when a checkpoint was saved.

  Args:
    files: saved with the checkpoint.
    sources: opened, by name.
    changeable: config keys that may change; "data.sources.NAME" or a section
      around it accepts other contents of that source.

  Raises:
    InputError: a source has changed that must not.
  """
  saved = json.loads(files.get(SOURCES_FILE, b"{}"))
  changed = {}
  for name, source in sources.items():
    cause = _change(saved.get(name), source)
    if cause is None:
      continue
    key = f"data.sources.{name}"
    if not is_named(key, changeable):
      raise InputError(
        f"{key} is not as it was when the checkpoint was saved ({cause}): "
        f"restore it, accept it with --config.resume_changes={key}, or choose "
        "another --workdir"
      )
    _log.warning("%s has changed since the checkpoint: %s", key, cause)
    changed[name] = source
  return changed


def _change(saved: Mapping | None, source: Source) -> str | None:
  if saved is None:
    return "nothing is known about it there"
  if saved["fingerprint"] == source.fingerprint():
    return None
  before, now = saved["num_records"], len(source)
  if before != now:
    return f"it had {before} records and has {now}"
  return f"{now} records as before, but other texts, file names, sizes or times"
