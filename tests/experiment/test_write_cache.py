"""Caches of tiny frozen encoders: training sees the same bits, or refuses."""

import collections
import pathlib
import shutil

import jax
import numpy as np
import pytest

from ddit_jax.data.prefetch import to_mesh
from ddit_jax.errors import InputError
from ddit_jax.experiment.data import open_data, open_sources
from ddit_jax.experiment.trainer import train
from ddit_jax.experiment.vocabulary import make_tokenizer
from ddit_jax.experiment.write_cache import write_caches
from tests import tiny_run
from tests.experiment import cached_run

TWO_STEPS = {
  "train__num_steps": "2",
  "train__validate_every": "2",
  # The null caption is encoded alone and not in a batch, which XLA may round
  # differently.
  "loss__condition_dropout": "0.0",
}


def data_of(run, folder: pathlib.Path):
  encoders = run.model.open_encoders()
  sources = open_sources(run.data)
  tokenizer = make_tokenizer(run.data, encoders, sources)
  return open_data(run, tokenizer, sources, folder)


def first_batch(run, folder: pathlib.Path):
  folder.mkdir()
  stream = data_of(run, folder).training_loader()
  batch, _ = next(stream)
  stream.close()
  return batch


def test_what_was_written_is_counted(caches):
  _, manifests = caches
  assert manifests["plain"].bad_records == {"truncated_image": 1}
  assert manifests["many"].bad_records == {}
  # Two own texts and a rewritten one, one of which is too long.
  many = manifests["many"]
  assert sum(s.num_records for s in many.of_kind("features")) == 36
  assert many.counts == {"truncated_texts": 1}
  # 4 x 4 latents of 16 channels; T5 of 24 features, 12 tokens; bfloat16.
  assert many.options["moments"] == {
    "shape": [4, 4, 32],
    "dtype": "bfloat16",
  }
  assert many.options["feature"] == {"shape": [12, 24], "dtype": "bfloat16"}


def test_the_networks_inputs_are_the_same_bits(cached_files, caches, tmp_path):
  run = cached_run.settings(*cached_files)
  raw = first_batch(run, tmp_path / "raw")
  ours = first_batch(
    cached_run.cached_settings(cached_files, caches[0]), tmp_path / "ours"
  )
  for task in ("text_to_image", "image_to_text"):
    before, after = getattr(raw, task), getattr(ours, task)
    np.testing.assert_array_equal(after.tokens, before.tokens)
    assert after.images.shape == (8, 4, 4, 32)
  np.testing.assert_array_equal(
    ours.image_to_text.loss_mask, raw.image_to_text.loss_mask
  )
  encoders = run.model.open_encoders()
  model = run.make_model(encoders.tokenizer, encoders)
  mesh = run.make_mesh()
  frozen = run.model.restore_encoders(model, encoders, mesh)
  draw = jax.jit(model.encode)
  with jax.set_mesh(mesh):
    for task in ("text_to_image", "image_to_text"):
      drawn = [
        draw(frozen, to_mesh(getattr(b, task).images, mesh), jax.random.key(7))
        for b in (raw, ours)
      ]
      np.testing.assert_array_equal(*drawn)
    condition = jax.jit(lambda v, tokens: model.condition(v, tokens, True))
    tokens = to_mesh(raw.text_to_image.tokens, mesh)
    features = condition(frozen, tokens)
  assert features.dtype == ours.text_to_image.features.dtype
  np.testing.assert_array_equal(ours.text_to_image.features, features)


@pytest.mark.slow
@pytest.mark.parametrize("parts", [("latents",), ("latents", "t5")])
def test_training_has_bit_equal_losses(
  cached_files, tmp_path, parts, raw_losses
):
  out = tmp_path / "cache"
  run = cached_run.settings(*cached_files, **TWO_STEPS)
  write_caches(run, cached_run.request(out, parts=parts))
  cached = cached_run.cached_settings(cached_files, out, **TWO_STEPS)
  train(cached, str(tmp_path / "run"))
  assert tiny_run.logged_losses(tmp_path / "run") == raw_losses


@pytest.fixture(scope="module")
def raw_losses(cached_files, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("raw") / "run"
  train(cached_run.settings(*cached_files, **TWO_STEPS), str(workdir))
  losses = tiny_run.logged_losses(workdir)
  assert len(losses) > 10
  assert (workdir / "bad_records.0.jsonl").exists()
  return losses


def test_training_refuses_before_it_compiles(cached_files, caches, tmp_path):
  run = cached_run.cached_settings(
    cached_files, caches[0], task={"text_length": 10}
  )
  with pytest.raises(InputError, match="ddit prepare --cache=latents,t5 "):
    train(run, str(tmp_path))
  lacking = shutil.copytree(caches[0], tmp_path / "cache")
  shutil.rmtree(lacking / "many")
  run = cached_run.cached_settings(cached_files, lacking)
  with pytest.raises(InputError, match="names 'many', which has no cache in"):
    train(run, str(tmp_path))
  unfinished = lacking / "plain" / "dataset.json"
  unfinished.unlink()
  (lacking / "many").mkdir()
  with pytest.raises(
    InputError, match="not a folder that ddit prepare --cache"
  ):
    train(run, str(tmp_path))


def test_too_small_a_disk_is_refused_before_anything_is_written(
  cached_files, tmp_path, monkeypatch, caplog
):
  usage = collections.namedtuple("usage", "total used free")
  monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(9, 0, 1000))
  run = cached_run.settings(*cached_files)
  out = tmp_path / "out"
  with (
    caplog.at_level("INFO"),
    pytest.raises(InputError, match=r"GB to write, 1e-06 GB are free: free"),
  ):
    write_caches(run, cached_run.request(out))
  assert not out.exists()
  # 1,024 bytes of latents, 3 texts of 576 bytes of features, and overhead.
  assert "many: 12 records of about 3," in caplog.text


def test_a_finished_cache_is_not_written_again(cached_files, caches):
  out, manifests = caches
  run = cached_run.settings(*cached_files)
  before = (out / "plain" / "dataset.json").stat().st_mtime_ns
  assert write_caches(run, cached_run.request(out)) == manifests
  assert (out / "plain" / "dataset.json").stat().st_mtime_ns == before
  with pytest.raises(InputError, match="rows_per_device 1 instead of 2"):
    write_caches(run, cached_run.request(out, rows_per_device=2))
