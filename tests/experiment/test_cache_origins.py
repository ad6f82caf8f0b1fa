"""What caches must have been made from: stable, and told apart."""

import dataclasses

import pytest

from ddit_jax.data.tokenizers import from_files
from ddit_jax.experiment import data
from tests import converted_weights
from tests.experiment import cached_run


@pytest.fixture
def run(cached_files):
  return cached_run.settings(*cached_files)


def test_only_clean_captions_of_a_network_with_a_text_encoder_take_features(
  run,
):
  assert data._takes_features(run, "text_to_image")
  assert not data._takes_features(run, "image_to_text")
  for size, takes in (("end_to_end", False), ("sd3_medium", True)):
    model = dataclasses.replace(run.model, size=size)
    other = dataclasses.replace(run, model=model)
    assert data._takes_features(other, "text_to_image") == takes


def test_a_tokenizer_from_a_checkpoint_is_the_same(run):
  tokenizer = converted_weights.TOKENIZER
  origins = [
    data.features_origin(run, "text_to_image", one)
    for one in (tokenizer, from_files(tokenizer.files()))
  ]
  assert origins[0] == origins[1]
  assert origins[0]["text_length"] == 12


def test_encoders_have_hashes_of_their_own(run):
  latents = data.latents_origin(run, "image_to_text")
  features = data.features_origin(
    run, "text_to_image", converted_weights.TOKENIZER
  )
  assert latents["autoencoder"] != features["text_encoder"]
  assert latents["image_size"] == 16
  assert latents["encoder_dtype"] == features["encoder_dtype"] == "bfloat16"
