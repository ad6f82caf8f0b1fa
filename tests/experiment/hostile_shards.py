"""Tar, parquet and ArrayRecord shards that are broken or hostile."""

import gzip
import io
import os
import pathlib
import tarfile

import pyarrow as pa
from pyarrow import parquet

from ddit_jax.data.example import Example
from ddit_jax.data.prepare.prepare import PrepareOptions, prepare
from ddit_jax.data.sources.registry import open_source
from tests.data import pictures
from tests.experiment.hostile_inputs import (
  ANY_SIZE,
  LEFT_OUT,
  REFUSED,
  REPLACED,
  USED,
  Hostile,
)
from tests.source_files import raw_header, write_tar

SOUND = {"sound.png": pictures.PNG, "sound.txt": b"a red square"}
OTHER = {"x.png": pictures.PNG, "x.txt": b"a blue square"}
TEXTS = ["a red square", "a blue square"]


def tar_spec(folder: pathlib.Path) -> dict:
  path = str(folder / "shard.tar")
  return {"kind": "webdataset", "path": path, "filters": ANY_SIZE, "workers": 1}


def tar_of(*groups: dict[str, bytes], form=tarfile.USTAR_FORMAT):
  """Writes one shard with the sound sample and these members."""

  def write(folder: pathlib.Path) -> dict:
    members = {k: v for group in (SOUND, *groups) for k, v in group.items()}
    write_tar(folder / "shard.tar", members, form)
    return tar_spec(folder)

  return write


def tar_with(kind: bytes):
  """A sample whose picture is a member of another kind."""

  def write(folder: pathlib.Path) -> dict:
    with tarfile.open(folder / "shard.tar", "w") as file:
      for name, data in (SOUND | {"x.txt": b"a blue square"}).items():
        info = tarfile.TarInfo(name)
        info.size = len(data)
        file.addfile(info, io.BytesIO(data))
      info = tarfile.TarInfo("x.png")
      info.type, info.linkname = kind, "/etc/passwd"
      file.addfile(info)
    return tar_spec(folder)

  return write


