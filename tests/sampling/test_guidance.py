"""Each guider by the identity that its paper states."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from ddit_jax.sampling.guidance import Guidance

TEXT, NULL = np.random.default_rng(0).normal(size=(2, 3, 4, 4, 2)).astype("f4")
BRANCHES = {"text": jnp.asarray(TEXT), "null": jnp.asarray(NULL)}


def combined(**settings):
  found = Guidance(guidance_scale=3.0, **settings).combined(BRANCHES)
  return np.asarray(found, np.float64)


def dot(a, b):
  return np.sum(a * b, axis=(1, 2, 3))


def test_cfg_zero_star_takes_the_null_velocity_that_is_nearest_to_the_texts():
  guided = combined(guider="cfg_zero_star")
  nearest = (guided - 3.0 * TEXT) / (1 - 3.0)
  # What is left of the text's velocity is at right angles.
  np.testing.assert_allclose(dot(TEXT - nearest, NULL), 0, atol=1e-4)
  share = dot(TEXT, NULL) / dot(NULL, NULL)
  np.testing.assert_allclose(
    nearest, share[:, None, None, None] * NULL, atol=1e-5
  )


def test_apg_that_weighs_nothing_is_classifier_free_guidance():
  plain = NULL + 3.0 * (TEXT - NULL)
  found = combined(guider="apg", apg_norm_threshold=0.0, apg_eta=1.0)
  np.testing.assert_allclose(found, plain, atol=1e-5)


def test_apg_without_its_parallel_part_moves_at_right_angles_to_the_text():
  change = combined(guider="apg", apg_norm_threshold=0.0, apg_eta=0.0) - NULL
  np.testing.assert_allclose(dot(change, TEXT), 0, atol=1e-4)
  assert (dot(change, change) > 1).all()


def test_apg_shortens_the_difference_to_its_threshold():
  change = combined(guider="apg", apg_norm_threshold=0.5) - NULL
  np.testing.assert_allclose(dot(change, change), (3.0 * 0.5) ** 2, rtol=1e-5)


def test_a_rescaled_velocity_has_the_deviation_of_the_texts():
  found = combined(guidance_rescale=1.0)
  np.testing.assert_allclose(
    found.std(axis=(1, 2, 3)), TEXT.std(axis=(1, 2, 3)), rtol=1e-5
  )


def test_a_step_asks_only_for_the_branches_of_its_windows():
  guidance = Guidance(
    guidance_start=0.2,
    guidance_stop=0.8,
    skip_guidance_layers=(1,),
    skip_layer_guidance_start=0.25,
    skip_layer_guidance_stop=0.5,
  )
  asked = ["".join(b[0] for b in guidance.branches(i, 10)) for i in range(10)]
  assert asked == ["t", "t", "nt", "nts", "nts", "nt", "nt", "nt", "t", "t"]
  zero = dataclasses.replace(guidance, guider="cfg_zero_star")
  assert zero.branches(0, 10) == ()


@pytest.mark.parametrize(
  "settings",
  [
    {"guidance_start": 0.6, "guidance_stop": 0.5},
    {"guidance_rescale": 1.5},
    {"apg_norm_threshold": -1.0},
    {"guidance_scale": 1.0, "skip_guidance_layers": (0,)},
  ],
)
def test_settings_that_cannot_be_are_refused(settings):
  with pytest.raises(ValueError, match=next(iter(settings))):
    Guidance(**settings)
