"""Import: a checkpoint of SD3 or D-DiT into our arrays, block by block."""

import contextlib
import dataclasses
import math
import pathlib
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ddit_jax.checkpoint.manifest import write_manifest
from ddit_jax.conversion import report
from ddit_jax.conversion.array_folder import ArrayFolder, create_arrays
from ddit_jax.conversion.checkpoint_record import (
  CheckpointRecord,
  SourceRecord,
  write_json,
  write_record,
  write_source_record,
)
from ddit_jax.conversion.component_plan import (
  ComponentPlan,
  ConversionPlan,
  plan_conversion,
)
from ddit_jax.conversion.dtypes import CastCounter
from ddit_jax.conversion.layouts import Source, open_source
from ddit_jax.conversion.partial_folder import (
  check_free,
  check_space,
  hash_file,
  partial_folder,
)
from ddit_jax.conversion.plan import Slab
from ddit_jax.conversion.slab_work import (
  build_slab,
  check_slab,
  check_twin,
  for_each_slab,
  slab_of,
)

REPORT_NAME = "report.json"

# Called with the number of bytes done since the last call.
Progress = Callable[[int], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvertOptions:
  """How to convert.

  Attributes:
    layout: layout to insist on, or None to recognise it.
    target: "ddit" or "sd3".
    dtype: "float32", "bfloat16", "float16", or None to keep what is stored.
    seed: of fresh parameters.
    tokenizer: folder of T5's tokenizer, or of SD3's three, for sources
      without them; see `tokenizer_folders`.
    vocab_size: rows of a fresh text head; None asks the tokenizer.
    is_verified: True reads both sides again and compares them.
  """

  layout: str | None = None
  target: str = "ddit"
  dtype: str | None = None
  seed: int = 0
  tokenizer: pathlib.Path | None = None
  vocab_size: int | None = None
  is_verified: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
  """What a conversion or an export did.

  Attributes:
    lines: the report, a line a tensor.
    nbytes: bytes of all arrays written.
    largest_array: bytes of the largest array written.
  """

  lines: list[str]
  nbytes: int
  largest_array: int


def plan_import(
  source_path: pathlib.Path, options: ConvertOptions
) -> ConversionPlan:
  """Opens a checkpoint and decides everything; reads headers only.

  Raises:
    ConversionError: see `layouts.open_source` and `plan_conversion`.
  """
  return plan_conversion(
    open_source(source_path, options.layout),
    target=options.target,
    dtype=options.dtype,
    tokenizer=options.tokenizer,
    vocab_size=options.vocab_size,
  )


def convert(
  plan: ConversionPlan,
  destination: pathlib.Path,
  options: ConvertOptions,
  progress: Progress = lambda nbytes: None,
) -> Outcome:
  """Writes a checkpoint that training starts from and sampling loads.

  `destination` gets a folder for every network (Orbax trees `params` and
  `constants`), `tokenizer/` (T5's), of SD3 also `tokenizer_clip_l/` and
  `tokenizer_clip_g/`, `config.json`, `report.json`, `source.json` and
  `manifest.json`, which is written last and covers them all.

  Args:
    plan: what `plan_import` gave.
    destination: does not exist yet.
    options: as given to `plan_import`.
    progress: told of the bytes done; there are `work_bytes(plan, options)`.

  Raises:
    ConversionError: `destination` is taken; a tensor holds NaN or numbers
      out of range; copies differ; verification fails.
  """
  check_free(destination)
  check_space(destination, sum(part.nbytes() for part in plan.components))
  counter = CastCounter()
  is_over = threading.Event()
  # Sources are hashed while the disk is busy with what was converted; an error
  # does not wait for that.
  with (
    ThreadPoolExecutor(1) as background,
    _set_at_end(is_over),
    partial_folder(destination) as folder,
  ):
    facts = background.submit(_manifest_facts, plan.source, is_over)
    for component in plan.components:
      _write_component(component, folder, options.seed, counter, progress)
    _copy_plain_folders(plan, folder)
    _write_facts(plan, folder, options, counter)
    if options.is_verified:
      for component in plan.components:
        _verify_component(component, folder, options.seed, progress)
    write_manifest(folder, extra=facts.result())
  return Outcome(
    lines=report.report_lines(
      report.report_rows(plan, options.seed), counter, plan.notes
    ),
    nbytes=sum(component.nbytes() for component in plan.components),
    largest_array=max(c.largest_array() for c in plan.components),
  )


def work_bytes(plan: ConversionPlan, options: ConvertOptions) -> int:
  """Bytes that `progress` will be told of."""
  passes = 2 if options.is_verified else 1
  return passes * sum(component.nbytes() for component in plan.components)


def _write_component(
  plan: ComponentPlan,
  folder: pathlib.Path,
  seed: int,
  counter: CastCounter,
  progress: Progress,
) -> None:
  for name, twin in plan.twins.items():
    check_twin(plan.tensors[name], plan.tensors[twin])
  folders = _create_folders(plan, folder / plan.name)

  def write(slab: Slab) -> None:
    dtype = plan.arrays[slab.array][1]
    built = build_slab(slab, plan.tensors, dtype, seed=seed, counter=counter)
    place = slab_of(folders[_collection(slab)], slab)
    place.write(built, can_reference_source_data_indefinitely=True).result()

  for_each_slab(plan.slabs, write, lambda s: progress(_nbytes(plan, s)))


def _verify_component(
  plan: ComponentPlan, folder: pathlib.Path, seed: int, progress: Progress
) -> None:
  collections = {_collection(slab) for slab in plan.slabs}
  folders = {c: ArrayFolder(folder / plan.name / c) for c in collections}

  def check(slab: Slab) -> None:
    ours = slab_of(folders[_collection(slab)], slab).read().result()
    check_slab(slab, ours, plan.tensors, seed=seed)

  for_each_slab(plan.slabs, check, lambda s: progress(_nbytes(plan, s)))


def _create_folders(
  plan: ComponentPlan, folder: pathlib.Path
) -> dict[str, ArrayFolder]:
  """An Orbax item for each collection ("params", "constants")."""
  groups: dict[str, dict] = {}
  has_blocks = {slab.array: slab.block is not None for slab in plan.slabs}
  for path, entry in plan.arrays.items():
    collection, _, rest = path.partition("/")
    groups.setdefault(collection, {})[rest] = (*entry, has_blocks[path])
  return {
    collection: create_arrays(folder / collection, entries)
    for collection, entries in groups.items()
  }


def _collection(slab: Slab) -> str:
  return slab.array.partition("/")[0]


def _nbytes(plan: ComponentPlan, slab: Slab) -> int:
  dtype: np.dtype = plan.arrays[slab.array][1]
  return math.prod(slab.shape) * dtype.itemsize


def _copy_plain_folders(plan: ConversionPlan, folder: pathlib.Path) -> None:
  sources = {**plan.source.plain_folders, **plan.tokenizers}
  for name, source in sources.items():
    shutil.copytree(source, folder / name)


def _write_facts(
  plan: ConversionPlan,
  folder: pathlib.Path,
  options: ConvertOptions,
  counter: CastCounter,
) -> None:
  configs = {c.name: c.config for c in plan.components}
  write_record(folder, CheckpointRecord(target=plan.target, configs=configs))
  parts = plan.source.components
  write_source_record(
    folder,
    SourceRecord(
      layout=plan.source.layout,
      files={
        name: {t: tensor.file.name for t, tensor in part.tensors.items()}
        for name, part in parts.items()
      },
      configs={
        name: dict(part.config.fields)
        for name, part in parts.items()
        if part.config is not None
      },
    ),
  )
  rows = report.report_rows(plan, options.seed)
  body = report.report_record(rows, counter, plan.notes)
  write_json(folder / REPORT_NAME, body)


@contextlib.contextmanager
def _set_at_end(event: threading.Event) -> Iterator[None]:
  try:
    yield
  finally:
    event.set()


def _manifest_facts(
  source: Source, is_over: threading.Event
) -> dict[str, object]:
  root = source.path if source.path.is_dir() else source.path.parent
  return {
    "source": str(source.path),
    "layout": source.layout,
    "source_files": {
      path.relative_to(root).as_posix(): hash_file(path, is_over.is_set)
      for path in source.files()
    },
  }
