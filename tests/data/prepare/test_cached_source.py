"""A cache as a source: every example, damage, and threads."""

import concurrent.futures
import json

import numpy as np
import pytest

from ddit_jax.data.example import BadRecord
from ddit_jax.data.prepare.cached_source import CachedSource
from ddit_jax.data.text import tokenize_and_pad
from ddit_jax.errors import InputError
from ddit_jax.json_files import sealed
from tests.data.prepare import tiny_cache as tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("cache") / "out"
  tiny.writer(folder).write()
  return folder


@pytest.fixture(scope="module")
def cached(folder):
  return CachedSource("tiny", folder, removed={"short_side": 2})


def test_it_says_what_its_source_says(cached):
  source = tiny.TinySource()
  assert len(cached) == len(source)
  assert (cached.name, cached.removed) == (source.name, source.removed)
  assert cached.fingerprint() == source.fingerprint()
  assert (cached.moments, cached.feature) == (tiny.MOMENTS, tiny.FEATURE)
  assert cached.options["latents"] == {"autoencoder": "v", "image_size": 8}


def test_examples_are_those_of_the_source(cached):
  source = tiny.TinySource()
  for index in range(len(source)):
    if index == tiny.UNREADABLE:
      with pytest.raises(BadRecord, match="r3: missing_file: gone"):
        cached[index]
      continue
    found, expected = cached[index], source[index]
    for name in ("record_id", "prompt", "texts", "rewritten"):
      assert getattr(found, name) == getattr(expected, name)
    assert (found.image is None) == (expected.image is None)
    for text in filter(str.strip, (*expected.texts, *expected.rewritten)):
      tokens = tokenize_and_pad(tiny.TOKENIZER, "", text, tiny.LENGTH).tokens
      features = tiny.features_of(tokens[None])[0]
      np.testing.assert_array_equal(found.features(text), features)


def test_a_text_without_features_is_a_bad_record(cached):
  with pytest.raises(BadRecord, match="a text without its features"):
    cached[tiny.BLANK_TEXT].features("  ")


def test_threads_read_the_same(cached):
  def read(index):
    example = cached[index]
    return example.record_id, example.features(example.texts[0]).tobytes()

  indices = [i for i in range(tiny.NUM_RECORDS) if i != tiny.UNREADABLE] * 5
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    assert list(pool.map(read, indices)) == list(map(read, indices))


@pytest.mark.parametrize("kind", ["latents", "features"])
def test_damage_is_a_bad_record(tmp_path, kind):
  manifest = tiny.writer(tmp_path).write()
  name = manifest.of_kind(kind)[1].name
  data = bytearray((tmp_path / name).read_bytes())
  # ArrayRecord's first block is its own; records lie behind it.
  for place in range(65_536, len(data)):
    data[place] ^= 0xFF
  (tmp_path / name).write_bytes(data)
  damaged = CachedSource("tiny", tmp_path, removed={})
  good, bad = 0, 0
  for index in range(tiny.NUM_RECORDS):
    if index == tiny.UNREADABLE:
      continue
    try:
      example = damaged[index]
      example.features(example.texts[0])
      good += 1
    except BadRecord as error:
      assert error.reason == "corrupt_shard"
      bad += 1
  assert good == 22 - 8 and bad == 8


def test_an_unfinished_cache_is_refused(tmp_path):
  with pytest.raises(ValueError, match="finished; run ddit prepare --cache"):
    CachedSource("tiny", tmp_path, removed={})


@pytest.mark.parametrize(
  "moments", [None, {}, {"shape": 7, "dtype": "float32"}]
)
def test_damaged_options_are_refused(tmp_path, moments):
  tiny.writer(tmp_path).write()
  path = tmp_path / "dataset.json"
  body = json.loads(path.read_text())
  body["options"]["moments"] = moments
  # With the hash of what it says now.
  del body["blake2b"]
  path.write_bytes(sealed(body))
  with pytest.raises(InputError, match=r"is damaged .*write the cache again"):
    CachedSource("tiny", tmp_path, removed={})
