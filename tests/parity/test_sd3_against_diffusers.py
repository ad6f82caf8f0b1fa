"""Plain SD3, from diffusers' folder to images, against diffusers itself."""

import copy
import dataclasses
import functools
import shutil

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers.hooks.mag_cache import MagCacheConfig, apply_mag_cache

from ddit_jax.checkpoint.manifest import CheckpointError, verify_manifest
from ddit_jax.conversion.convert import ConvertOptions, convert, plan_import
from ddit_jax.pipelines.load import load
from ddit_jax.prng import key_for
from ddit_jax.sampling.image_sampler import Edit, generate_latents
from ddit_jax.sampling.step_cache import StepCache
from ddit_jax.sharding.mesh import MeshConfig
from tests.encoders.torch_weights import largest_error, relative_distance
from tests.parity import tiny_sd3

PROMPTS = [
  "a red cat",
  # Too long for CLIP, and unknown to T5 in part.
  "two dogs! and a lamp, " * 12,
  # Too long for T5, too.
  "the seven birds ran over the hill " * 40,
]
SIZE, LATENTS = (16, 24), (8, 12, 16)
NUM_STEPS, GUIDANCE, SEED = 4, 7.0, 3
# What the pipeline draws from that seed for its first batch.
# Each image's noise has its own key.
NOISE = np.stack(
  [
    jax.random.normal(
      jax.random.fold_in(key_for(jax.random.key(SEED), "text_to_image"), i),
      LATENTS,
    )
    for i in range(len(PROMPTS))
  ]
)


def converted(source, destination):
  options = ConvertOptions(target="sd3", is_verified=True)
  outcome = convert(plan_import(source, options), destination, options)
  return outcome.lines


def loaded(folder):
  """On one device, which compiles faster."""
  return load(str(folder), mesh=MeshConfig().make(jax.devices()[:1]))


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
  return tiny_sd3.pipeline(tmp_path_factory.mktemp("tokenizers"))


@pytest.fixture(scope="module")
def folder(theirs, tmp_path_factory):
  """What diffusers saves, converted. Do not change."""
  root = tmp_path_factory.mktemp("sd3")
  theirs.save_pretrained(root / "theirs")
  converted(root / "theirs", root / "ours")
  return root


@pytest.fixture(scope="module")
def ours(folder):
  return loaded(folder / "ours")


def test_ids_equal_diffusers(theirs, ours):
  got = ours.prompt_ids([*PROMPTS, ""])
  for name, tokenizer, length in (
    ("clip_l", theirs.tokenizer, 77),
    ("clip_g", theirs.tokenizer_2, 77),
    ("text_encoder", theirs.tokenizer_3, 256),
  ):
    want = tokenizer(
      [*PROMPTS, ""], padding="max_length", max_length=length, truncation=True
    )
    np.testing.assert_array_equal(got[name], want.input_ids)
  # CLIP-L pads with its end, the others with 0: "!" and <pad>.
  pads = {name: int(ids[-1, -1]) for name, ids in got.items()}
  end = theirs.tokenizer.eos_token_id
  assert pads == {"clip_l": end, "clip_g": 0, "text_encoder": 0}


def test_context_and_pooled_vector_equal_diffusers(theirs, ours):
  with torch.no_grad():
    context, null_context, pooled, null_pooled = theirs.encode_prompt(
      PROMPTS, None, None, negative_prompt="a lamp!"
    )
  encode = functools.partial(jax.jit(ours.model.encode_text), ours.variables)
  got = encode(ours.prompt_ids(PROMPTS))
  got_null = encode(ours.prompt_ids(["a lamp!"] * 3))
  assert got[0].shape == (3, 77 + 256, tiny_sd3.CONTEXT)
  # Measured 8e-7.
  assert largest_error(got, (context.numpy(), pooled.numpy())) < 1e-5
  want_null = (null_context.numpy(), null_pooled.numpy())
  assert largest_error(got_null, want_null) < 1e-5


