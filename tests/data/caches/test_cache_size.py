"""How large a cache becomes: by hand, beside the real size, and refused."""

import collections
import shutil

import pytest

from ddit_jax.data.prepare.cache_format import ArrayLayout
from ddit_jax.data.prepare.cache_writer import (
  RecordSize,
  record_size,
  require_room,
)
from ddit_jax.errors import InputError
from tests.data.caches import tiny_cache

# SD3 at 256 pixels: 32 x 32 x 32 numbers; T5-XXL at 256 tokens.
SD3 = ArrayLayout((32, 32, 32), "bfloat16")
T5_XXL = ArrayLayout((256, 4096), "bfloat16")


def test_the_published_sizes():
  assert SD3.num_bytes == 64 * 2**10
  assert T5_XXL.num_bytes == 2 * 2**20


def test_a_sample_counts_texts():
  source = tiny_cache.TinySource()
  size = record_size(source, tiny_cache.MOMENTS, tiny_cache.FEATURE)
  # All 23 are read: 11 odd ones with two texts but 3 (unreadable) and 17 (one
  # text), 12 even ones with one; 0, 5, 10, 15, 20 have a rewritten one.
  assert size.num_features * 23 == pytest.approx(9 * 2 + 1 + 12 + 5)
  assert size.latents == 2 * 2 * 6 * 2
  assert "about 38 of features (1.57 texts of 24)" in str(size)
  without = record_size(source, tiny_cache.MOMENTS, None)
  assert without.num_features == 0
  assert str(without) == "48 bytes of latents"


def test_the_total_is_a_little_more_than_what_is_written(tmp_path):
  manifest = tiny_cache.writer(tmp_path).write()
  size = record_size(
    tiny_cache.TinySource(), tiny_cache.MOMENTS, tiny_cache.FEATURE
  )
  total = size.total(tiny_cache.NUM_RECORDS, 3)
  assert manifest.num_bytes <= total <= 1.1 * manifest.num_bytes


@pytest.mark.parametrize(
  ("num_records", "has_features", "expected"),
  [(0, False, 0), (8192, False, 1), (8193, False, 2), (10_000, True, 11)],
)
def test_parts_stay_small(num_records, has_features, expected):
  # 10,000 records of 2 MiB and 64 KiB are 20.2 GiB, at most 2 GiB each.
  size = RecordSize(
    latents=SD3.num_bytes,
    texts=0.0,
    num_features=float(has_features),
    feature=T5_XXL.num_bytes,
  )
  assert size.num_parts(num_records) == expected


def test_a_full_disk_is_refused(tmp_path, monkeypatch):
  usage = collections.namedtuple("usage", "total used free")
  monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(9, 0, 5_000_000))
  folder = tmp_path / "not" / "there"
  assert "0.005 GB are free" in require_room(folder, 5_000_000)
  with pytest.raises(InputError, match=r"0.006 GB to write, 0.005 GB.*free"):
    require_room(folder, 6_000_000)
