"""Cases d, e and h: losses, clipping and AdamW written out in numpy."""

import numpy as np
import pytest
from parity import cases_training
from parity.cases_training import (
  ImageDraws,
  TextDraws,
  release_diffusion,
  release_loss,
)
from parity.golden_set import GoldenSetError

from tests.conversion.checkpoints import read_folder
from tests.parity.golden_sets import (
  CHANNELS,
  CONSTANTS,
  END_ID,
  MASK_ID,
  VOCABULARY,
  case_of,
  draws,
  golden_of,
)


def test_the_release_options_and_the_manifest_constants():
  loss = release_loss(golden_of())
  assert loss.flow_matching.loss_weighting == "sigma_squared"
  assert loss.flow_matching.sigma_grid == "thousand"
  assert loss.text_weight == 0.3 and loss.condition_dropout == 0.1
  assert loss.masked_diffusion == release_diffusion(golden_of())
  assert loss.masked_diffusion.noise_schedule == "log_linear"
  assert loss.masked_diffusion.epsilon == 0.01


def test_images_as_the_loss_takes_them():
  draw = draws(11)
  recorded = ImageDraws(
    latents=draw(2, 3, 4, 5),
    noise=draw(2, 3, 4, 5),
    normals=np.zeros(2, np.float32),
    uniforms=np.array([0.099, 0.1], np.float32),
    tokens=np.array([[5, 6], [7, 8]], np.int32),
    null_tokens=np.array([[1, 1]], np.int32),
  )
  images = recorded.corrupted(release_loss(golden_of()))
  # sigmoid(0) = 1/2, which is on the grid.
  np.testing.assert_array_equal(images.sigma, [0.5, 0.5])
  np.testing.assert_array_equal(images.text, [[1, 1], [7, 8]])
  np.testing.assert_array_equal(images.weight, [0.125, 0.125])
  middle = (recorded.latents + recorded.noise) / 2
  np.testing.assert_allclose(
    images.latents, middle.transpose(0, 2, 3, 1), atol=1e-6
  )
  np.testing.assert_allclose(
    images.velocity,
    (recorded.noise - recorded.latents).transpose(0, 2, 3, 1),
    atol=1e-6,
  )


def test_texts_as_the_loss_takes_them():
  diffusion = release_diffusion(golden_of())
  recorded = TextDraws(
    latents=np.zeros((2, 3, 4, 5), np.float32),
    tokens=np.array([[3, 4, 5], [6, 7, 1]], np.int32),
    noisy_tokens=np.array([[8, 4, 8], [6, 8, 1]], np.int32),
    t=np.array([0.5, 0.25], np.float32),
  )
  texts = recorded.corrupted(diffusion, MASK_ID)
  assert texts.latents.shape == (2, 4, 5, 3)
  np.testing.assert_array_equal(texts.tokens, recorded.noisy_tokens)
  np.testing.assert_array_equal(texts.clean_tokens, recorded.tokens)
  np.testing.assert_array_equal(texts.is_masked, [[1, 0, 1], [0, 1, 0]])
  np.testing.assert_allclose(texts.weight, [2 / 6, 4 / 6], rtol=1e-6)


def test_questions_stay_visible():
  diffusion = release_diffusion(golden_of())
  recorded = TextDraws(
    latents=np.zeros((1, 3, 4, 5), np.float32),
    tokens=np.array([[3, 4, 5]], np.int32),
    noisy_tokens=np.array([[8, 4, 8]], np.int32),
    t=np.array([0.5], np.float32),
    loss_mask=np.array([[False, True, True]]),
  )
  texts = recorded.corrupted(
    diffusion, MASK_ID, loss_normalization="target_positions"
  )
  np.testing.assert_array_equal(texts.tokens, [[3, 4, 8]])
  np.testing.assert_array_equal(texts.is_masked, [[0, 0, 1]])
  np.testing.assert_allclose(texts.weight, [2 / 2], rtol=1e-6)


