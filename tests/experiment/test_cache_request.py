"""What `ddit prepare --cache` accepts."""

import dataclasses

import pytest

from ddit_jax.experiment.data import open_sources
from tests import tiny_run
from tests.experiment import cached_run


@pytest.fixture
def run(cached_files):
  return cached_run.settings(*cached_files)


@pytest.mark.parametrize(
  "changes",
  [
    {},
    {"parts": ("latents",)},
    {"task": "image_to_text", "parts": ("latents",)},
  ],
)
def test_what_makes_sense_is_accepted(run, tmp_path, changes):
  request = cached_run.request(tmp_path, **changes)
  request.check(run)
  assert request.has_features == ("t5" in request.parts)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"task": "text_to_images"}, "did you mean 'text_to_image'"),
    ({"parts": ("latent",)}, "did you mean 'latents'"),
    ({"parts": ("t5",)}, r"write --cache=latents,t5"),
    ({"task": "image_to_text"}, "takes no features.*--cache=latents"),
    ({"rows_per_device": 0}, "--rows_per_device must be positive, got 0"),
    ({"num_shards": -1}, "--shards must be positive"),
    ({"max_bad_rate": 1.5}, r"--max_bad_rate must be in 0\.\.1"),
  ],
)
def test_what_makes_no_sense_is_refused(run, tmp_path, changes, message):
  with pytest.raises(ValueError, match=message):
    cached_run.request(tmp_path, **changes).check(run)


def test_the_digit_world_has_no_images_to_cache(tmp_path):
  with pytest.raises(ValueError, match="the digit world generates its own"):
    cached_run.request(tmp_path).check(tiny_run.settings())


def test_sources_are_those_of_the_mixture_with_images(run, tmp_path):
  request = cached_run.request(tmp_path)
  opened = open_sources(run.data)
  assert [*request.sources(run, opened)] == ["many", "plain"]
  task = dataclasses.replace(
    run.data.text_to_image, mixture={"0": {"plian": 1.0}}
  )
  data = dataclasses.replace(run.data, text_to_image=task)
  with pytest.raises(ValueError, match="'plian': did you mean 'plain'"):
    request.sources(dataclasses.replace(run, data=data), opened)
  opened["many"].has_images = opened["plain"].has_images = False
  with pytest.raises(ValueError, match="no source with images: nothing can be"):
    request.sources(run, opened)
