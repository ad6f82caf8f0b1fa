"""The abstract step has the shapes of the real one, at any size."""

import dataclasses
import math
import pathlib

import jax
import pytest

from ddit_jax.config.load import load_config
from ddit_jax.data.prefetch import to_mesh
from ddit_jax.experiment.abstract_step import AbstractStep
from ddit_jax.experiment.config import Config
from ddit_jax.experiment.data import open_data, open_sources
from ddit_jax.experiment.vocabulary import make_tokenizer
from ddit_jax.sharding.mesh import MeshConfig
from tests import tiny_run

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"


def shapes(tree):
  return jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), tree)


def layouts(tree):
  return [
    leaf.sharding.shard_shape(leaf.shape) for leaf in jax.tree.leaves(tree)
  ]


def count(tree):
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def test_the_batch_is_what_the_data_pipeline_gives(tmp_path):
  settings = tiny_run.settings()
  mesh = MeshConfig(fsdp=8).make()
  tokenizer = make_tokenizer(settings.data)
  data = open_data(settings, tokenizer, {}, tmp_path)
  real = to_mesh(data.validation_batch(), mesh)
  abstract = AbstractStep.of(settings, mesh).batch
  assert shapes(abstract) == shapes(real)
  assert layouts(abstract) == layouts(real)


def with_sources(*texts, **changes):
  """The tiny run on sources of digits; no texts for images by themselves."""
  base = tiny_run.settings(**changes)
  task = {"mixture": {"0": dict.fromkeys(texts, 1.0)}, "image_size": 16}
  sources = {name: {"kind": "digits", "texts": name} for name in texts}
  data = dataclasses.replace(
    base.data,
    sources=sources,
    tokenizer="words",
    text_to_image=dataclasses.replace(base.data.text_to_image, **task),
    image_to_text=dataclasses.replace(base.data.image_to_text, **task),
  )
  return dataclasses.replace(base, data=data)


@pytest.mark.parametrize(
  ("texts", "changes"),
  [
    (["captions"], {}),
    (["captions", "questions"], {"data__text_to_image__batch_size": "0"}),
    (["questions", "documents"], {"data__text_to_image__batch_size": "0"}),
    (["documents"], {"data__text_to_image__batch_size": "0"}),
  ],
)
def test_batches_of_sources_say_which_rows_have_images(
  tmp_path, texts, changes
):
  settings = with_sources(*texts, **changes)
  mesh = MeshConfig(fsdp=8).make()
  sources = open_sources(settings.data)
  tokenizer = make_tokenizer(settings.data, None, sources)
  data = open_data(settings, tokenizer, sources, tmp_path)
  real = to_mesh(data.validation_batch(), mesh)
  abstract = AbstractStep.of(settings, mesh).batch
  # The same tree, too: None stands where there is nothing.
  assert shapes(abstract) == shapes(real)
  assert layouts(abstract) == layouts(real)
  has_images = texts != ["documents"]
  assert (abstract.image_to_text.has_image is not None) == has_images


def test_the_state_keeps_its_shapes_and_layouts_through_the_step():
  mesh = MeshConfig(replica=2, fsdp=4).make()
  step = AbstractStep.of(tiny_run.settings(), mesh)
  traced = step.trace(mesh)
  assert shapes(traced.out_info[0]) == shapes(step.state)
  # Split over four devices of eight: parameters, average and two moments.
  local = sum(map(math.prod, layouts(step.state.params)))
  assert 1 / 4 < local / count(step.state.params) < 1 / 3


def test_a_stream_that_is_off_has_no_batch():
  settings = tiny_run.settings(data__text_to_image__batch_size="0")
  batch = AbstractStep.of(settings, MeshConfig(fsdp=8).make()).batch
  assert batch.text_to_image is None
  assert batch.image_to_text is not None


def test_adapters_are_refused():
  settings = tiny_run.settings(lora__rank="4", init_from="a/run")
  with pytest.raises(ValueError, match="only steps that train the whole"):
    AbstractStep.of(settings, MeshConfig(fsdp=8).make())


def full_size(variant, **overrides):
  """A stage of the paper."""
  changes = {name.replace("__", "."): x for name, x in overrides.items()}
  settings = load_config(
    Config, str(CONFIGS / f"ddit_sd3.py:{variant}"), changes
  )
  return AbstractStep.of(settings, MeshConfig(fsdp=8).make())


def test_full_size_has_the_published_numbers_of_parameters():
  step = full_size("stage1")
  assert count(step.state.params) == 2_102_856_100
  frozen = step.state.frozen
  assert count(frozen["text_encoder"]) == 4_762_310_656
  assert count(frozen["vae"]) == 83_819_683
  # Only norms and the position bias are not split.
  local = sum(map(math.prod, layouts(frozen["text_encoder"])))
  assert local == pytest.approx(4_762_310_656 / 8, rel=1e-3)
  images = step.batch.text_to_image
  assert shapes((images.images, images.tokens, images.features)) == (
    ((512, 256, 256, 3), "uint8"),
    ((512, 64), "int32"),
    None,
  )


def test_caches_copies_and_the_masks_row_are_as_the_settings_say():
  step = full_size(
    "stage2",
    data__text_to_image__cache="a/folder",
    model__encoder_placement__text_encoder="replicated",
  )
  images, texts = step.batch.text_to_image, step.batch.image_to_text
  assert shapes((images.images, images.features)) == (
    ((512, 32, 32, 32), "bfloat16"),
    ((512, 256, 4096), "bfloat16"),
  )
  assert shapes(texts.images) == ((512, 256, 256, 3), "uint8")
  encoder = step.state.frozen["text_encoder"]
  assert sum(map(math.prod, layouts(encoder))) == count(encoder)
  assert step.is_mask_embedding_trained
  frozen = dataclasses.replace(step.step, is_mask_embedding_trained=False)
  assert not dataclasses.replace(step, step=frozen).is_mask_embedding_trained
