"""dataset.json of a cache: written, read back, compared and damaged."""

import dataclasses
import json

import pytest

from ddit_jax.data.prepare import cache_format
from ddit_jax.data.prepare.cache_format import CacheManifest
from ddit_jax.data.prepare.shards import Shard
from tests.data.caches import tiny_cache


def shard(name: str) -> Shard:
  return Shard(
    name=f"{name}.array_record", num_records=2, num_bytes=1, blake2b="ab"
  )


MANIFEST = CacheManifest(
  plan=tiny_cache.plan(),
  latents=(shard("l"),),
  features=(shard("f"),),
  bad_records={"missing_file": 1},
  bad_texts={},
  num_texts=2,
  num_truncated=1,
)


@pytest.mark.parametrize(
  "manifest",
  [
    MANIFEST,
    dataclasses.replace(
      MANIFEST, plan=tiny_cache.plan(has_features=False), features=()
    ),
  ],
)
def test_what_is_written_is_read(tmp_path, manifest):
  cache_format.write_manifest(tmp_path, manifest)
  assert cache_format.read_manifest(tmp_path) == manifest
  assert manifest.num_bytes == len(manifest.shards)


def test_differences_are_named():
  origin = MANIFEST.plan.latents
  other = dataclasses.replace(origin, image_size=16, autoencoder="w")
  assert cache_format.differences(origin, origin) == []
  assert cache_format.differences(origin, other) == [
    "autoencoder 'v' instead of 'w'",
    "image_size 8 instead of 16",
  ]


def test_flat_plans_are_equal_when_plans_are():
  flat = MANIFEST.plan.flat()
  assert flat["latents.image_size"] == 8
  assert flat["moments.shape"] == [2, 2, 6]
  assert flat == json.loads(json.dumps(flat)) == tiny_cache.plan().flat()
  assert flat != tiny_cache.plan(num_shards=4).flat()


def change(folder, **changes):
  path = folder / "dataset.json"
  body = json.loads(path.read_text()) | changes
  path.write_text(json.dumps(body))


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"format": "x"}, "write the cache anew"),
    ({"format_version": 2}, "version 2, this program reads"),
    ({"plan": {}}, "damaged.*KeyError"),
    ({"latents": [{}]}, "damaged"),
    ({"features": []}, "was changed"),
  ],
)
def test_other_contents_are_refused(tmp_path, changes, message):
  cache_format.write_manifest(tmp_path, MANIFEST)
  change(tmp_path, **changes)
  with pytest.raises(ValueError, match=message):
    cache_format.read_manifest(tmp_path)


def test_an_unfinished_folder_is_refused(tmp_path):
  with pytest.raises(
    ValueError, match="not a cache that ddit prepare finished"
  ):
    cache_format.read_manifest(tmp_path)


def test_missing_and_cut_shards_are_refused(tmp_path):
  with pytest.raises(ValueError, match=r"f.array_record is missing"):
    cache_format.check_files(tmp_path, MANIFEST)
  for name in ("l", "f"):
    (tmp_path / f"{name}.array_record").write_bytes(b"12")
  with pytest.raises(ValueError, match="2 bytes instead of 1"):
    cache_format.check_files(tmp_path, MANIFEST)
