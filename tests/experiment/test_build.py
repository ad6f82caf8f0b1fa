"""Settings become parts that fit each other."""

import pytest

from ddit_jax.config.load import from_dict
from ddit_jax.digits.world import WORLDS
from ddit_jax.experiment import build
from ddit_jax.experiment.config import Config
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
  assert network.execution.scan_unroll == settings.model.scan_unroll


def test_an_image_larger_than_the_network_is_refused(tokenizer):
  settings = tiny_run.settings(data__world="scenes_32")
  with pytest.raises(ValueError, match=r"32 x 32 pixels .* ends at 16"):
    build.build_model(settings, tokenizer)


def test_the_losses_are_those_of_the_settings(tokenizer):
  settings = from_dict(
    Config,
    {
      "loss": {
        "image_weighting": "sigma_squared",
        "sigma_grid": "thousand",
        "text_weight": 0.5,
        "loss_normalization": "target_positions",
        "mask_count": "exact",
        "noise_schedule": "log_linear",
        "min_text_time": 0.25,
        "condition_dropout": 0.75,
        "is_merged": True,
      },
      "sample": {"shift": 2.0},
    },
  )
  loss = build.build_loss(settings, tokenizer)
  assert loss.path == build.build_path(settings)
  assert loss.process == build.build_process(settings, tokenizer)
  assert loss.path.loss_weighting == "sigma_squared"
  assert (loss.path.sigma_grid, loss.path.shift) == ("thousand", 2.0)
  assert loss.process.mask_id == tokenizer.mask_id
  assert (loss.process.mask_count, loss.process.noise_schedule) == (
    *("exact", "log_linear"),
  )
  assert loss.process.min_time == 0.25
  assert (loss.text_weight, loss.loss_normalization) == (
    0.5,
    "target_positions",
  )
  assert (loss.drop_probability, loss.is_merged) == (0.75, True)


def test_the_null_caption_holds_no_word(settings, tokenizer):
  null = build.null_tokens(settings, tokenizer)
  assert (
    null.tolist()
    == [tokenizer.end_id] * settings.data.image_to_text.text_length
  )
