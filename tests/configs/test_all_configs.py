"""Every variant of every config is complete and fits itself, at full size."""

import dataclasses
import json
import math
import pathlib
import re

import jax
import pytest
from ml_collections import ConfigDict

from ddit_jax.config.load import (
  config_module,
  from_dict,
  load_config,
  load_job,
  to_config_dict,
)
from ddit_jax.data.schedule import parse_schedule
from ddit_jax.data.sources.registry import keys_of
from ddit_jax.encoders import t5, vae
from ddit_jax.errors import check_known
from ddit_jax.experiment.config import Config
from ddit_jax.experiment.model import DualModel
from ddit_jax.experiment.trainer import train
from ddit_jax.models.config import size
from ddit_jax.models.module import Network
from ddit_jax.train.state import abstract_state

# The default variant comes first.
VARIANTS = {
  "digits": ["cpu", "gpu"],
  "own_images": ["cpu", "gpu", "cpu_prepared", "gpu_prepared"],
  "easy_vqa": ["cpu", "gpu"],
  "ddit_sd3": ["stage1", "stage2", "stage2_highres", "stage3"],
  "end_to_end": ["joint", "text", "joint_filtered"],
  "sd3_baseline": ["stage1", "stage2", "stage2_highres"],
  "post_training": ["nft", "vrpo", "espo", "image_pairs", "text_pairs"],
  "ablations": [
    "generation_7m",
    "generation_0",
    "generation_20m",
    *(f"steps_{steps}" for steps in (4, 8, 16, 32, 64, 128)),
    "weighting_velocity",
    "weighting_sigma_squared",
    "divisor_all_positions",
    "divisor_target_positions",
    "text_only",
  ],
  "future_work": ["text_beside", "long_prompts"],
  "feature_captioner": ["sd3_frozen", "sd3_trained", "clip", "ddit_features"],
}
# Those that are a job of several stages: the stages' names.
JOBS = {
  "ddit_sd3": ["stage1", "stage2", "stage2_highres", "stage3"],
  "end_to_end": ["text", "joint", "joint_filtered"],
}
ARGUMENTS = [
  f"configs/{name}.py:{variant}"
  for name, variants in VARIANTS.items()
  for variant in variants
]
# Those that train D-DiT; tests/experiment/test_captioner.py has the others.
OF_DDIT = [name for name in ARGUMENTS if "captioner" not in name]
# Keys whose values are mappings with names of their own.
MAPPINGS = {
  "data.sources",
  "data.validation_sources",
  "data.filters",
  "data.text_to_image.mixture",
  "data.image_to_text.mixture",
  "benchmarks.files",
}
# All that may differ between a variant and its dry counterpart.
DRY = re.compile(
  r"name|init_from|model\.(size|encoders_from)|mesh\..*"
  r"|data\.(sources|tokenizer|pool_size|validation_size|max_bad_share)"
  r"|data\.\w+_to_\w+\.(batch_size|image_size|bucket_step|text_length|cache|pool_size)"
  r"|optimizer\.warmup_steps|sample\.batch_size"
  r"|sample\.(image\.num_inference_steps|text\.num_steps)"
  r"|post_training\.\w+\.(group_size|num_passes)"
  r"|post_training\.\w+\.sampling\.(num_inference_steps|num_steps)"
  r"|train\.(num_steps|log_every|validate_every|checkpoint_every"
  r"|mask_embedding_steps|sample_grid_size)"
  r"|captioner\.(features_from|layer|clip|decoder|decoder_from)"
  r"|evaluate\.(images_per_prompt|num_captions|questions_per_kind"
  r"|num_pope_images)"
)


def network_config(settings):
  return size(
    settings.model.size, max_text_length=settings.data.max_text_length
  )


def differing(one, other, prefix="") -> set[str]:
  """Dotted names of what differs; mixtures and sources are one value."""
  names = set()
  for field in dataclasses.fields(one):
    a, b = getattr(one, field.name), getattr(other, field.name)
    name = f"{prefix}{field.name}"
    if dataclasses.is_dataclass(a):
      names |= differing(a, b, f"{name}.")
    elif a != b:
      names.add(name)
  return names


def test_no_config_is_forgotten():
  found = {path.stem for path in pathlib.Path("configs").glob("*.py")}
  # It trains nothing: tests/configs/test_benchmarks.py.
  assert found == {*VARIANTS, "benchmarks"}


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_unknown_variants_are_named_with_the_known_ones(name):
  with pytest.raises(ValueError, match="has no variant 'x'") as caught:
    load_config(Config, f"configs/{name}.py:x", {})
  known = VARIANTS[name] + (["all"] if name in JOBS else [])
  assert all(variant in str(caught.value) for variant in known)


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_docstrings_tell_of_all_variants_and_how_to_start(name):
  text = config_module(f"configs/{name}.py").__doc__
  assert f"ddit train --config=configs/{name}.py" in text
  assert "Hardware: " in text
  described = text.partition("Variants:")[2]
  for variant in VARIANTS[name]:
    assert re.search(rf"\b{variant}\b", described), variant


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_the_first_variant_is_the_default_dry_or_not(name):
  path, default = f"configs/{name}.py", VARIANTS[name][0]
  assert load_config(Config, path, {}) == load_config(
    Config, f"{path}:{default}", {}
  )
  assert load_config(Config, f"{path}:dry", {}) == load_config(
    Config, f"{path}:{default}_dry", {}
  )


