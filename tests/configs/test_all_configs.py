"""Every variant of every config is complete and fits itself, at full size."""

import math
import pathlib

import jax
import pytest

from ddit_jax.cli.config_argument import load
from ddit_jax.data.known_names import check_known
from ddit_jax.data.schedules import parse_schedule
from ddit_jax.data.sources.open_source import keys_of
from ddit_jax.encoders import t5, vae
from ddit_jax.experiment import build
from ddit_jax.experiment.dual_model import DualModel
from ddit_jax.models.network import Network
from ddit_jax.models.sizes import size
from ddit_jax.train.optimizer import make_optimizer
from ddit_jax.train.state import abstract_state

VARIANTS = {
  "digits": ["cpu", "gpu"],
  "own_images": ["cpu", "gpu", "cpu_prepared", "gpu_prepared"],
  "easy_vqa": ["cpu", "gpu"],
  "ddit_sd3": ["stage1", "stage2", "stage2_highres", "stage3"],
  "end_to_end": ["joint", "joint_filtered"],
}
ARGUMENTS = [
  f"configs/{name}.py:{variant}"
  for name, variants in VARIANTS.items()
  for variant in variants
]


def test_no_config_is_forgotten():
  found = {path.stem for path in pathlib.Path("configs").glob("*.py")}
  assert found == set(VARIANTS)


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_unknown_variants_are_named_with_the_known_ones(name):
  with pytest.raises(ValueError, match="has no variant 'x'") as caught:
    load(f"configs/{name}.py:x", {})
  assert all(variant in str(caught.value) for variant in VARIANTS[name])


@pytest.mark.parametrize("argument", ARGUMENTS)
def test_network_encoders_images_and_texts_fit(argument):
  settings = load(argument, {})
  config = size(
    settings.model.size, max_text_length=settings.data.max_text_length
  )
  has_encoders = bool(settings.model.encoders_from)
  is_t5_needed = has_encoders and config.context_dim is not None
  model = DualModel(
    network=Network(config),
    text_encoder=t5.t5_encoder(t5.T5_SIZES["xxl"]) if is_t5_needed else None,
    autoencoder=vae.autoencoder(vae.AutoencoderConfig())
    if has_encoders
    else None,
  )
  model.check_fits()
  for side in build.image_sides(settings):
    rows, columns, channels = model.latent_shape(side, side)
    assert channels == config.latent_channels
    assert rows == columns == side // model.pixels_per_patch * config.patch_size


@pytest.mark.parametrize("argument", ARGUMENTS)
def test_the_training_state_has_all_its_parts(argument):
  settings = load(argument, {})
  config = size(
    settings.model.size, max_text_length=settings.data.max_text_length
  )
  optimizer = make_optimizer(settings.optimizer, settings.train.num_steps)
  state = abstract_state(Network(config), optimizer)
  count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state.params))
  moments = sum(
    math.prod(leaf.shape) for leaf in jax.tree.leaves(state.opt_state)
  )
  # Two moments a parameter, and counters; the null image takes none.
  assert 1.9 * count < moments <= 2 * count + 10
  assert jax.tree.structure(state.ema) == jax.tree.structure(state.params)


@pytest.mark.parametrize("argument", ARGUMENTS)
def test_sources_and_mixtures_are_understood(argument):
  data = load(argument, {}).data
  for name, spec in data.sources.items():
    keys = keys_of(spec["kind"])
    given = spec.keys() - {"kind"}
    check_known(given, keys, what=f"{name} has no key")
    assert {key for key, is_required in keys.items() if is_required} <= given
  for stream in data.streams().values():
    if data.sources:
      assert parse_schedule(stream.mixture).names() <= data.sources.keys()


def test_the_stages_have_the_papers_numbers():
  """Table 6."""
  wanted = {
    "stage1": (60_000, 512, 5e-5, 5000, 0.2, 256, 64),
    "stage2": (200_000, 512, 3e-5, 1000, 0.2, 256, 256),
    "stage2_highres": (80_000, 768, 3e-5, 1000, 0.2, 512, 256),
    "stage3": (50_000, 512, 3e-5, 1000, 1.0, 512, 128),
  }
  for variant, numbers in wanted.items():
    settings = load(f"configs/ddit_sd3.py:{variant}", {})
    for stream in settings.data.streams().values():
      assert numbers == (
        settings.train.num_steps,
        stream.batch_size,
        settings.optimizer.learning_rate,
        settings.optimizer.warmup_steps,
        settings.loss.text_weight,
        stream.image_size,
        stream.text_length,
      )
    assert settings.optimizer.clip_norm == 2.0
    assert settings.optimizer.ema_decay == 0.9999
    assert (settings.optimizer.beta1, settings.optimizer.beta2) == (0.9, 0.999)
    assert settings.optimizer.weight_decay == 1e-2