EPSILON = 0.01
TIMES = np.array([0.25, 0.9], np.float32)
CLEAN = np.array([[3, 4, 5, 1], [6, 7, 1, 1]], np.int32)
IS_MASKED = np.array([[1, 0, 1, 0], [1, 1, 0, 1]], bool)
IS_TARGET = np.array([[0, 1, 1, 1], [0, 1, 1, 1]], np.int32)


@pytest.fixture(scope="module")
def text_results(checkpoints):
  text_case = case_of(
    "d_text_loss",
    {
      "x0": CLEAN,
      "xt": np.where(IS_MASKED, MASK_ID, CLEAN).astype(np.int32),
      "t": TIMES,
      "label_mask": IS_TARGET,
      "image_latents": draws(6)(2, CHANNELS, 4, 4),
    },
    {},
  )
  found = cases_training.text_loss(golden_of(), text_case, checkpoints)
  return {name: np.asarray(array, np.float64) for name, array in found.items()}


def token_losses(logits, is_masked):
  """-log p(clean) / t at masked positions, slowly."""
  losses = np.zeros(CLEAN.shape)
  for row, column in np.argwhere(is_masked):
    others = np.delete(np.exp(logits[row, column]), MASK_ID)
    chosen = logits[row, column, CLEAN[row, column]]
    losses[row, column] = (np.log(others.sum()) - chosen) / TIMES[row]
  return losses


def test_the_schedule_is_the_log_linear_one(text_results):
  t = TIMES.astype(np.float64)
  sigma = -np.log1p(-(1 - EPSILON) * t)
  slope = (1 - EPSILON) / (1 - (1 - EPSILON) * t)
  for name, expected in {
    "sigma": sigma,
    "dsigma": slope,
    "weight": slope / np.expm1(sigma),
    "move_chance": 1 - np.exp(-sigma),
  }.items():
    # Measured: 1e-7, relative.
    np.testing.assert_allclose(text_results[name], expected, rtol=1e-6)


def test_the_loss_of_whole_texts(text_results):
  losses = token_losses(text_results["logits"], IS_MASKED)
  # Measured: 3e-7, relative.
  np.testing.assert_allclose(text_results["token_loss"], losses, rtol=3e-6)
  np.testing.assert_allclose(
    text_results["log_p_x0"], -losses * TIMES[:, None], rtol=3e-6
  )
  assert text_results["loss"] == pytest.approx(losses.sum() / 8, rel=3e-6)


def test_instruction_tuning_keeps_the_question(text_results):
  is_masked = IS_MASKED & (IS_TARGET == 1)
  tokens = np.where(is_masked, MASK_ID, CLEAN)
  np.testing.assert_array_equal(text_results["sft/xt"], tokens)
  # Its logits are of other tokens: the sums must agree with each other.
  losses = text_results["sft/token_loss"]
  assert ((losses > 0) == is_masked).all()
  assert text_results["sft/loss"] == pytest.approx(losses.sum() / 8, rel=3e-6)
  assert text_results["sft/loss_mean_over_label_tokens"] == pytest.approx(
    losses.sum() / 6, rel=3e-6
  )


