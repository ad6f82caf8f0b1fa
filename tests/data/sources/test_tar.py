"""The header walk finds what Python's tarfile finds, and survives the rest."""

import io
import os
import tarfile

import pytest

from ddit_jax.data.sources import tar
from ddit_jax.data.sources.tar import (
  CompressedTar,
  DamagedTar,
  WindowReader,
  is_header,
  stored_name,
  walk,
)
from tests.source_files import raw_header, write_tar

END = bytes(1024)


def walked(path) -> list:
  descriptor = os.open(path, os.O_RDONLY)
  try:
    return list(walk(WindowReader(descriptor)))
  finally:
    os.close(descriptor)


def walked_bytes(data: bytes, tmp_path) -> list:
  (tmp_path / "made.tar").write_bytes(data)
  return walked(tmp_path / "made.tar")


def by_tarfile(path) -> list:
  """(name, offset of data, size) of regular members."""
  with tarfile.open(path) as file:
    return [
      (member.name.encode(), member.offset_data, member.size)
      for member in file
      if member.isreg()
    ]


MEMBERS = {
  "plain.jpg": b"x" * 700,
  "empty.txt": b"",
  "folder/inside.txt": b"y" * 512,
  "n" * 99 + ".jpg": b"long",
  "/".join(["deep"] * 60) + "/x.txt": b"deeper than ustar's prefix",
  "l" * 300 + ".txt": b"longer than ustar's prefix",
  "straße/日本.jpg": b"z" * 20_000,
}


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_those_of_tarfile(form, tmp_path):
  path = write_tar(tmp_path / "a.tar", MEMBERS, form)
  found = [(m.name, m.offset, m.size) for m in walked(path)]
  assert found == by_tarfile(path) and len(found) == len(MEMBERS)


def test_ustar_prefixes_are_joined(tmp_path):
  members = {f"{'p' * 120}/{'n' * 90}.jpg": b"data", "b.txt": b"more"}
  path = write_tar(tmp_path / "a.tar", members)
  found = [(m.name, m.offset, m.size) for m in walked(path)]
  assert found == by_tarfile(path)


def test_other_kinds_are_told_apart(tmp_path):
  path = tmp_path / "a.tar"
  kinds = [
    (tarfile.DIRTYPE, tar.FOLDER),
    (tarfile.SYMTYPE, tar.SYMLINK),
    (tarfile.LNKTYPE, tar.HARDLINK),
    (tarfile.FIFOTYPE, tar.SPECIAL),
    (tarfile.CHRTYPE, tar.SPECIAL),
    (tarfile.AREGTYPE, tar.REGULAR),
    (tarfile.CONTTYPE, tar.REGULAR),
  ]
  with tarfile.open(path, "w") as file:
    for number, (kind, _) in enumerate(kinds):
      info = tarfile.TarInfo(f"{number}.jpg")
      info.type, info.linkname = kind, "0.jpg"
      file.addfile(info)
  assert [member.kind for member in walked(path)] == [kind for _, kind in kinds]


def test_long_link_targets_belong_to_no_member(tmp_path):
  path = tmp_path / "a.tar"
  with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as file:
    info = tarfile.TarInfo("a.jpg")
    info.type, info.linkname = tarfile.SYMTYPE, "t" * 300
    file.addfile(info)
    file.addfile(tarfile.TarInfo("b.txt"))
  assert [m.name for m in walked(path)] == [b"a.jpg", b"b.txt"]


def test_pax_size_replaces_the_header_s(tmp_path):
  """As for members above 8 GiB, whose header cannot hold the size."""
  data = (
    raw_header(b"pax", b"%011o" % 12, b"x")
    + b"12 size=700\n".ljust(512, b"\0")
    + raw_header(b"a.jpg", b"00000000000")
    + bytes(1024)
    + raw_header(b"b.txt", b"00000000001")
    + bytes(512)
    + END
  )
  found = walked_bytes(data, tmp_path)
  assert [(m.name, m.size) for m in found] == [(b"a.jpg", 700), (b"b.txt", 1)]
  assert found == [
    (name, tar.REGULAR, offset, size)
    for name, offset, size in by_tarfile(tmp_path / "made.tar")
  ]


def test_base_256_sizes_and_old_tar_are_read(tmp_path):
  old = bytearray(raw_header(b"folder/", b"00000000000", b"\0"))
  data = raw_header(b"a.jpg", b"\x80" + (5).to_bytes(11, "big"))
  data += b"12345".ljust(512, b"\0") + bytes(old) + END
  found = walked_bytes(data, tmp_path)
  assert [(m.name, m.kind, m.size) for m in found] == [
    (b"a.jpg", tar.REGULAR, 5),
    (b"folder/", tar.FOLDER, 0),
  ]


def test_checksums_of_signed_bytes_are_accepted(tmp_path):
  """Sums of signed and unsigned bytes differ for names beyond ASCII."""
  name = "ä.jpg".encode("latin-1")
  total = int(raw_header(name, b"00000000000")[148:154], 8)
  signed = raw_header(name, b"00000000000", checksum=b"%06o\0 " % (total - 256))
  assert [m.name for m in walked_bytes(signed + END, tmp_path)] == [name]


@pytest.mark.parametrize("window", [512, 1024, 8192, 2**20])
def test_the_window_does_not_change_what_is_found(
  window, tmp_path, monkeypatch
):
  path = write_tar(tmp_path / "a.tar", MEMBERS, tarfile.GNU_FORMAT)
  expected = walked(path)
  monkeypatch.setattr(tar, "_WINDOW", window)
  assert walked(path) == expected


