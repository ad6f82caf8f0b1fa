"""Likelihoods of a checkpoint's texts and images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddit_jax.data.text import masked_template
from ddit_jax.errors import InputError
from ddit_jax.pipelines.likelihood import scored_text
from ddit_jax.pipelines.load import load
from ddit_jax.sharding.mesh import MeshConfig

EFFORT = {"text_passes": 8, "image_draws": 2, "ode_steps": 2}
QUESTION = "what color is it?"


@pytest.fixture(scope="module")
def pipeline(trained):
  return load(str(trained), mesh=MeshConfig().make(jax.devices()[:1]))


@pytest.fixture(scope="module")
def images():
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (4, 16, 16, 3), np.uint8)


def test_one_token_under_one_mask_is_the_networks_own(pipeline, images):
  """A text of no words: only its end is scored, so every mask is the same."""
  (prompt,) = pipeline.prompts([QUESTION])
  got = pipeline.text_likelihood(images, [""] * 4, [prompt] * 4, effort=EFFORT)
  tokenizer = pipeline.tokenizer
  tokens, given = masked_template(tokenizer, prompt, 10)
  state = jnp.asarray(np.where(given, tokens, tokenizer.mask_id))
  state = jnp.tile(state, (4, 1))
  model, variables = pipeline.model, pipeline.variables
  latents = pipeline.encode(images)
  predict = jax.jit(model.predict)
  logits = predict(variables, latents, state, jnp.zeros(4))
  place = int(given.sum())
  logits = np.asarray(logits.logits, np.float64)[:, place]
  logits[:, tokenizer.mask_id] = -np.inf
  want = np.log(np.exp(logits).sum(-1)) - logits[:, tokenizer.end_id]
  # The largest difference seen was 2e-6.
  np.testing.assert_allclose(got.nats, want, atol=2e-5)
  assert np.asarray(got.standard_error).max() < 1e-6


def test_rows_are_independent_bit_for_bit(pipeline, images):
  texts = ["a red seven", "a blue two", "a red two", "a seven"]
  first = pipeline.text_likelihood(images, texts, effort=EFFORT)
  texts[1:], others = ["two"] * 3, images.copy()
  others[1:] = 0
  second = pipeline.text_likelihood(others, texts, effort=EFFORT)
  assert first.nats[0] == second.nats[0] > 0
  assert first.standard_error[0] == second.standard_error[0] > 0
  assert (first.nats[1:] != second.nats[1:]).all()


def test_images_have_nats_a_dimension(pipeline, images):
  prompts = ["a red seven"] * 4
  got = pipeline.image_likelihood(images, prompts, effort=EFFORT)
  # Six steps leave the velocity near 0: nearly the prior's density of bins.
  latents = images / 127.5 - 1
  prior = np.square(latents).mean(axis=(1, 2, 3)) / 2
  prior += np.log(np.sqrt(2 * np.pi)) - np.log(1 / 127.5)
  np.testing.assert_allclose(got.nats, prior, atol=0.3)
  assert np.asarray(got.standard_error).max() < 0.05


def test_the_text_and_its_end_are_scored(pipeline):
  tokenizer = pipeline.tokenizer
  tokens, given, scored = scored_text(tokenizer, "Q: A: ", "red", 8)
  assert given.sum() == len(tokenizer.encode("Q: A: "))
  assert tokenizer.decode(tokens[scored]) == "red"
  assert list(tokens[scored])[-1] == tokenizer.end_id
  assert not (given & scored).any()
  _, _, scored = scored_text(tokenizer, "", "red " * 8, 8)
  assert scored.all()


def test_bad_texts_are_refused(pipeline, images):
  for texts, prompts, message in [
    (["a red seven"], None, "there are 4 images for 1 texts"),
    (["red"] * 4, ["", ""], "there are 4 images for 2 prompts"),
    (["a red dog"] * 4, None, "does not know 'dog'"),
    (["a red seven " * 4] * 4, None, "has 12 tokens, this model's texts have"),
  ]:
    with pytest.raises(InputError, match=message):
      pipeline.text_likelihood(images, texts, prompts)
  with pytest.raises(InputError, match="effort: unknown config key passes"):
    pipeline.text_likelihood(images, ["red"] * 4, effort={"passes": 3})
