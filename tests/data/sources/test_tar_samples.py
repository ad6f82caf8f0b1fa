"""Which samples of a shard are kept, and what the others are counted as."""

import collections
import io
import json
import tarfile

import numpy as np
import pytest

from ddit_jax.data.image_header import Filters
from ddit_jax.data.sources import tar_samples
from ddit_jax.data.sources.tar_samples import (
  RECORD,
  SampleRules,
  shard_samples,
  split_name,
)
from tests.source_files import (
  KEEP_ALL,
  encoded,
  raw_header,
  sample,
  write_shard,
  write_tar,
)

RULES = SampleRules()
IMAGE = encoded(300, 400)
SMALL, WIDE = encoded(100, 100), encoded(256, 1200)


def kept(path, rules=RULES):
  found = shard_samples(str(path), rules)
  return np.frombuffer(found.records, RECORD), found


def removed_of(members: dict, tmp_path, rules=RULES) -> dict:
  """What is skipped beside two sound samples."""
  members = sample("000") | members | sample("999")
  records, found = kept(write_tar(tmp_path / "a.tar", members), rules)
  assert len(records) == 2
  return dict(found.removed)


def test_a_record_takes_32_bytes():
  assert RECORD.itemsize == 32


def test_records_point_at_the_data(tmp_path):
  members = {
    "x.jpg": IMAGE,
    "x.json": b'{"re_caption": "long"}',
    "x.recap.txt": b"longer",
    "x.txt": b"short",
  }
  path = write_tar(tmp_path / "a.tar", members)
  (record,), _ = kept(path)
  data = path.read_bytes()
  for part, name in (
    ("image", "x.jpg"),
    ("metadata", "x.json"),
    ("rewritten", "x.recap.txt"),
    ("caption", "x.txt"),
  ):
    start = int(record[f"{part}_block"]) * 512
    stop = start + int(record[f"{part}_bytes"])
    assert data[start:stop] == members[name]


@pytest.mark.parametrize(
  ("name", "key", "extension"),
  [
    (b"000.jpg", b"000", b"jpg"),
    (b"a/b.c/000.seg.PNG", b"a/b.c/000", b"seg.png"),
    (b"000", None, None),
    (b".hidden", None, None),
    (b"a.b/.hidden", None, None),
    (b"", None, None),
    (b"../000.jpg", b"../000.jpg", None),
    (b"a/../../b.jpg", b"a/../../b.jpg", None),
    (b"/etc/passwd.txt", b"/etc/passwd.txt", None),
    (b"a..b/c..jpg", b"a..b/c", b".jpg"),
    (b"x" * 5000 + b".jpg", b"x" * 5000 + b".jpg", None),
  ],
)
def test_names_are_split_at_the_first_dot(name, key, extension):
  assert split_name(name) == (key, extension)


@pytest.mark.parametrize("suffix", ["jpg", "JPEG", "png", "WebP"])
def test_image_extensions_are_known_in_any_case(suffix, tmp_path):
  members = {f"1.{suffix}": IMAGE, "1.txt": b"a dog"}
  records, _ = kept(write_tar(tmp_path / "a.tar", members))
  assert len(records) == 1


def test_names_in_two_unicode_forms_belong_together(tmp_path):
  members = {"caf\u00e9.jpg": IMAGE, "cafe\u0301.txt": b"a cup"}
  records, found = kept(write_tar(tmp_path / "a.tar", members))
  assert len(records) == 1 and not found.removed


