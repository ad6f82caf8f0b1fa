"""Drawn images, saved and loaded."""

import json

import numpy as np
import pytest

import ddit_jax
from ddit_jax.errors import InputError
from ddit_jax.experiment.config import SampleConfig
from ddit_jax.pipelines.inputs import sample_config


@pytest.fixture
def drawn():
  pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 6, 3), np.uint8)
  changes = {"image.solver": "heun", "image.skip_guidance_layers": (1, 2)}
  return ddit_jax.GeneratedImages(
    images=pixels,
    prompts=["a red seven", "a blue two", "\u2028"],
    negative_prompts=["", "red", ""],
    indices=[0, 1, 5],
    seed=3,
    settings=sample_config(SampleConfig(), changes),
  )


def test_what_is_saved_is_loaded(drawn, tmp_path):
  drawn.save(tmp_path / "new" / "drawn")
  got = ddit_jax.GeneratedImages.load(str(tmp_path / "new" / "drawn"))
  np.testing.assert_array_equal(got.images, drawn.images)
  assert got.settings == drawn.settings
  assert got.records() == drawn.records()


def test_nothing_is_written_over(drawn, tmp_path):
  drawn.save(tmp_path)
  before = sorted(tmp_path.iterdir())
  with pytest.raises(InputError, match="holds images already"):
    drawn.save(tmp_path)
  assert sorted(tmp_path.iterdir()) == before and len(before) == 4


def test_folders_that_are_not_whole_are_refused(drawn, tmp_path):
  with pytest.raises(InputError, match=r"images\.json"):
    ddit_jax.GeneratedImages.load(tmp_path)
  drawn.save(tmp_path)
  (tmp_path / "00002.png").unlink()
  with pytest.raises(InputError, match=r"there is no image file .*00002\.png"):
    ddit_jax.GeneratedImages.load(tmp_path)
  facts = json.loads((tmp_path / "images.json").read_text())
  del facts["seed"]
  (tmp_path / "images.json").write_text(json.dumps(facts))
  with pytest.raises(InputError, match=r"images\.json must have .*seed"):
    ddit_jax.GeneratedImages.load(tmp_path)
