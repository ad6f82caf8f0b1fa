"""Settings become parts that fit each other."""

import pytest

from ddit_jax.digits.world import WORLDS
from ddit_jax.experiment import build
from tests import tiny_run


@pytest.fixture(scope="module")
def settings():
  return tiny_run.settings()


@pytest.fixture(scope="module")
def tokenizer(settings):
  return build.build_tokenizer(tiny_run.settings(), None)


def test_the_mesh_takes_all_devices_and_splits_all_batches(settings):
  mesh = build.build_mesh(settings)
  assert dict(mesh.shape) == {"replica": 1, "fsdp": 8, "tensor": 1}
  mesh = build.build_mesh(
    tiny_run.settings(mesh__replica="2", mesh__tensor="2")
  )
  assert dict(mesh.shape) == {"replica": 2, "fsdp": 2, "tensor": 2}


@pytest.mark.parametrize(
  ("overrides", "message"),
  [
    (
      {"data__text_to_image__batch_size": "4"},
      "data.text_to_image.batch_size = 4 is not",
    ),
    (
      {"data__image_to_text__batch_size": "9"},
      "data.image_to_text.batch_size = 9 is not",
    ),
    ({"data__validation_size": "10"}, "data.validation_size = 10 is not"),
    (
      {"train__num_microbatches": "2"},
      r"image.batch_size / train.num_microbatches \(2\) = 4 is not",
    ),
  ],
)
def test_batches_that_the_devices_do_not_divide_are_refused(overrides, message):
  with pytest.raises(ValueError, match=message):
    build.build_mesh(tiny_run.settings(**overrides))


def test_the_network_fits_tokenizer_text_and_image(settings, tokenizer):
  network = build.build_network(settings, tokenizer)
  config = network.config
  assert config.vocab_size == tokenizer.vocab_size
  assert config.max_text_length == settings.data.image_to_text.text_length
  assert config.max_grid * config.patch_size >= WORLDS["one_digit"].canvas
  assert network.execution.scan_unroll == settings.model.execution.scan_unroll


def test_an_image_larger_than_the_network_is_refused(tokenizer):
  settings = tiny_run.settings(data__world="scenes_32")
  with pytest.raises(ValueError, match=r"32 x 32 pixels .* ends at 16"):
    build.build_model(settings, tokenizer)


def test_the_null_caption_holds_no_word(settings, tokenizer):
  null = build.null_tokens(settings, tokenizer)
  assert (
    null.tolist()
    == [tokenizer.end_id] * settings.data.image_to_text.text_length
  )
