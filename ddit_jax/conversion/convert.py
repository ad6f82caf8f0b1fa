"""Import: a published checkpoint of SD3 or D-DiT into our arrays.

Headers are read and everything is planned first. Arrays are then built from
their tensors and written one block at a time.
"""

import dataclasses
import pathlib
import re
import shutil
import threading
import zlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed

import numpy as np
from jaxtyping import Float32, Shaped

from ddit_jax.checkpoint.manifest import hash_file, write_manifest
from ddit_jax.conversion import record
from ddit_jax.conversion.dtypes import CastCounter, cast
from ddit_jax.conversion.formats import open_checkpoint
from ddit_jax.conversion.plan import (
  ConversionPlan,
  NetworkPlan,
  plan_conversion,
  with_adapter,
)
from ddit_jax.conversion.rearrange import copy_into
from ddit_jax.conversion.safetensors_io import StoredTensor
from ddit_jax.conversion.slices import Block, TensorSlice, block_shape
from ddit_jax.conversion.source_tree import check_outside
from ddit_jax.conversion.zarr_arrays import ZarrArrays, create_arrays
from ddit_jax.errors import InputError
from ddit_jax.files import appearing_folder, check_free_space, check_is_new
from ddit_jax.prng import check_seed

# Each holds a few copies of one block: more threads would take more memory.
_THREADS = 2
_COMPARED_AT_ONCE = 2**20

