"""Case g: ancestral text sampling driven by recorded uniforms."""

import functools

import jax
import jax.numpy as jnp

from ddit_jax.diffusion.masked_diffusion import (
  log_probabilities,
  reveal_probability,
)
from ddit_jax.sampling.text_sampler import (
  ancestral_draw,
  ancestral_states,
  log_posterior,
  without_noise,
)
from parity.axes import channels_last
from parity.checkpoints import Checkpoints, Loaded
from parity.comparison import Readings
from parity.golden_set import Case, GoldenSet
from parity.recorded_draws import release_diffusion


def outputs(
  golden: GoldenSet, case: Case, checkpoints: Checkpoints
) -> dict[str, Readings]:
  """Our side of every array of the case."""
  ddit = checkpoints.get("ddit")
  mask_probability = release_diffusion(golden).mask_probability
  results: dict[str, Readings] = {}
  if "xt" in case.entries:
    results |= _one_step(case, ddit, mask_probability)
  for run in case.groups("prompt_ids"):
    final, states = _trajectory(case, run, ddit)
    results[f"{run}/final"] = final
    results[f"{run}/states"] = states[:-1]
  return results


def _one_step(
  case: Case, ddit: Loaded, mask_probability
) -> dict[str, Readings]:
  state, t, s = (jnp.asarray(case[name]) for name in ("xt", "t", "s"))
  mask_id = ddit.mask_id
  log_p = log_probabilities(_logits(case, ddit, state), mask_id)
  is_masked = (state == mask_id)[..., None]
  visible = jax.nn.one_hot(state, log_p.shape[-1])
  # Visible tokens are copied (SUBS).
  p_x0 = jnp.where(is_masked, jnp.exp(log_p), visible)
  # "ddpm_cache" takes t and s themselves as chances of a mask, "ddpm" the
  # training's; both reveal with the same chance.
  chance = reveal_probability(t, s)
  posterior = jnp.exp(log_posterior(jnp.log(p_x0), chance, mask_id=mask_id))
  drawn = _update(
    state, log_p, jnp.asarray(case["uniform"]), chance, mask_id=mask_id
  )
  return {
    "p_x0": p_x0,
    "x_next_cache": drawn,
    "x_next_ddpm": drawn,
    "q_xs_cache": t * posterior,
    "q_xs_cache_normalised": jnp.where(is_masked, posterior, visible),
    "q_xs_ddpm": mask_probability(t) * posterior,
    "argmax_noise_removal": without_noise(state, log_p, mask_id=mask_id),
  }


def _trajectory(case: Case, run: str, ddit: Loaded):
  """The sampler's own loop; (finished tokens, states after each step)."""
  prompt_mask = case[f"{run}/prompt_mask"] == 1
  start = jnp.where(prompt_mask, case[f"{run}/prompt_ids"], ddit.mask_id)
  return ancestral_states(
    functools.partial(_logits, case, ddit),
    start,
    jnp.asarray(case[f"{run}/uniform"]),
    functools.partial(_update, mask_id=ddit.mask_id),
    mask_id=ddit.mask_id,
  )


def _update(state, log_p, uniform, chance, *, mask_id: int) -> jax.Array:
  """One step of the sampler with the release's noise of recorded uniforms."""
  gumbel = -jnp.log(1e-10 - jnp.log(uniform + 1e-10))
  return ancestral_draw(state, log_p, gumbel, chance, mask_id=mask_id)


def _logits(case: Case, ddit: Loaded, state: jax.Array) -> jax.Array:
  latents = channels_last(case["image_latents"])
  return ddit.predict(latents, state, jnp.zeros(state.shape[0])).logits
