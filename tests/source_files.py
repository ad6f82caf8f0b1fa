"""Small images and tar files, sound and hostile, for tests of sources."""

import io
import pathlib
import tarfile

from PIL import Image

from ddit_jax.data.image_header import Filters

KEEP_ALL = Filters(
  max_ratio=float("inf"), min_short_side=0, drop_empty_captions=False
)


def encoded(height: int, width: int, kind: str = "JPEG", **options) -> bytes:
  """An image of one colour as a file."""
  buffer = io.BytesIO()
  Image.new("RGB", (width, height), (90, 120, 30)).save(buffer, kind, **options)
  return buffer.getvalue()


def write_tar(
  path: pathlib.Path, members: dict[str, bytes], form=tarfile.USTAR_FORMAT
) -> pathlib.Path:
  """A tar file as Python's own module writes it."""
  with tarfile.open(path, "w", format=form) as file:
    for name, data in members.items():
      info = tarfile.TarInfo(name)
      info.size = len(data)
      file.addfile(info, io.BytesIO(data))
  return path


def sample(key: str, caption: str = "a dog", side: int = 300) -> dict:
  """The members of one sample."""
  return {f"{key}.jpg": encoded(side, side), f"{key}.txt": caption.encode()}


def write_shard(path: pathlib.Path, keys: list[str]) -> pathlib.Path:
  """A shard of samples whose caption is their key."""
  members = {}
  for key in keys:
    members |= sample(key, key)
  return write_tar(path, members)


def raw_header(
  name: bytes, size: bytes, kind: bytes = b"0", checksum: bytes | None = None
) -> bytes:
  """A ustar header by hand; the checksum is right unless it is given."""
  block = bytearray(512)
  block[: len(name)] = name
  block[100:124] = b"0000644\0" * 3
  block[124 : 124 + len(size)] = size
  block[136:148] = b"00000000000\0"
  block[148:156] = b" " * 8
  block[156:157] = kind
  block[257:265] = b"ustar\00000"
  block[148:156] = checksum or b"%06o\0 " % sum(block)
  return bytes(block)