def tar_ending_in(*tail: bytes):
  """Two samples, then these bytes in place of an end marker."""

  def write(folder: pathlib.Path) -> dict:
    # The sample before the damage is lost with it.
    tar_of(OTHER)(folder)
    path = folder / "shard.tar"
    with tarfile.open(path) as file:
      last = file.getmembers()[-1]
    end = last.offset_data + -(-last.size // 512) * 512
    path.write_bytes(path.read_bytes()[:end] + b"".join(tail))
    return tar_spec(folder)

  return write


def twice_in_a_sample(folder: pathlib.Path) -> dict:
  with tarfile.open(folder / "shard.tar", "w") as file:
    for name, data in [*SOUND.items(), *OTHER.items(), *OTHER.items()]:
      info = tarfile.TarInfo(name)
      info.size = len(data)
      file.addfile(info, io.BytesIO(data))
  return tar_spec(folder)


def compressed(folder: pathlib.Path) -> dict:
  spec = tar_of(OTHER)(folder)
  path = folder / "shard.tar"
  path.write_bytes(gzip.compress(path.read_bytes()))
  return spec


def spoil_picture(folder: pathlib.Path) -> None:
  """Damages the second sample's picture, not its size."""
  path = folder / "shard.tar"
  data = path.read_bytes()
  place = data.rindex(b"IDAT") + 60
  path.write_bytes(data[:place] + bytes(20) + data[place + 20 :])


def cut_off(folder: pathlib.Path) -> None:
  """Leaves the first sample of a shard that a process has yet to open."""
  path = folder / "more.tar"
  path.write_bytes(path.read_bytes()[:1024])


def two_shards(folder: pathlib.Path) -> dict:
  spec = tar_of()(folder)
  write_tar(folder / "more.tar", OTHER)
  return spec | {"path": str(folder / "*.tar")}


def with_index(change):
  """A sound shard whose index, built before, is changed."""

  def write(folder: pathlib.Path) -> dict:
    spec = tar_of(OTHER)(folder)
    open_source("first", spec)
    (path,) = folder.glob("*.tarindex")
    change(path)
    return spec

  return write


def flip_footer(path: pathlib.Path) -> None:
  data = path.read_bytes()
  path.write_bytes(data[:70] + bytes([data[70] ^ 1]) + data[71:])


def replace_by_pipe(path: pathlib.Path) -> None:
  path.unlink()
  os.mkfifo(path)


def make_stale(path: pathlib.Path) -> None:
  write_tar(path.parent / "shard.tar", OTHER | SOUND)


def table(**changes):
  """Writes two rows as parquet, with other columns where given."""

  def write(folder: pathlib.Path) -> dict:
    columns = {"image": [pictures.PNG, pictures.JPEG], "text": TEXTS} | changes
    path = folder / "train.parquet"
    parquet.write_table(pa.table(columns), path, compression="none")
    return {"kind": "parquet", "path": str(path)}

  return write


def cut_parquet(folder: pathlib.Path) -> dict:
  spec = table()(folder)
  path = pathlib.Path(spec["path"])
  path.write_bytes(path.read_bytes()[:-40])
  return spec


def latin_parquet(folder: pathlib.Path) -> dict:
  spec = table()(folder)
  path = pathlib.Path(spec["path"])
  path.write_bytes(path.read_bytes().replace(b"blue", b"bl\xffe"))
  return spec


class Pair:
  """Two examples in memory."""

  name, removed = "pair", {}

  def __len__(self):
    return 2

  def __getitem__(self, index):
    return Example(
      record_id=f"pair:{index}", image=pictures.PNG, texts=(TEXTS[index],)
    )

  def fingerprint(self):
    return "pair"


def prepared(change=None):
  """A folder of `ddit prepare`, which `change` damages."""

  def write(folder: pathlib.Path) -> dict:
    prepare(Pair(), folder / "set", PrepareOptions(num_shards=2), threads=1)
    if change is not None:
      change(folder / "set")
    return {"kind": "array_record", "path": str(folder / "set")}

  return write


def flip_record(folder: pathlib.Path) -> None:
  path = folder / "part-00001-of-00002.array_record"
  data = path.read_bytes()
  place = data.index(b"IDAT")
  path.write_bytes(data[:place] + b"X" + data[place + 1 :])


def rename_shard(folder: pathlib.Path) -> None:
  path = folder / "dataset.json"
  text = path.read_text().replace("part-00001", "../part-00001")
  path.write_text(text)


def remove_shard(folder: pathlib.Path) -> None:
  (folder / "part-00001-of-00002.array_record").unlink()


def cut_dataset(folder: pathlib.Path) -> None:
  path = folder / "dataset.json"
  path.write_text(path.read_text()[:-30])


# name, reason, what writes it.
TARS_LEFT_OUT = [
  ("tar member with ..", "unsafe_path", tar_of({"../x.png": pictures.PNG})),
  (
    "tar member of a 10 kB name",
    "unsafe_path",
    tar_of({"x" * 10_000 + ".png": b""}, form=tarfile.PAX_FORMAT),
  ),
  ("tar symbolic link", "symlink", tar_with(tarfile.SYMTYPE)),
  ("tar hard link", "hardlink", tar_with(tarfile.LNKTYPE)),
  ("tar device", "special_file", tar_with(tarfile.CHRTYPE)),
  (
    "tar cut off in a member",
    "corrupt_shard",
    tar_ending_in(raw_header(b"y.png", b"00000001750\0"), bytes(100)),
  ),
  (
    "tar header with a wrong checksum",
    "corrupt_shard",
    tar_ending_in(
      raw_header(b"y.png", b"0" * 11 + b"\0", checksum=b"000001\0 "),
      bytes(1024),
    ),
  ),
  (
    "tar member that claims 8 EB",
    "corrupt_shard",
    tar_ending_in(
      raw_header(b"y.png", b"\x80" + bytes(3) + b"\x7f" + b"\xff" * 7),
      bytes(1024),
    ),
  ),
  ("tar member twice in a sample", "duplicate_member", twice_in_a_sample),
  (
    "tar JSON nested 100,000 deep",
    "bad_json",
    tar_of({"x.png": pictures.PNG, "x.json": b"[" * 100_000}),
  ),
]
REFUSED_SHARDS = [
  ("compressed tar", "compressed with gzip", compressed),
  ("parquet cut off", "is not a whole parquet file", cut_parquet),
  ("parquet texts that are numbers", "column 'text' is", table(text=[1, 2])),
  ("dataset.json cut off", "dataset.json is not JSON", prepared(cut_dataset)),
  (
    "dataset.json naming ../",
    "is not the name of a shard",
    prepared(rename_shard),
  ),
  ("missing ArrayRecord shard", "is missing", prepared(remove_shard)),
]
REPLACED_SHARDS = [
  (
    "parquet image that is null",
    "missing_file",
    table(image=[pictures.PNG, None]),
  ),
  ("parquet text that is no UTF-8", "bad_text", latin_parquet),
  ("ArrayRecord with a byte wrong", "corrupt_shard", prepared(flip_record)),
]
INDEXES = [
  ("tar index with a byte wrong", flip_footer),
  ("tar index of another shard", make_stale),
  ("pipe in place of a tar index", replace_by_pipe),
]
HOSTILE = [
  *(
    Hostile(name=name, outcome=outcome, reason=reason, write=write)
    for outcome, group in (
      (LEFT_OUT, TARS_LEFT_OUT),
      (REFUSED, REFUSED_SHARDS),
      (REPLACED, REPLACED_SHARDS),
    )
    for name, reason, write in group
  ),
  *(
    Hostile(name=name, outcome=USED, write=with_index(change))
    for name, change in INDEXES
  ),
  Hostile(
    name="tar picture damaged after indexing",
    outcome=REPLACED,
    reason="truncated_image",
    write=tar_of(OTHER),
    spoil=spoil_picture,
  ),
  Hostile(
    name="tar cut off after indexing",
    outcome=REPLACED,
    reason="corrupt_shard",
    write=two_shards,
    spoil=cut_off,
  ),
]