# Called with the number of bytes done since the last call.
OnProgress = Callable[[int], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvertOptions:
  """Options of a conversion.

  Attributes:
    format: name or letter of the format that the source must have; None
      recognises it.
    target: see `plan_conversion`.
    dtype: "float32", "bfloat16", "float16", or None to keep what is stored.
    seed: of newly initialised parameters.
    tokenizer: folder of T5's tokenizer, or of SD3's three, for sources without
      them; see `tokenizer_folders`.
    vocab_size: rows of a new text head; None asks the tokenizer.
    lora: file of adapters to merge into the network, see `AdapterFile.open`.
    is_verified: True reads both sides again and compares them.
  """

  format: str | None = None
  target: str | None = None
  dtype: str | None = None
  seed: int = 0
  tokenizer: pathlib.Path | None = None
  vocab_size: int | None = None
  lora: pathlib.Path | None = None
  is_verified: bool = False

  def __post_init__(self):
    check_seed(self.seed)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
  """The result of a conversion or an export.

  Attributes:
    lines: the report, one line per tensor.
    nbytes: bytes of all arrays written.
    largest_array: size of the largest array written, in bytes.
  """

  lines: list[str]
  nbytes: int
  largest_array: int


def plan_import(
  source_path: pathlib.Path, options: ConvertOptions
) -> ConversionPlan:
  """Opens a checkpoint and decides everything; reads headers only.

  Raises:
    InputError: see `formats.open_checkpoint`, `plan.plan_conversion` and
      `plan.with_adapter`.
  """
  plan = plan_conversion(
    open_checkpoint(source_path, options.format),
    target=options.target,
    dtype=options.dtype,
    tokenizer=options.tokenizer,
    vocab_size=options.vocab_size,
  )
  return plan if options.lora is None else with_adapter(plan, options.lora)


def convert(
  plan: ConversionPlan,
  destination: pathlib.Path,
  options: ConvertOptions,
  progress: OnProgress = lambda nbytes: None,
) -> Outcome:
  """Writes a checkpoint that training starts from and sampling loads.

  `destination` gets a folder for every network (Orbax trees `params` and
  `constants`), its tokenizers, `config.json`, `report.json`, `source.json` and
  `manifest.json`, which is written last and covers them all.

  Args:
    plan: what `plan_import` returned.
    destination: does not exist yet.
    options: as given to `plan_import`.
    progress: called with bytes done; the total is `work_bytes(plan, options)`.

  Raises:
    InputError: `destination` is taken, or in a folder that is copied; a tensor
      holds NaN or values out of range; duplicates differ; verification fails.
  """
  check_is_new(destination)
  check_outside(destination, plan.copied().values())
  check_free_space(destination, plan.nbytes(), remedy="take a smaller --dtype")
  casts = CastCounter()
  report = record.conversion_report(plan, options.seed)
  is_over = threading.Event()
  with ThreadPoolExecutor(1) as background:
    # Sources are hashed while blocks are converted; an error stops that too.
    facts = background.submit(_source_facts, plan, is_over)
    try:
      with appearing_folder(destination) as folder:
        for network in plan.networks:
          _write_network(network, folder, options.seed, casts, progress)
        _write_files(plan, folder)
        record.save_report(folder, report, casts, plan.notes)
        if options.is_verified:
          for network in plan.networks:
            _verify_network(network, folder, options.seed, progress)
        write_manifest(folder, extra=facts.result())
    finally:
      is_over.set()
  return Outcome(
    lines=record.report_lines(report, casts, plan.notes),
    nbytes=plan.nbytes(),
    largest_array=max(max(n.array_bytes()) for n in plan.networks),
  )


def work_bytes(plan: ConversionPlan, options: ConvertOptions) -> int:
  """Total bytes that `progress` is called with."""
  return (2 if options.is_verified else 1) * plan.nbytes()


def for_each_block(
  blocks: Iterable[Block],
  work: Callable[[Block], None],
  done: Callable[[Block], None] = lambda block: None,
) -> None:
  """Runs `work` on every block in two threads, then `done` in the calling one.

  Raises:
    Exception: the first error of `work`; blocks not yet begun are dropped.
  """
  with ThreadPoolExecutor(_THREADS) as threads:
    futures = {threads.submit(work, block): block for block in blocks}
    try:
      for future in as_completed(futures):
        future.result()
        done(futures[future])
    except BaseException:
      threads.shutdown(cancel_futures=True)
      raise


def check_block(
  parts: Iterable[TensorSlice],
  ours: np.ndarray,
  tensors: Mapping[str, StoredTensor],
) -> None:
  """Compares a block with their tensors bit for bit, rearranged back.

  Args:
    parts: its slices; new ones are not compared.
    ours: its stored values.
    tensors: by key, of the same dtype or cast to it.

  Raises:
    InputError: a value differs.
  """
  for part in parts:
    if part.key is not None:
      tensor = tensors[part.key]
      theirs = cast(tensor.label, tensor.read(), ours.dtype)
      _check_equal(tensor.name, part.to_theirs(ours), theirs)


def initial_values(
  part: TensorSlice, seed: int
) -> Float32[np.ndarray, "*shape"]:
  """Values of a new slice, a function of the seed.

  Every slice has its own generator, so its values depend neither on the order
  of writing nor on other slices.
  """
  if part.init == "zeros":
    return np.zeros(part.shape, np.float32)
  if part.init == "identity":
    return np.eye(*part.shape, dtype=np.float32)
  std = float(re.fullmatch(r"normal\(0,(.+)\)", part.init)[1])
  path, number = part.block
  stream = zlib.crc32(f"{path}[{number}]".encode())
  generator = np.random.default_rng([seed, stream])
  values = generator.standard_normal(part.shape, dtype=np.float32)
  return values * np.float32(std)


def _build_block(
  network: NetworkPlan, block: Block, seed: int, casts: CastCounter
) -> np.ndarray:
  shapes = {path: shape for path, (shape, _) in network.arrays.items()}
  _, dtype = network.arrays[block[0]]
  built = np.empty(block_shape(block, shapes), dtype)
  for part in network.blocks[block]:
    if part.key is None:
      built[part.index] = initial_values(part, seed).astype(dtype)
    else:
      tensor = network.tensors[part.key]
      stored = cast(tensor.label, tensor.read(), dtype, casts)
      copy_into(built[part.index], part.to_ours(stored))
  for module in network.changes.get(block, ()):
    place = built[module.part.index]
    changed = place.astype(np.float32) + module.change()
    place[...] = cast(module.name, changed, dtype)
  return built


def _write_network(
  network: NetworkPlan,
  folder: pathlib.Path,
  seed: int,
  casts: CastCounter,
  progress: OnProgress,
) -> None:
  for key, original in network.duplicates.items():
    _check_duplicate(network.tensors[key], network.tensors[original])
  stacked = {path for path, number in network.blocks if number is not None}
  collections: dict[str, dict] = {}
  for path, (shape, dtype) in network.arrays.items():
    collection, _, rest = path.partition("/")
    entry = (shape, dtype, path in stacked)
    collections.setdefault(collection, {})[rest] = entry
  arrays = {
    collection: create_arrays(folder / network.name / collection, entries)
    for collection, entries in collections.items()
  }

  def write(block: Block) -> None:
    built = _build_block(network, block, seed, casts)
    place = _place(arrays, block)
    place.write(built, can_reference_source_data_indefinitely=True).result()

  for_each_block(network.blocks, write, lambda b: progress(_nbytes(arrays, b)))


def _write_files(plan: ConversionPlan, folder: pathlib.Path) -> None:
  """Copies tokenizers and scheduler; writes `config.json` and `source.json`."""
  for name, source in plan.copied().items():
    shutil.copytree(source, folder / name)
  configs = {network.name: network.config for network in plan.networks}
  record.write_record(
    folder, record.CheckpointRecord(target=plan.target, configs=configs)
  )
  record.write_source(folder, plan)


def _verify_network(
  network: NetworkPlan, folder: pathlib.Path, seed: int, progress: OnProgress
) -> None:
  arrays = {
    path.name: ZarrArrays(path) for path in (folder / network.name).iterdir()
  }

  def check(block: Block) -> None:
    ours = _place(arrays, block).read().result()
    if block in network.changes:
      # Adapted tensors are in no file: they are computed again.
      expected = _build_block(network, block, seed, CastCounter())
      return _check_equal(f"{block} (adapted)", ours, expected)
    parts = network.blocks[block]
    check_block(parts, ours, network.tensors)
    for part in parts:
      if part.key is None:
        expected = initial_values(part, seed).astype(ours.dtype)
        _check_equal(f"{block} (new)", ours[part.index], expected)

  for_each_block(network.blocks, check, lambda b: progress(_nbytes(arrays, b)))


def _place(arrays: Mapping[str, ZarrArrays], block: Block):
  collection, _, path = block[0].partition("/")
  return arrays[collection].block(path, block[1])


def _nbytes(arrays: Mapping[str, ZarrArrays], block: Block) -> int:
  place = _place(arrays, block)
  return place.size * place.dtype.numpy_dtype.itemsize


def _check_duplicate(tensor: StoredTensor, original: StoredTensor) -> None:
  is_alike = (tensor.dtype, tensor.shape) == (original.dtype, original.shape)
  if not is_alike or not _equal_bits(tensor.read(), original.read()):
    raise InputError(
      f"tensor {tensor.label} should be a duplicate of {original.name} but "
      "differs, so it is unclear which of them is meant: fetch the file again"
    )


def _check_equal(name: str, got: np.ndarray, expected: np.ndarray) -> None:
  if got.shape != expected.shape or not _equal_bits(got, expected):
    raise InputError(
      f"verification failed: {name} differs from what was written; check the "
      "disk and convert again"
    )


def _equal_bits(
  first: Shaped[np.ndarray, "*shape"], second: Shaped[np.ndarray, "*shape"]
) -> bool:
  if first.ndim and not first.flags.c_contiguous:
    contiguous = np.empty(first.shape, first.dtype)
    copy_into(contiguous, first)
    first = contiguous
  bits = np.dtype(f"u{first.dtype.itemsize}")
  a, b = first.reshape(-1).view(bits), second.reshape(-1).view(bits)
  step = _COMPARED_AT_ONCE
  return all(
    np.array_equal(a[i : i + step], b[i : i + step])
    for i in range(0, a.size, step)
  )


def _source_facts(
  plan: ConversionPlan, is_over: threading.Event
) -> dict[str, object]:
  """Path, format and hashes of a source, for the manifest."""
  source, adapter = plan.source, plan.adapter
  root = source.path if source.path.is_dir() else source.path.parent
  return {
    "source": str(source.path),
    "format": source.format,
    "source_files": {
      path.relative_to(root).as_posix(): hash_file(path, is_over)
      for path in source.files()
    },
    "lora": adapter
    and {"path": str(adapter.path), **hash_file(adapter.path, is_over)},
  }