def sampling_of(pipeline, **settings):
  return dataclasses.replace(
    pipeline.sample.image,
    num_inference_steps=NUM_STEPS,
    guidance_scale=GUIDANCE,
    **settings,
  )


def drawn(pipeline, **settings):
  """(weights, ids, null ids, noise) -> latents and images in [0, 1], jitted."""
  model = pipeline.model

  def draw(variables, ids, null_ids, noise, edit=None):
    latents = generate_latents(
      model,
      variables,
      ids,
      null_ids,
      noise,
      sampling=sampling_of(pipeline, **settings),
      edit=edit,
    )
    vae = variables["vae"]
    decoded = model.autoencoder.apply(vae, latents, method="decode")
    return latents, jnp.clip(decoded / 2 + 0.5, 0, 1)

  return jax.jit(draw)


def by_diffusers(theirs, negative, **options):
  return tiny_sd3.draw(
    theirs,
    PROMPTS,
    NOISE,
    negative_prompt=negative,
    num_inference_steps=NUM_STEPS,
    guidance_scale=GUIDANCE,
    height=SIZE[0],
    width=SIZE[1],
    **options,
  )


def check_drawn(draw, ours, negative, want):
  ids = ours.prompt_ids(PROMPTS), ours.prompt_ids([negative])
  latents, images = draw(ours.variables, *ids, NOISE)
  # Measured 3e-6.
  assert relative_distance(latents, want[0]) < 3e-5
  assert want[1].std() > 0.1
  # Measured 7e-7.
  np.testing.assert_allclose(images, want[1], atol=1e-5)


def test_guided_latents_and_images_equal_diffusers(theirs, ours):
  draw = drawn(ours)
  for negative in ("", "a lamp!"):
    want = by_diffusers(theirs, negative)
    check_drawn(draw, ours, negative, want)


def test_skip_layer_guidance_equals_diffusers(theirs, ours):
  settings = {
    "skip_guidance_layers": (0,),
    "skip_layer_guidance_scale": 2.8,
    "skip_layer_guidance_start": 0.01,
    "skip_layer_guidance_stop": 0.7,
  }
  want, _ = by_diffusers(
    theirs, "", **{**settings, "skip_guidance_layers": [0]}
  )
  plain, _ = by_diffusers(theirs, "")
  assert relative_distance(want, plain) > 0.01
  ids = ours.prompt_ids(PROMPTS), ours.prompt_ids([""])
  latents, _ = drawn(ours, **settings)(ours.variables, *ids, NOISE)
  error = relative_distance(latents, want)
  print(f"skip-layer guidance: {error:.1e}")
  # Measured 3e-6.
  assert error < 3e-5


IMAGE = np.random.default_rng(1).normal(size=NOISE.shape).astype(np.float32)
# Ragged, and different for each image.
MASK = np.random.default_rng(2).random((len(PROMPTS), *SIZE)) < 0.4


def channels_first(array):
  return torch.from_numpy(np.ascontiguousarray(array.transpose(0, 3, 1, 2)))


@pytest.mark.parametrize("strength", [0.5, 0.9, 1.0])
@pytest.mark.parametrize("kind", ["img2img", "inpaint"])
def test_changed_images_equal_diffusers(
  theirs, ours, monkeypatch, kind, strength
):
  module = "diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3"
  monkeypatch.setattr(
    f"{module}_{kind}.randn_tensor", lambda *_, **__: channels_first(NOISE)
  )
  options, mask = {}, None
  make = diffusers.StableDiffusion3Img2ImgPipeline
  if kind == "inpaint":
    make = diffusers.StableDiffusion3InpaintPipeline
    options = {
      "mask_image": torch.from_numpy(MASK[:, None].astype(np.float32)),
      "masked_image_latents": channels_first(IMAGE),
    }
    mask = MASK[:, ::2, ::2, None].astype(np.float32)
  pipeline = make(**theirs.components)
  pipeline.set_progress_bar_config(disable=True)
  with torch.no_grad():
    want = pipeline(
      PROMPTS,
      image=channels_first(IMAGE),
      strength=strength,
      negative_prompt="a lamp!",
      num_inference_steps=NUM_STEPS,
      guidance_scale=GUIDANCE,
      height=SIZE[0],
      width=SIZE[1],
      output_type="latent",
      **options,
    ).images
  ids = ours.prompt_ids(PROMPTS), ours.prompt_ids(["a lamp!"])
  draw = drawn(ours, strength=strength)
  latents, _ = draw(ours.variables, *ids, NOISE, Edit(IMAGE, mask))
  error = relative_distance(latents, want.numpy().transpose(0, 2, 3, 1))
  print(f"{kind} at strength {strength}: {error:.1e}")
  # Measured 3e-6.
  assert error < 3e-5