LEFT_OUT = {
  "no text": ({"1.jpg": IMAGE}, {"no_text": 1}),
  "no image": ({"1.txt": b"a"}, {"no_image": 1}),
  "no known member": ({"1.cls": b"7", "2.npy": b"8"}, {"no_image": 2}),
  "apart": (
    {"1.jpg": IMAGE, "2.jpg": IMAGE, "1.txt": b"a", "2.txt": b"b"},
    {"no_text": 2, "no_image": 2},
  ),
  "two images": (
    {"1.jpg": IMAGE, "1.png": IMAGE, "1.txt": b"a"},
    {"duplicate_member": 1},
  ),
  "blank": ({"1.jpg": IMAGE, "1.txt": b" \n\t "}, {"empty_caption": 1}),
  "empty": ({"1.jpg": IMAGE, "1.txt": b""}, {"empty_caption": 1}),
  "no field": ({"1.jpg": IMAGE, "1.json": b"{}"}, {"empty_caption": 1}),
  "null": (
    {"1.jpg": IMAGE, "1.json": b'{"caption": null}'},
    {"empty_caption": 1},
  ),
  "not UTF-8": ({"1.jpg": IMAGE, "1.txt": b"\xff\xff"}, {"bad_text": 1}),
  "not JSON": ({"1.jpg": IMAGE, "1.json": b"{"}, {"bad_json": 1}),
  "JSON list": ({"1.jpg": IMAGE, "1.json": b"[]"}, {"bad_json": 1}),
  "deep JSON": (
    {"1.jpg": IMAGE, "1.json": b'{"caption":' * 90_000},
    {"bad_json": 1},
  ),
  "key twice": (
    {"1.jpg": IMAGE, "1.json": b'{"caption": "a", "caption": "b"}'},
    {"bad_json": 1},
  ),
  "caption a number": (
    {"1.jpg": IMAGE, "1.json": b'{"caption": 7}'},
    {"bad_text": 1},
  ),
  "huge text": ({"1.jpg": IMAGE, "1.txt": b"a" * 2**21}, {"bad_text": 1}),
  "small": ({"1.jpg": SMALL, "1.txt": b"a"}, {"short_side": 1}),
  "wide": ({"1.jpg": WIDE, "1.txt": b"a"}, {"ratio": 1}),
  "no picture": ({"1.jpg": b"hello", "1.txt": b"a"}, {"not_an_image": 1}),
  "cut picture": ({"1.jpg": IMAGE[:20], "1.txt": b"a"}, {"truncated_image": 1}),
  "empty picture": ({"1.jpg": b"", "1.txt": b"a"}, {"not_an_image": 1}),
  "unsafe": (
    {"../1.jpg": IMAGE, "../1.txt": b"a", "/2.jpg": IMAGE},
    {"unsafe_path": 3},
  ),
}


@pytest.mark.parametrize(
  ("members", "removed"), LEFT_OUT.values(), ids=LEFT_OUT.keys()
)
def test_what_is_left_out_is_counted(members, removed, tmp_path):
  assert removed_of(members, tmp_path) == removed


@pytest.mark.parametrize(
  ("kind", "reason"),
  [
    (tarfile.SYMTYPE, "symlink"),
    (tarfile.LNKTYPE, "hardlink"),
    (tarfile.FIFOTYPE, "special_file"),
    (tarfile.BLKTYPE, "special_file"),
  ],
)
def test_links_and_devices_cost_their_sample(kind, reason, tmp_path):
  path = write_tar(tmp_path / "a.tar", sample("0"))
  with tarfile.open(path, "a") as file:
    info = tarfile.TarInfo("1.jpg")
    info.type, info.linkname = kind, "../../etc/passwd"
    file.addfile(info)
    info = tarfile.TarInfo("1.txt")
    info.size = 1
    file.addfile(info, io.BytesIO(b"a"))
  records, found = kept(path)
  assert len(records) == 1 and found.removed == {reason: 1}
  assert found.named == {reason: ["a.tar:1"]}


def test_members_without_extension_are_counted_apart(tmp_path):
  members = sample("0") | {"README": b"hello", ".DS_Store": b"x"}
  records, found = kept(write_tar(tmp_path / "a.tar", members))
  assert (len(records), found.num_other, found.removed) == (1, 2, {})


def test_hidden_images_are_counted(tmp_path):
  members = sample("0") | sample("./d.d/1")
  for name in ("._0", "a/.b/2", "__MACOSX/3", ".ipynb_checkpoints/4"):
    members |= sample(name)
  records, found = kept(write_tar(tmp_path / "a.tar", members))
  assert (len(records), found.num_other) == (2, 4)
  assert found.removed == {"hidden": 4}


def test_images_alone_are_samples_where_that_is_asked_for(tmp_path):
  path = write_tar(tmp_path / "a.tar", {"1.jpg": IMAGE, "2.txt": b"a"})
  rules = SampleRules(filters=Filters(drop_empty_captions=False))
  records, found = kept(path, rules)
  assert len(records) == 1 and found.removed == {"no_image": 1}


@pytest.mark.parametrize(
  ("sides", "removed"),
  [
    ({"height": 100, "width": 100}, {"short_side": 1}),
    ({"height": 300, "width": 2000}, {"ratio": 1}),
    ({"height": 10**6, "width": 10**6}, {"image_too_large": 1}),
    # These say nothing, so the image's own 300 x 400 count.
    ({"height": 0, "width": 100}, {}),
    ({"height": True, "width": 100}, {}),
    ({"height": "tall", "width": None}, {}),
    ({"height": 100}, {}),
  ],
)
def test_sides_in_metadata_come_before_the_image_s(sides, removed, tmp_path):
  fields = json.dumps({"caption": "a"} | sides).encode()
  members = {"1.jpg": IMAGE, "1.json": fields}
  records, found = kept(write_tar(tmp_path / "a.tar", members))
  assert len(records) == 1 - len(removed) and found.removed == removed