def test_slices_of_the_real_vocabulary_follow_their_names(ddit):
  inputs = {
    "rv/x0": CLEAN,
    "rv/xt": np.where(IS_MASKED, MASK_ID, CLEAN).astype(np.int32),
    "rv/t": TIMES,
    "rv/image_latents": draws(6)(2, CHANNELS, 4, 4),
  }
  shapes = {
    "rv/logits_every_4th": (2, 4, 3),
    "rv/logits_every_1th": (2, 4, VOCABULARY),
    "rv/logits_last2": (2, 4, 2),
  }
  text_case = case_of("d_text_loss", inputs, shapes)

  class Only:
    def get(self, name):
      assert name == "ddit_realvocab"
      return ddit

  text_results = cases_training.text_loss(golden_of(), text_case, Only())
  text_results = {
    name: np.asarray(a, np.float64) for name, a in text_results.items()
  }
  logits = text_results["rv/logits_every_1th"]
  np.testing.assert_array_equal(
    text_results["rv/logits_every_4th"], logits[..., ::4]
  )
  np.testing.assert_array_equal(
    text_results["rv/logits_last2"], logits[..., -2:]
  )
  np.testing.assert_array_equal(text_results["rv/argmax"], logits.argmax(-1))
  np.testing.assert_allclose(
    text_results["rv/logsumexp"], np.log(np.exp(logits).sum(-1)), rtol=3e-6
  )
  losses = token_losses(logits, IS_MASKED)
  np.testing.assert_allclose(text_results["rv/token_loss"], losses, rtol=3e-6)
  assert text_results["rv/loss"] == pytest.approx(losses.sum() / 8, rel=3e-6)


NORMALS = np.array([0.3, -1.2, 2.0], np.float32)
UNIFORMS = np.array([0.05, 0.1, 0.7], np.float32)


@pytest.fixture(scope="module")
def image_case():
  draw = draws(7)
  return case_of(
    "e_image_loss",
    {
      "latents": draw(3, CHANNELS, 4, 6),
      "noise": draw(3, CHANNELS, 4, 6),
      "z_normal": NORMALS,
      "dropout_uniform": UNIFORMS,
      "caption_ids": np.array([[3, 4, 1], [5, 1, 1], [6, 7, 1]], np.int32),
      "null_ids": np.full((1, 3), END_ID, np.int32),
    },
    {},
  )


@pytest.fixture(scope="module")
def image_results(image_case, checkpoints):
  found = cases_training.image_loss(golden_of(), image_case, checkpoints)
  return {name: np.asarray(array, np.float64) for name, array in found.items()}


def test_times_and_noisy_latents(image_case, image_results):
  index = np.floor(1000 / (1 + np.exp(-NORMALS.astype(np.float64))))
  sigma = (1000 - index) / 1000
  # Measured: 1e-7, relative.
  np.testing.assert_allclose(image_results["sigma"], sigma, rtol=1e-6)
  np.testing.assert_allclose(image_results["timestep"], 1000 - index, rtol=1e-6)
  wide = sigma[:, None, None, None]
  clean, noise = (
    image_case[name].astype(np.float64) for name in ("latents", "noise")
  )
  np.testing.assert_allclose(
    image_results["noisy_latents"], (1 - wide) * clean + wide * noise, atol=1e-6
  )
  np.testing.assert_allclose(
    image_results["velocity_target"], noise - clean, atol=1e-6
  )


def test_only_captions_below_a_tenth_are_dropped(
  image_case, image_results, ddit
):
  encode = ddit["text_encoder"].apply
  tokens = image_case["caption_ids"].copy()
  tokens[0] = image_case["null_ids"]
  np.testing.assert_array_equal(image_results["text_embeds"], encode(tokens))


def test_both_weightings_of_the_same_errors(image_results):
  sigma = image_results["sigma"][:, None, None, None]
  noisy, velocity = (
    image_results["noisy_latents"],
    image_results["velocity_pred"],
  )
  target = image_results["velocity_target"]
  clean = noisy - sigma * target
  by_release = np.square(noisy - sigma * velocity - clean).mean((1, 2, 3))
  by_paper = np.square(velocity - target).mean((1, 2, 3))
  for name, expected in {
    "per_sample_loss_reference": by_release,
    "loss_reference": by_release.mean(),
    "per_sample_velocity_mse": by_paper,
    "velocity_mse": by_paper.mean(),
  }.items():
    # Measured: 3e-7, relative.
    np.testing.assert_allclose(image_results[name], expected, rtol=3e-6)


WEIGHT = "transformer_blocks.1.attn.to_q.weight"
BIAS = "text_proj_out.bias"


