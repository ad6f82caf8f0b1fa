"""The `benchmarks` section of a config: files, prompts, sampling, amounts."""

import pathlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ddit_jax.errors import InputError, check_choices, check_known, suggest
from ddit_jax.files import local_path
from ddit_jax.protocols.protocol import PROTOCOLS, Protocol

# Beginnings of the roles of files that are made from a model's images.
_MODELS = ("", "baseline_")


@dataclass(frozen=True, kw_only=True)
class BenchmarksConfig:
  """What `ddit evaluate --tasks` reads and how it samples.

  Training runs some of the tasks at every validation, too.

  Attributes:
    folder: has a folder of official files for each benchmark, named as the
      benchmark.
    files: benchmark -> role -> path of a file that lies elsewhere, has another
      name, or was made from generated images by another program.
    prompt: "published", the template that the published numbers were made with;
      "trained", that of the checkpoint's own training.
    sampling: "published", the steps, order and size of the published numbers;
      "config", the `sample` section and the checkpoint's sizes.
    num_units: questions, captions or prompts of each benchmark, drawn as the
      D-DiT release draws its subset; 0 takes all.
    seed: of sampling.
    records: of a source of one's own: "held_out" from training by the `data`
      section, or "all".
    num_shown: worst and random items of each benchmark in the report.
    image_features: converted weights with CLIP's image encoder, by whose
      features images:NAME are compared with the records' images; "" leaves
      that to other programs.
    at_validation: tasks that training runs at every validation, joined by
      commas, e.g. "captions:mine,answers:asked"; "" for none.
    num_units_at_validation: `num_units` of those; 0 takes all.
  """

  folder: str = "data/benchmarks"
  files: dict[str, dict[str, str]] = field(default_factory=dict)
  prompt: Literal["published", "trained"] = "published"
  sampling: Literal["published", "config"] = "published"
  num_units: int = 0
  seed: int = 0
  records: Literal["held_out", "all"] = "held_out"
  num_shown: int = 12
  image_features: str = ""
  at_validation: str = ""
  num_units_at_validation: int = 64

  def __post_init__(self):
    check_choices(self)
    published = [name for name in self.files if ":" not in name]
    check_known(published, PROTOCOLS, what="files has no benchmark")
    for name in ("num_units", "num_shown", "num_units_at_validation"):
      if getattr(self, name) < 0:
        raise ValueError(f"{name} is negative: {getattr(self, name)}")
    tasks = self.tasks_at_validation
    if len(set(tasks)) < len(tasks):
      raise ValueError(f"at_validation names a task twice: {tasks}")

  @property
  def tasks_at_validation(self) -> tuple[str, ...]:
    """The tasks in `at_validation`."""
    names = (name.strip() for name in self.at_validation.split(","))
    return tuple(name for name in names if name)

  def paths(self, name: str, protocol: Protocol) -> dict[str, pathlib.Path]:
    """Role -> path of a benchmark's files.

    Raises:
      InputError: a file is not there, or its name fits several files.
    """
    given = dict(self.files.get(name, {}))
    known = [*protocol.files, *_references(protocol)]
    known += [f"{who}{role}" for role in protocol.tools for who in _MODELS]
    for role in given:
      if role not in known:
        raise InputError(
          f"benchmarks.files.{name} has no {role!r}: {suggest(role, known)}"
        )
    found = {}
    for role in dict.fromkeys(known):
      # Annotations in the folder belong to the questions in the folder.
      is_elsewhere = role in protocol.optional and "questions" in given
      path = self._given(name, role, given)
      if path is None and not is_elsewhere:
        path = self._usual(name, role, protocol)
      if path is not None:
        found[role] = path
    return found

  def _given(
    self, name: str, role: str, given: Mapping[str, str]
  ) -> pathlib.Path | None:
    """The file that the config names."""
    if role not in given:
      return None
    key = f"benchmarks.files.{name}.{role}"
    path = local_path(given[role], what=key)
    if not path.exists():
      raise InputError(f"{key}={given[role]} does not exist")
    return path

  def _usual(
    self, name: str, role: str, protocol: Protocol
  ) -> pathlib.Path | None:
    """The file in the benchmark's folder."""
    if role not in protocol.files:
      return None
    folder = local_path(self.folder, what="benchmarks.folder") / name
    fitting = sorted(folder.glob(protocol.files[role]))
    if len(fitting) == 1:
      return fitting[0]
    if not fitting and role in protocol.optional:
      return None
    usual = folder / protocol.files[role]
    shown = f"{len(fitting)} files fit" if fitting else "nothing fits"
    raise InputError(
      f"{name} needs its {role}, but {shown} {usual}: put it there, or set "
      f"--config.benchmarks.files.{name}.{role}"
    )


def _references(protocol: Protocol) -> list[str]:
  return [role for part in protocol.parts.values() for role in part.references]