def test_keys_of_captions_can_be_chosen(tmp_path):
  members = {"1.jpg": IMAGE, "1.json": b'{"alt": "a dog"}'}
  path = write_tar(tmp_path / "a.tar", members)
  assert kept(path)[1].removed == {"empty_caption": 1}
  for rules in (
    SampleRules(caption_key="alt"),
    SampleRules(rewritten_key="alt"),
  ):
    assert len(kept(path, rules)[0]) == 1


def test_without_filters_nothing_is_opened(tmp_path, monkeypatch):
  members = {
    "1.jpg": b"no image",
    "1.json": b"no json",
    "2.jpg": b"",
    "2.txt": b"",
  }
  path = write_tar(tmp_path / "a.tar", members)
  monkeypatch.setattr(tar_samples, "_read", None)
  assert len(kept(path, SampleRules(filters=KEEP_ALL))[0]) == 2


def test_every_sample_is_kept_or_counted(tmp_path):
  members = {}
  for number, (left_out, _) in enumerate(LEFT_OUT.values()):
    for name, data in left_out.items():
      members[f"{number:02d}_{name}" if name[0] in "12" else name] = data
  path = write_tar(tmp_path / "a.tar", sample("a") | members | sample("z"))
  records, found = kept(path)
  keys = [split_name(name.encode())[0] for name in members]
  runs = 1 + sum(
    now != before for now, before in zip(keys[1:], keys, strict=False)
  )
  assert len(records) == 2 and sum(found.removed.values()) == runs
  total = collections.Counter()
  for _, removed in LEFT_OUT.values():
    total.update(removed)
  assert found.removed == total


def test_the_sample_at_the_break_is_left_out(tmp_path):
  path = write_shard(tmp_path / "a.tar", ["1", "2", "3"])
  whole = path.read_bytes()
  last = whole.index(b"3.txt")
  # In the last text's header, in its data, and before the end marker.
  for stop in (last + 100, last + 513, last + 1024):
    path.write_bytes(whole[:stop])
    records, found = kept(path)
    assert len(records) == 2 and found.removed == {"corrupt_shard": 1}
    assert found.damage and found.named == {"corrupt_shard": ["a.tar:3"]}


def test_a_file_that_is_no_tar_gives_nothing_but_its_damage(tmp_path):
  for data in (b"", b"<html>", b"\0" * 100, raw_header(b"a", b"7" * 11)):
    (tmp_path / "a.tar").write_bytes(data)
    records, found = kept(tmp_path / "a.tar")
    assert len(records) == 0 and found.damage
    assert found.removed == {"corrupt_shard": 1}


def test_empty_archives_have_no_samples(tmp_path):
  records, found = kept(write_tar(tmp_path / "a.tar", {}))
  assert len(records) == 0 and not found.removed and found.damage is None


def test_a_compressed_shard_is_named(tmp_path):
  with tarfile.open(tmp_path / "a.tar", "w:gz") as file:
    file.addfile(tarfile.TarInfo("1.jpg"))
  with pytest.raises(ValueError, match=r"a\.tar is compressed with gzip"):
    shard_samples(str(tmp_path / "a.tar"), SampleRules())


def test_long_lists_of_names_are_cut(tmp_path):
  members = {f"{number}.txt": b"a" for number in range(20)}
  _, found = kept(write_tar(tmp_path / "a.tar", members))
  assert found.removed == {"no_image": 20}
  assert found.named["no_image"] == [f"a.tar:{n}" for n in range(5)]


def test_filters_are_those_of_the_rules(tmp_path):
  rules = SampleRules(filters=Filters(min_short_side=301))
  path = write_tar(tmp_path / "a.tar", sample("1", side=300))
  assert kept(path, rules)[1].removed == {"short_side": 1}


def test_random_damage_is_survived(tmp_path):
  """Whatever bytes change, samples are kept or counted, or the file refused."""
  draw = np.random.default_rng(0)
  members = sample("0") | sample("1") | {"2.json": b'{"caption": "a"}'}
  members |= {"k" * 200 + ".jpg": IMAGE, "k" * 200 + ".txt": b"long"}
  path = tmp_path / "a.tar"
  for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
    whole = write_tar(path, members, form).read_bytes()
    for _ in range(150):
      data = bytearray(whole)
      for place in draw.integers(0, len(data), draw.integers(1, 30)):
        data[place] = draw.choice([0, 255, 48, draw.integers(256)])
      path.write_bytes(data[: draw.integers(len(data) // 2, len(data) + 1)])
      records, found = kept(path)
      assert len(records) <= 3 and all(n > 0 for n in found.removed.values())
      for block, size in records[["image_block", "image_bytes"]]:
        assert int(block) * 512 + int(size) <= path.stat().st_size