def keys(value, path=""):
  """Dotted keys down to the first value that is no section."""
  if path in MAPPINGS or not isinstance(value, ConfigDict):
    return {path}
  return set().union(
    *(keys(value[k], f"{path}.{k}" if path else k) for k in value)
  )


def fields(part, path=""):
  """Dotted names of the fields of a part and of the parts in it."""
  if not dataclasses.is_dataclass(part):
    return {path}
  names = (field.name for field in dataclasses.fields(part))
  return set().union(
    *(fields(getattr(part, n), f"{path}.{n}" if path else n) for n in names)
  )


@pytest.mark.parametrize("argument", ARGUMENTS)
def test_keys_are_the_parts_fields(argument):
  path, _, variant = argument.partition(":")
  config = config_module(path).get_config(variant)
  assert keys(config) == fields(Config())


@pytest.mark.parametrize("argument", ARGUMENTS)
def test_variants_survive_json(argument):
  settings = load_config(Config, argument, {})
  resolved = dataclasses.asdict(settings)
  assert from_dict(Config, json.loads(json.dumps(resolved))) == settings
  assert from_dict(Config, to_config_dict(settings)) == settings


@pytest.mark.parametrize("argument", ARGUMENTS)
def test_dry_variants_differ_only_in_size(argument):
  full, dry = (
    load_config(Config, argument, {}),
    load_config(Config, f"{argument}_dry", {}),
  )
  differences = differing(full, dry)
  assert {name for name in differences if not DRY.fullmatch(name)} == set()
  assert {"name", "train.num_steps"} <= differences
  assert full.data.tasks_on().keys() == dry.data.tasks_on().keys()
  assert full.data.sources.keys() == dry.data.sources.keys()


@pytest.mark.parametrize("name", sorted(JOBS))
@pytest.mark.parametrize("suffix", ["", "_dry"])
def test_jobs_hold_the_stages_in_order_each_from_one_before(name, suffix):
  stages = load_job(Config, f"configs/{name}.py:all{suffix}", {})
  assert list(stages) == JOBS[name]
  for index, (stage, settings) in enumerate(stages.items()):
    alone = load_config(Config, f"configs/{name}.py:{stage}{suffix}", {})
    assert differing(settings, alone) <= {"init_from"}
    if index:
      before = settings.init_from.removeprefix("stage:")
      assert before in JOBS[name][:index]


@pytest.mark.parametrize("argument", OF_DDIT)
def test_network_encoders_images_and_texts_fit(argument):
  settings = load_config(Config, argument, {})
  config = network_config(settings)
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
  for side in settings.data.image_sides:
    rows, columns, channels = model.latent_shape(side, side)
    assert channels == config.latent_channels
    assert rows == columns == side // model.pixels_per_patch * config.patch_size


@pytest.mark.parametrize("argument", OF_DDIT)
def test_the_training_state_has_all_its_parts(argument):
  settings = load_config(Config, argument, {})
  network = Network(
    network_config(settings),
    has_mask_embedding=settings.model.has_mask_embedding,
  )
  optimizer = settings.optimizer.make(settings.train.num_steps)
  state = abstract_state(network, optimizer)
  count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state.params))
  moments = sum(
    math.prod(leaf.shape) for leaf in jax.tree.leaves(state.opt_state)
  )
  # Two moments a parameter, and counters; the null image takes none.
  assert 1.9 * count < moments <= 2 * count + 10
  assert jax.tree.structure(state.ema) == jax.tree.structure(state.params)


@pytest.mark.parametrize("argument", ARGUMENTS)
def test_sources_and_mixtures_are_understood(argument):
  data = load_config(Config, argument, {}).data
  for name, spec in data.sources.items():
    keys = keys_of(spec["kind"])
    given = spec.keys() - {"kind"}
    check_known(given, keys, what=f"{name} has no key")
    assert {key for key, is_required in keys.items() if is_required} <= given
  if data.sources:
    streams = data.tasks_on().values()
    read = [parse_schedule(stream.mixture).names() for stream in streams]
    assert set().union(*read) <= data.sources.keys()
    assert all(read)


def test_the_stages_have_the_papers_numbers():
  """Table 6."""
  wanted = {
    "stage1": (60_000, 512, 5e-5, 5000, 0.2, 256, 64),
    "stage2": (200_000, 512, 3e-5, 1000, 0.2, 256, 256),
    "stage2_highres": (80_000, 768, 3e-5, 1000, 0.2, 512, 256),
    "stage3": (50_000, 512, 3e-5, 1000, 1.0, 512, 128),
  }
  for variant, numbers in wanted.items():
    settings = load_config(Config, f"configs/ddit_sd3.py:{variant}", {})
    for stream in settings.data.tasks().values():
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


