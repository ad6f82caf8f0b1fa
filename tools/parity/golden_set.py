"""A folder of recorded arrays and checkpoints, verified when it is opened."""

import dataclasses
import hashlib
import json
import math
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
ROLES = ("input", "output", "aux")
# The statistics are float64 sums in any order.
_STATISTICS_RTOL = 1e-9


class GoldenSetError(ValueError):
  """The folder is invalid; the message says why."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArrayEntry:
  """An array as the manifest describes it.

  Attributes:
    case: name of its case.
    name: its name there.
    shape: its shape.
    dtype: "float32" or "int32".
    role: "input", "output" (to be compared) or "aux" (information only).
    atol, rtol: |got - reference| <= atol + rtol * |reference|, of outputs.
    max_mismatch_fraction: fraction of the entries that may exceed that.
    strict_rel_l2: optional, stricter bound of |got - reference| / |reference|
      in the Euclidean norm, or None.
    rms, max_abs: statistics of its entries, or None.
  """

  case: str
  name: str
  shape: tuple[int, ...]
  dtype: str
  role: str
  atol: float = 0.0
  rtol: float = 0.0
  max_mismatch_fraction: float = 0.0
  strict_rel_l2: float | None = None
  rms: float | None = None
  max_abs: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
  """One file of arrays.

  Attributes:
    name: such as "a_ddit_forward".
    entries: name to its description in the manifest.
    arrays: name to array, with the shapes and dtypes of the manifest.
  """

  name: str
  entries: Mapping[str, ArrayEntry]
  arrays: Mapping[str, np.ndarray]

  def __getitem__(self, name: str) -> np.ndarray:
    """An input.

    Raises:
      GoldenSetError: no input has this name.
    """
    if name not in self.entries or self.entries[name].role != "input":
      raise GoldenSetError(f"case {self.name} has no input array {name}")
    return self.arrays[name]

  def outputs(self) -> list[str]:
    """Names of the arrays to be compared."""
    return [n for n, entry in self.entries.items() if entry.role == "output"]

  def groups(self, last: str) -> list[str]:
    """Every x of the inputs "x/last", such as the runs 0, 1, 2 of a network."""
    return [
      name.removesuffix(f"/{last}")
      for name, entry in self.entries.items()
      if entry.role == "input" and name.endswith(f"/{last}")
    ]

  def altered(self) -> dict[str, str]:
    """Arrays whose statistics are not the manifest's, with the difference."""
    found = {}
    for name, entry in self.entries.items():
      array = self.arrays[name].astype(np.float64)
      seen = {
        "rms": math.sqrt(np.square(array).mean()) if array.size else 0.0,
        "max_abs": float(np.abs(array).max(initial=0.0)),
      }
      for kind, value in seen.items():
        said = getattr(entry, kind)
        if said is not None and not math.isclose(
          value, said, rel_tol=_STATISTICS_RTOL
        ):
          found[name] = f"{kind} is {value:.9g}, the manifest says {said:.9g}"
    return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class GoldenSet:
  """A folder in the format of `docs/parity.md`.

  Attributes:
    folder: path of the set.
    constants: of the recorded run, such as the guidance scale.
    extra: lists that cases refer to.
    entries: case to array to its description in the manifest.
    files: case to its file.
  """

  folder: pathlib.Path
  constants: Mapping[str, float]
  extra: Mapping[str, Any]
  entries: Mapping[str, Mapping[str, ArrayEntry]]
  files: Mapping[str, pathlib.Path]

  def constant(self, name: str) -> float:
    """A constant of the recorded run.

    Raises:
      GoldenSetError: the manifest lacks it.
    """
    if name not in self.constants:
      raise GoldenSetError(f"the manifest lacks the constant {name}")
    return float(self.constants[name])

  def selected(self, wanted: list[str] | None) -> list[str]:
    """Names of the wanted cases (full, or the letters before "_"), or all.

    Raises:
      GoldenSetError: the case is unknown.
    """
    if wanted is None:
      return list(self.entries)
    names = []
    for text in wanted:
      hits = [n for n in self.entries if text in (n, n.split("_")[0])]
      if len(hits) != 1:
        raise GoldenSetError(
          f"{self.folder} has no case {text!r}; there are {list(self.entries)}"
        )
      names += hits
    return names

  def load(self, name: str) -> Case:
    """Reads one case.

    Raises:
      GoldenSetError: its file and the manifest disagree.
    """
    path, entries = self.files[name], self.entries[name]
    try:
      with np.load(path, allow_pickle=False) as stored:
        arrays = {key: stored[key] for key in stored.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
      raise GoldenSetError(f"{path} cannot be read: {error}") from error
    if unexpected := sorted(set(arrays) ^ set(entries)):
      raise GoldenSetError(
        f"{path} and the manifest do not list the same arrays: {unexpected}"
      )
    for key, entry in entries.items():
      seen = (arrays[key].shape, arrays[key].dtype.name)
      if seen != (entry.shape, entry.dtype):
        raise GoldenSetError(
          f"{path}: array {key} is {seen[1]} {seen[0]}, the manifest says "
          f"{entry.dtype} {entry.shape}"
        )
    return Case(name=name, entries=entries, arrays=arrays)


def open_set(folder: pathlib.Path) -> GoldenSet:
  """Reads the manifest and checks the hash of every file it lists.

  Raises:
    GoldenSetError: the folder has another format, or is damaged.
  """
  manifest = _read_manifest(folder)
  try:
    paths = _checked_files(folder, manifest["files"])
    entries: dict[str, dict[str, ArrayEntry]] = {
      name: {} for name in manifest["cases"]
    }
    for fields in manifest["arrays"]:
      entry = _entry(fields)
      entries[entry.case][entry.name] = entry
    files = {name: case["file"] for name, case in manifest["cases"].items()}
    golden = GoldenSet(
      folder=folder,
      constants=manifest["constants"],
      extra=manifest.get("extra", {}),
      entries=entries,
      files={name: folder / path for name, path in files.items()},
    )
  except (KeyError, TypeError, AttributeError) as error:
    raise GoldenSetError(
      f"{folder / MANIFEST_NAME} is incomplete: {error!r}"
    ) from error
  if unlisted := sorted(set(files.values()) - paths):
    raise GoldenSetError(f"the manifest lists no hash of {unlisted}")
  return golden


def _read_manifest(folder: pathlib.Path) -> dict[str, Any]:
  path = folder / MANIFEST_NAME
  try:
    manifest = json.loads(path.read_bytes())
  except OSError as error:
    raise GoldenSetError(
      f"{path} cannot be read ({error.strerror}): --set names a folder in the "
      "format of docs/parity.md"
    ) from error
  except ValueError as error:
    raise GoldenSetError(f"{path} is not JSON: {error}") from error
  version = manifest.get("format_version") if type(manifest) is dict else None
  if version != FORMAT_VERSION:
    raise GoldenSetError(
      f"{path} has format_version {version}, this program reads "
      f"{FORMAT_VERSION}"
    )
  return manifest


def _entry(fields: dict[str, Any]) -> ArrayEntry:
  known = {field.name for field in dataclasses.fields(ArrayEntry)}
  fields = {name: value for name, value in fields.items() if name in known}
  entry = ArrayEntry(**fields | {"shape": tuple(fields["shape"])})
  where = f"array {entry.name} of case {entry.case}"
  if entry.role not in ROLES:
    raise GoldenSetError(f"{where} has role {entry.role!r}, not one of {ROLES}")
  if entry.role == "output" and not {"atol", "rtol"} <= fields.keys():
    raise GoldenSetError(f"{where} is an output without atol and rtol")
  for name in ("atol", "rtol", "max_mismatch_fraction"):
    if not 0 <= getattr(entry, name) < math.inf:
      raise GoldenSetError(f"{where} has {name} {getattr(entry, name)}")
  return entry


def _checked_files(folder: pathlib.Path, listed: list[dict]) -> set[str]:
  """The paths of all listed files, after checking their hashes."""
  for entry in listed:
    path = folder / entry["path"]
    if not path.resolve().is_relative_to(folder.resolve()):
      raise GoldenSetError(f"the manifest lists {entry['path']}, outside of it")
    try:
      with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
      raise GoldenSetError(
        f"{path} cannot be read: {error.strerror}"
      ) from error
    if digest != entry["sha256"]:
      raise GoldenSetError(
        f"{path} is damaged or was altered: its SHA-256 is not the manifest's"
      )
  return {entry["path"] for entry in listed}


def channels_last(images) -> jax.Array:
  """Recorded [batch, channels, height, width] with the channels last."""
  return jnp.moveaxis(jnp.asarray(images), -3, -1)


def channels_first(images) -> np.ndarray:
  """Our [batch, height, width, channels] with the channels first."""
  return np.moveaxis(np.asarray(images), -1, -3)
