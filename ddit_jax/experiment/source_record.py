"""What a run's sources hold, stored with it to notice changes at a resume."""

import hashlib
import json
import logging
from collections.abc import Collection, Mapping

from ddit_jax.data.example import BadRecord, Source
from ddit_jax.errors import InputError

_SOURCES_FILE = "sources.json"
_VALIDATION_FILE = "validation_sources.json"
_SHAPES_FILE = "image_shapes.json"
# Images read of a source, evenly spaced.
_NUM_IMAGES = 512

_log = logging.getLogger(__name__)


def run_files(
  sources: Mapping[str, Source], validation: Mapping[str, Source]
) -> dict[str, bytes]:
  """`source_files` of a run's sources and of those that validate them."""
  return source_files(sources) | source_files(validation, is_validation=True)


def source_files(
  sources: Mapping[str, Source], *, is_validation: bool = False
) -> dict[str, bytes]:
  """A checkpoint's metadata about the sources; {} if there are none."""
  if not sources:
    return {}
  facts = {
    name: {
      "fingerprint": source.fingerprint(),
      "num_records": len(source),
      "images": _images_digest(source),
    }
    for name, source in sources.items()
  }
  file = _VALIDATION_FILE if is_validation else _SOURCES_FILE
  return {file: json.dumps(facts, indent=2).encode()}


def shape_files(
  digests: Mapping[str, Mapping[str, str]],
) -> dict[str, bytes]:
  """A checkpoint's metadata about `TrainingData.shape_digests`, if any."""
  if not digests:
    return {}
  return {_SHAPES_FILE: json.dumps(digests, indent=2).encode()}


def _images_digest(source: Source) -> str:
  """Digest of some images, where the fingerprint covers names alone."""
  if not hasattr(source, "image_of"):
    return ""
  digest = hashlib.blake2b(digest_size=16)
  for index in range(0, len(source), -(-len(source) // _NUM_IMAGES)):
    try:
      image = source[index].image or b""
    except BadRecord as error:
      image = error.reason.encode()
    digest.update(hashlib.blake2b(image).digest())
  return digest.hexdigest()


def is_named(key: str, names: Collection[str]) -> bool:
  """Whether a key, or a section it is in, is among `names`."""
  return any(f"{key}.".startswith(f"{name}.") for name in names)


def changed_sources(
  saved: Mapping[str, bytes],
  now: Mapping[str, bytes],
  *,
  changeable: Collection[str],
) -> list[str]:
  """The sources that hold something else than when a checkpoint was saved.

  Args:
    saved: files of the checkpoint.
    now: from `run_files`.
    changeable: config keys that may change; "data.sources.NAME" or a section
      around it accepts other contents of that source.

  Raises:
    InputError: a source, or one that validates another, has changed that must
      not.
  """
  if _VALIDATION_FILE in saved:
    section = "data.validation_sources"
    _changed(section, _VALIDATION_FILE, saved, now, changeable)
  return _changed("data.sources", _SOURCES_FILE, saved, now, changeable)


def _changed(
  section: str,
  file: str,
  saved: Mapping[str, bytes],
  now: Mapping[str, bytes],
  changeable: Collection[str],
) -> list[str]:
  before, after = (json.loads(files.get(file, b"{}")) for files in (saved, now))
  changed = []
  for name, facts in after.items():
    cause = _change(before.get(name), facts)
    if cause is None:
      continue
    _check_accepted(f"{section}.{name}", cause, changeable)
    changed.append(name)
  return changed


def check_shapes(
  saved: Mapping[str, bytes],
  now: Mapping[str, bytes],
  *,
  changeable: Collection[str],
) -> None:
  """Checks that records have the shapes that they had at a checkpoint.

  With other shapes a source's records would come in another order. Sources that
  the checkpoint does not know are new in a mixture.

  Args:
    saved: files of the checkpoint.
    now: from `shape_files`.
    changeable: as `changed_sources` takes them.

  Raises:
    InputError: a shape has changed that must not.
  """
  before, after = (
    json.loads(files.get(_SHAPES_FILE, b"{}")) for files in (saved, now)
  )
  for task, digests in after.items():
    for name, digest in digests.items():
      if before.get(task, {}).get(name, digest) != digest:
        cause = f"other shapes of its images in batches of {task}"
        _check_accepted(f"data.sources.{name}", cause, changeable)


def _check_accepted(key: str, cause: str, changeable: Collection[str]) -> None:
  """Raises InputError unless a changed source is among the changeable keys."""
  if not is_named(key, changeable):
    raise InputError(
      f"{key} is not as it was when the checkpoint was saved ({cause}): "
      "restore it, accept it with --config.resume_changes="
      f"{','.join([*changeable, key])}, or choose another --workdir"
    )
  _log.warning("%s has changed since the checkpoint: %s", key, cause)


def _change(before: Mapping | None, now: Mapping) -> str | None:
  if before is None:
    return "nothing is known about it there"
  if before == now:
    return None
  counts = before["num_records"], now["num_records"]
  if counts[0] != counts[1]:
    return f"it had {counts[0]} records and has {counts[1]}"
  if before["fingerprint"] == now["fingerprint"]:
    return f"{counts[0]} records and file names as before, but other images"
  return (
    f"{counts[0]} records as before, but other texts, file names, sizes or "
    "times"
  )