def test_a_step_cache_equals_diffusers(theirs, ours):
  cache = StepCache(threshold=0.3, retention_ratio=0.3, max_skip_steps=2)
  model = copy.deepcopy(theirs.transformer)
  options = {
    "num_inference_steps": NUM_STEPS,
    "threshold": cache.threshold,
    "max_skip_steps": cache.max_skip_steps,
    "retention_ratio": cache.retention_ratio,
  }
  ratios = [1.0, 1.02, 0.97, 0.9]
  reused = cache.reused_steps(ratios)
  assert reused == (1, 2)
  parts = theirs.components | {"transformer": model}
  cached = diffusers.StableDiffusion3Pipeline(**parts)
  cached.set_progress_bar_config(disable=True)
  apply_mag_cache(model, MagCacheConfig(mag_ratios=ratios, **options))
  want, _ = by_diffusers(cached, "")
  plain, _ = by_diffusers(theirs, "")
  assert relative_distance(want, plain) > 0.001
  ids = ours.prompt_ids(PROMPTS), ours.prompt_ids([""])
  draw = drawn(ours, reused_steps=reused)
  latents, _ = draw(ours.variables, *ids, NOISE)
  error = relative_distance(latents, want)
  print(f"step cache: {error:.1e}")
  # Measured 5e-6.
  assert error < 3e-5


def test_the_pipelines_images_equal_diffusers(theirs, ours):
  sample = dataclasses.replace(ours.sample, image=sampling_of(ours))
  images = ours.text_to_image(
    PROMPTS, negative_prompt="a lamp!", seed=SEED, sample=sample, size=SIZE
  ).images
  assert images.dtype == np.uint8 and images.shape == (3, *SIZE, 3)
  _, want = by_diffusers(theirs, "a lamp!")
  # Half a level of rounding.
  np.testing.assert_allclose(images / 255, want, atol=0.501 / 255)


def test_without_t5_zeros_stand_for_it_as_in_diffusers(
  theirs, folder, tmp_path, caplog
):
  source = shutil.copytree(folder / "theirs", tmp_path / "theirs")
  for name in ("text_encoder_3", "tokenizer_3"):
    shutil.rmtree(source / name)
  lines = converted(source, tmp_path / "ours")
  assert "note  text_encoder is not in the source" in lines
  parts = theirs.components | {"text_encoder_3": None, "tokenizer_3": None}
  bare = diffusers.StableDiffusion3Pipeline(**parts)
  bare.set_progress_bar_config(disable=True)
  ours = loaded(tmp_path / "ours")
  assert "has no T5: SD3 reads CLIP alone" in caplog.text
  assert "text_encoder" not in ours.variables
  check_drawn(drawn(ours), ours, "", by_diffusers(bare, ""))


def test_the_manifest_covers_the_tokenizers(folder, tmp_path):
  copy = shutil.copytree(folder / "ours", tmp_path / "copy")
  path = copy / "tokenizer_clip_g" / "tokenizer_config.json"
  path.write_text(path.read_text().replace('"!"', '"?"'))
  with pytest.raises(CheckpointError, match=r"tokenizer_clip_g/.* is altered"):
    verify_manifest(copy)