def batch(seed):
  draw = draws(seed)
  rng = np.random.default_rng(seed)
  tokens = rng.integers(1, MASK_ID, (2, 4)).astype(np.int32)
  is_masked = rng.uniform(size=tokens.shape) < 0.6
  is_masked[:, 0] = True
  return {
    "x0": tokens,
    "xt": np.where(is_masked, MASK_ID, tokens).astype(np.int32),
    "t": np.array([0.3, 0.8], np.float32),
    "t_img": draw(2, CHANNELS, 4, 4),
    "lat": draw(2, CHANNELS, 4, 4),
    "noise": draw(2, CHANNELS, 4, 4),
    "z": draw(2),
    "drop": np.array([0.5, 0.01], np.float32),
    "ids": tokens[::-1].copy(),
    "nul": np.full((1, 4), END_ID, np.int32),
  }


@pytest.fixture(scope="module")
def step_case():
  inputs = {
    f"batch{i}/{name}": array
    for i in range(2)
    for name, array in batch(10 + i).items()
  }
  names = [
    f"{kind}/{n}"
    for kind in ("grad", "delta1", "delta2")
    for n in (WEIGHT, BIAS)
  ]
  return case_of("h_train_step", inputs, {name: () for name in names})


@pytest.fixture(scope="module")
def step_results(step_case, checkpoints):
  golden = golden_of(h_param_names=[BIAS, WEIGHT])
  found = cases_training.train_step(golden, step_case, checkpoints)
  return {name: np.asarray(array, np.float64) for name, array in found.items()}


def test_losses_add_up(step_results):
  for step in ("step0", "step1"):
    total = step_results[f"{step}/image_loss"] + (
      CONSTANTS["text_loss_weight"] * step_results[f"{step}/text_loss"]
    )
    assert step_results[f"{step}/loss"] == pytest.approx(total, rel=1e-6)
    assert (
      step_results[f"{step}/image_loss"] > 0 < step_results[f"{step}/text_loss"]
    )


def test_norms_are_in_the_listed_order(step_results):
  expected = [np.linalg.norm(step_results[f"grad/{n}"]) for n in (BIAS, WEIGHT)]
  # Measured 1.2e-7: float32 sums in another order.
  np.testing.assert_allclose(
    step_results["step0/param_grad_norms"], expected, rtol=1e-6
  )
  for step in (1, 2):
    changes = [
      np.linalg.norm(step_results[f"delta{step}/{n}"]) for n in (BIAS, WEIGHT)
    ]
    np.testing.assert_allclose(
      step_results[f"step{step - 1}/param_delta_norms"], changes, rtol=1e-6
    )
  assert step_results["step0/grad_norm"] > np.linalg.norm(expected)


def test_the_first_change_is_a_clipped_adamw_step(step_results, golden_folder):
  tensors = read_folder(golden_folder / "ckpt/ddit/transformer")
  factor = min(1.0, 2.0 / step_results["step0/grad_norm"])
  for name in (WEIGHT, BIAS):
    start = tensors[name].double().numpy()
    gradient = factor * step_results[f"grad/{name}"]
    # The first step's moments, corrected for their start at zero.
    direction = gradient / (np.abs(gradient) + 1e-8)
    expected = -5e-5 * (direction + 1e-2 * start)
    # Float32 parameters below 1 are 6e-8 apart. Measured: 3e-8.
    np.testing.assert_allclose(
      step_results[f"delta1/{name}"], expected, atol=7e-8
    )


def test_the_names_of_parameters_must_fit(step_case, checkpoints):
  for extra, message in (
    ({}, "lacks extra.h_param_names"),
    ({"h_param_names": ["nothing"]}, r"no parameters \['nothing'\]"),
  ):
    with pytest.raises(GoldenSetError, match=message):
      cases_training.train_step(golden_of(**extra), step_case, checkpoints)