def test_reading_backwards_and_past_the_end_works(tmp_path):
  (tmp_path / "a").write_bytes(bytes(range(256)) * 100)
  descriptor = os.open(tmp_path / "a", os.O_RDONLY)
  reader = WindowReader(descriptor)
  assert reader.size == 25_600
  assert reader.read(20_000, 3) == bytes(range(256))[32:35]
  assert reader.read(0, 2) == b"\0\1"
  assert reader.read(25_599, 9) == b"\xff"
  assert reader.read(99_999, 9) == b""
  os.close(descriptor)


def test_every_cut_is_noticed(tmp_path):
  path = write_tar(tmp_path / "a.tar", {"a.jpg": b"x" * 600, "b.txt": b"y"})
  data = path.read_bytes()[: 512 + 1024 + 512 + 512 + 512]
  assert len(walked_bytes(data, tmp_path)) == 2
  for stop in range(0, len(data), 37):
    with pytest.raises(DamagedTar):
      walked_bytes(data[:stop], tmp_path)


HEADER = raw_header(b"a.jpg", b"00000000005") + b"12345".ljust(512, b"\0")
DAMAGES = {
  "wrong checksum": (
    HEADER + raw_header(b"b", b"0" * 11, checksum=b"0012345\0") + END,
    "wrong checksum .* at byte 1024",
  ),
  "no checksum": (HEADER[:148] + bytes(8) + HEADER[156:], "wrong checksum"),
  "flipped bit": (b"b" + HEADER[1:] + END, "wrong checksum"),
  "text": (b"<html>not found</html>" + bytes(1000), "wrong checksum"),
  "huge octal size": (
    raw_header(b"a.jpg", b"77777777777") + END,
    "claims 8589934591 bytes, the file has 1024 left",
  ),
  "huge binary size": (
    raw_header(b"a.jpg", b"\x80" + b"\xff" * 11) + END,
    "claims",
  ),
  "negative size": (raw_header(b"a", b"\xff" * 12) + END, "has the size"),
  "signed size": (raw_header(b"a", b"-0000000005") + END, "has the size"),
  "size with 9": (raw_header(b"a", b"00000000009") + END, "has the size"),
  "size with underscore": (raw_header(b"a", b"1_0") + END, "has the size"),
  "huge extension": (
    raw_header(b"a", b"\x80" + b"\0" * 7 + b"\xff" * 4, b"L") + END,
    "extension header of 4294967295 bytes",
  ),
  "extension cut off": (
    raw_header(b"a", b"%011o" % 9000, b"x") + END,
    "cut off in the extension",
  ),
  "pax without equals": (
    raw_header(b"a", b"%011o" % 6, b"x") + b"6 abc\n".ljust(512, b"\0"),
    "damaged pax",
  ),
  "pax of length 0": (
    raw_header(b"a", b"%011o" % 6, b"x") + b"0 a=b\n".ljust(512, b"\0"),
    "damaged pax",
  ),
  "pax size no number": (
    raw_header(b"a", b"%011o" % 10, b"x") + b"10 size=-\n".ljust(512, b"\0"),
    "a pax size",
  ),
  "pax size too long": (
    raw_header(b"a", b"%011o" % 39, b"x")
    + (b"39 size=" + b"9" * 30 + b"\n").ljust(512, b"\0"),
    "a pax size",
  ),
  "names for all members": (
    raw_header(b"a", b"%011o" % 9, b"g") + b"9 path=b\n".ljust(512, b"\0"),
    "for all members",
  ),
  "sparse": (raw_header(b"a", b"0" * 11, b"S") + END, "sparse"),
  "joined files": (HEADER + END + HEADER + END, "after the end marker"),
}


@pytest.mark.parametrize(
  ("data", "message"), DAMAGES.values(), ids=DAMAGES.keys()
)
def test_damage_ends_the_walk_with_its_cause(data, message, tmp_path):
  with pytest.raises(DamagedTar, match=message):
    walked_bytes(data, tmp_path)


def test_what_comes_before_damage_is_given(tmp_path):
  (tmp_path / "a.tar").write_bytes(HEADER + b"rubbish".ljust(512, b"!"))
  descriptor = os.open(tmp_path / "a.tar", os.O_RDONLY)
  members = walk(WindowReader(descriptor))
  assert next(members).name == b"a.jpg"
  with pytest.raises(DamagedTar):
    next(members)
  os.close(descriptor)


@pytest.mark.parametrize("mode", ["gz", "bz2", "xz"])
def test_compressed_files_are_refused_by_name(mode, tmp_path):
  buffer = io.BytesIO()
  with tarfile.open(fileobj=buffer, mode=f"w:{mode}") as file:
    info = tarfile.TarInfo("a.jpg")
    info.size = 2000
    file.addfile(info, io.BytesIO(os.urandom(2000)))
  name = {"gz": "gzip", "bz2": "bzip2", "xz": "xz"}[mode]
  with pytest.raises(CompressedTar, match=f"{name}.*decompress it"):
    walked_bytes(buffer.getvalue(), tmp_path)


def test_headers_are_known_from_data(tmp_path):
  assert is_header(HEADER[:512]) and stored_name(HEADER[:512]) == b"a.jpg"
  for block in (b"", HEADER[:511], bytes(512), HEADER[512:], b"a" * 512):
    assert not is_header(block)