def test_the_baseline_is_a_stage_without_its_text_loss():
  for variant in VARIANTS["sd3_baseline"]:
    stage = load_config(Config, f"configs/ddit_sd3.py:{variant}", {})
    baseline = load_config(Config, f"configs/sd3_baseline.py:{variant}", {})
    assert list(baseline.data.tasks_on()) == ["text_to_image"]
    assert baseline.data.text_to_image == stage.data.text_to_image
    assert differing(stage, baseline) <= {
      "name",
      "init_from",
      "data.sources",
      "data.image_to_text.batch_size",
      "data.image_to_text.mixture",
      "model.has_mask_embedding",
      "train.mask_embedding_steps",
    }


@pytest.mark.parametrize("variant", VARIANTS["ablations"])
def test_ablations_change_one_thing(variant):
  kind = variant.partition("_")[0]
  stage = "stage1" if kind in ("weighting", "text") else "stage3"
  changed = differing(
    load_config(Config, f"configs/ddit_sd3.py:{stage}", {}),
    load_config(Config, f"configs/ablations.py:{variant}", {}),
  )
  allowed = {
    "steps": r"sample\.text\.num_steps",
    "weighting": r"loss\.flow_matching\.loss_weighting",
    "divisor": r"loss\.loss_normalization",
    "generation": r"data\..*|train\.(\w+_every|keep_last)",
    "text": r"data\..*",
  }[kind]
  assert all(re.fullmatch(f"name|{allowed}", name) for name in changed)


def test_amounts_of_generation_data_share_all_but_the_images():
  """Table 10: batch 128, LLaVA's 665 K alone, looked at three times."""
  amounts = {"generation_0": 0, "generation_7m": 7, "generation_20m": 20}
  for variant, millions in amounts.items():
    settings = load_config(Config, f"configs/ablations.py:{variant}", {})
    text, images = settings.data.image_to_text, settings.data.text_to_image
    assert text.batch_size == 128 and text.mixture == {"0": {"llava_mix": 1.0}}
    assert images.batch_size == (128 if millions else 0)
    named = [int(n) for n in re.findall(r"_(\d+)m", str(images.mixture))]
    assert sum(named) == millions
    kept = range(
      settings.train.checkpoint_every,
      settings.train.num_steps + 1,
      settings.train.checkpoint_every,
    )
    assert {10_000, 30_000, 50_000} <= set(kept[-settings.train.keep_last :])


@pytest.mark.parametrize(
  ("variant", "stage", "added"),
  [
    ("text_beside", "stage2", {"openwebtext": 0.2}),
    ("long_prompts", "stage3", {"llava_history": 332.5 / 1279}),
  ],
)
def test_future_work_is_a_stage_with_one_more_source(variant, stage, added):
  before = load_config(Config, f"configs/ddit_sd3.py:{stage}", {})
  after = load_config(Config, f"configs/future_work.py:{variant}", {})
  assert differing(before, after) <= {
    "name",
    "data.sources",
    "data.image_to_text.mixture",
    "data.image_to_text.text_length",
    "data.text_to_image.text_length",
  }
  assert after.data.sources.keys() - before.data.sources == added.keys()
  weights = after.data.image_to_text.mixture["0"]
  total = sum(weights.values())
  [(name, share)] = added.items()
  assert weights[name] / total == pytest.approx(share)
  if "history" in name:
    # A turn moves from a question of its own to one with what came before.
    total_before = sum(before.data.image_to_text.mixture["0"].values())
    assert total == pytest.approx(total_before)
    assert after.data.image_to_text.text_length == 256


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS["future_work"][1:])
def test_later_variants_of_future_work_train_dry(variant, tmp_path):
  settings = load_config(Config, f"configs/future_work.py:{variant}_dry", {})
  assert train(settings, str(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_every_config_trains_dry(name, tmp_path):
  """The default variant, end to end; each compiles its whole step."""
  settings = load_config(Config, f"configs/{name}.py:dry", {})
  assert train(settings, str(tmp_path))
  rows = [
    json.loads(line)
    for line in (tmp_path / "scalars.jsonl").read_text().splitlines()
  ]
  last = [row for row in rows if row["step"] == settings.train.num_steps]
  losses = {key for row in last for key in row if key.startswith("loss/")}
  # Distances to the start, of post-training.
  losses = {name for name in losses if not name.endswith("_kl")}
  of_stream = {"text_to_image": "loss/image", "image_to_text": "loss/text"}
  wanted = {of_stream[stream] for stream in settings.data.tasks_on()}
  assert losses == wanted | {"loss/total"}
  assert all(row.get("num_skipped", 0) == 0 for row in last)
