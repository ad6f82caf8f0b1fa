"""A task's caches: opened, compared with the run, and refused."""

import dataclasses
import pathlib
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from ddit_jax.checkpoint.manifest import write_manifest
from ddit_jax.data.tokenizers import word_tokenizer
from ddit_jax.digits import grammar
from ddit_jax.experiment.data import open_caches, open_data, open_sources
from ddit_jax.experiment.write_cache import write_caches
from tests import converted_weights
from tests.experiment import cached_run


def other_weights(weights: pathlib.Path, folder: pathlib.Path, part: str):
  """The same with one part's numbers changed."""
  shutil.copytree(weights, folder)
  shutil.rmtree(folder / part)
  params = jax.tree.map(lambda x: 2 * x, converted_weights.variables(part))
  with ocp.PyTreeCheckpointer() as checkpointer:
    for kind, tree in params.items():
      checkpointer.save((folder / part / kind).absolute(), tree)
  write_manifest(folder)
  return folder


def opened(run, task="text_to_image", tokenizer=None):
  sources = open_sources(run.data)
  tokenizer = tokenizer or run.model.open_encoders().tokenizer
  return open_caches(run, task, sources, tokenizer)


def test_a_copy_of_the_weights_and_of_the_cache_will_do(
  cached_files, caches, tmp_path
):
  pictures, weights = cached_files
  cache = shutil.copytree(caches[0], tmp_path / "cache")
  moved = shutil.copytree(weights, tmp_path / "moved")
  run = cached_run.cached_settings((pictures, moved), cache)
  assert sorted(opened(run)) == ["many", "plain"]


@pytest.mark.parametrize(
  ("part", "task", "named"),
  [
    ("vae", "text_to_image", "autoencoder"),
    ("vae", "image_to_text", "autoencoder"),
    ("text_encoder", "text_to_image", "text_encoder"),
  ],
)
def test_other_weights_are_refused(
  cached_files, caches, tmp_path, part, task, named
):
  pictures, weights = cached_files
  other = other_weights(weights, tmp_path / "other", part)
  run = cached_run.cached_settings((pictures, other), caches[0])
  with pytest.raises(ValueError, match=rf"data.{task}.cache.*\({named} '"):
    opened(run, task)
  if part == "text_encoder":
    # Masked texts are encoded at each step.
    assert opened(run, "image_to_text")


def test_another_tokenizer_is_refused(cached_files, caches):
  run = cached_run.cached_settings(cached_files, caches[0])
  other = word_tokenizer([*grammar.words()][::-1])
  with pytest.raises(
    ValueError, match=r"made from something else \(tokenizer "
  ):
    opened(run, tokenizer=other)
  assert opened(run, "image_to_text", tokenizer=other)


def test_another_source_is_refused(cached_files, caches, tmp_path):
  pictures = shutil.copytree(cached_files[0], tmp_path / "pictures")
  caption = pictures / "plain" / "02.txt"
  caption.write_text("a blue three")
  run = cached_run.cached_settings((pictures, cached_files[1]), caches[0])
  with pytest.raises(ValueError, match=r"'plain' was made from .*\(source '"):
    opened(run)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"task": {"image_size": 32}}, "image_size 16 instead of 32"),
    ({"task": {"text_length": 10}}, "text_length 12 instead of 10"),
    (
      {"model__encoder_dtype": "float32"},
      "encoder_dtype 'bfloat16' instead of 'float32'",
    ),
    ({"task": {"crop": "random"}}, r"cache holds each image once: set data"),
    ({"task": {"flip_probability": 0.5}}, "flip_probability=0.5, but a cac"),
    ({"model__encoders_from": ""}, "model.encoders_from is empty"),
  ],
)
def test_other_settings_are_refused(cached_files, caches, changes, message):
  run = cached_run.cached_settings(cached_files, caches[0], **changes)
  tokenizer = converted_weights.TOKENIZER
  with pytest.raises(ValueError, match=message):
    opened(run, tokenizer=tokenizer)


def test_caches_of_one_task_are_alike(cached_files, caches, tmp_path):
  mixed = shutil.copytree(caches[0], tmp_path / "mixed")
  shutil.rmtree(mixed / "many")
  run = cached_run.settings(*cached_files)
  only = dataclasses.replace(
    run.data.text_to_image, mixture={"0": {"many": 1.0}}
  )
  data = dataclasses.replace(run.data, text_to_image=only)
  write_caches(
    dataclasses.replace(run, data=data),
    cached_run.request(mixed, parts=("latents",)),
  )
  run = cached_run.cached_settings(cached_files, mixed)
  with pytest.raises(ValueError, match=r"none of \['many'\]: write all caches"):
    opened(run)
  assert opened(run, "image_to_text")


def test_texts_without_images_need_no_cache(cached_files, caches, tmp_path):
  (tmp_path / "texts.txt").write_text("a red seven\na green two\n")
  texts = {"kind": "plain_text", "path": str(tmp_path / "texts.txt")}
  texts["documents"] = "line"
  run = cached_run.cached_settings(cached_files, caches[0])
  task = dataclasses.replace(
    run.data.image_to_text, mixture={"0": {"plain": 1.0, "texts": 1.0}}
  )
  sources = run.data.sources | {"texts": texts}
  data = dataclasses.replace(run.data, sources=sources, image_to_text=task)
  run = dataclasses.replace(run, data=data)
  tokenizer = converted_weights.TOKENIZER
  opened_sources = open_sources(run.data)
  found = open_data(run, tokenizer, opened_sources, tmp_path)
  batches = found.training_loader()
  batch = next(batches)[0].image_to_text
  batches.close()
  assert batch.has_image.sum() == 4
  images = batch.images.astype(np.float32)
  assert not images[~batch.has_image].any()
  assert images[batch.has_image].any(axis=(1, 2, 3)).all()
