"""Case d: the masked-diffusion loss with recorded times and masks."""

import re

import jax
import jax.numpy as jnp

from ddit_jax.diffusion.masked_diffusion import MaskedDiffusion
from ddit_jax.losses import masked_diffusion
from parity.checkpoints import Checkpoints, Loaded
from parity.comparison import Readings
from parity.golden_set import Case, GoldenSet
from parity.recorded_draws import TextDraws, release_diffusion

_EVERY = re.compile(r"rv/logits_every_(\d+)th")
_LAST = re.compile(r"rv/logits_last(\d+)")


def outputs(
  golden: GoldenSet, case: Case, checkpoints: Checkpoints
) -> dict[str, Readings]:
  """Our side of every array of the case."""
  results: dict[str, Readings] = {}
  diffusion = release_diffusion(golden)
  if "x0" in case.entries:
    ddit = checkpoints.get("ddit")
    results |= _schedule(diffusion, case["t"])
    results |= _whole_texts(case, ddit, diffusion)
    results |= _instruction_tuning(case, ddit, diffusion)
  if "rv/x0" in case.entries:
    real = checkpoints.get("ddit_realvocab")
    results |= _real_vocabulary(case, real, diffusion)
  if "sample_t/u" in case.entries:
    uniforms = jnp.asarray(case["sample_t/u"])
    results["sample_t/t"] = diffusion.times_from_uniforms(uniforms)
  return results


def _schedule(diffusion: MaskedDiffusion, t) -> dict[str, Readings]:
  """The release's total noise, by its meaning: mask chance 1 - exp(-sigma)."""

  def total_noise(t):
    return -jnp.log1p(-diffusion.mask_probability(t))

  t = jnp.asarray(t)
  return {
    "sigma": total_noise(t),
    "dsigma": jax.vmap(jax.grad(total_noise))(t),
    "weight": diffusion.loss_weight(t),
    "move_chance": diffusion.mask_probability(t),
  }


def _whole_texts(case: Case, ddit: Loaded, diffusion) -> dict[str, Readings]:
  texts = _draws(case, "").corrupted(diffusion, ddit.mask_id)
  logits = _logits(ddit, texts)
  log_p = masked_diffusion.token_log_likelihoods(logits, texts, ddit.mask_id)
  return {
    "logits": logits,
    "log_p_x0": log_p,
    "token_loss": _token_losses(log_p, case["t"], diffusion),
    "loss": masked_diffusion.weighted_sum(logits, texts, ddit.mask_id),
  }


def _instruction_tuning(
  case: Case, ddit: Loaded, diffusion
) -> dict[str, Readings]:
  draws = _draws(case, "", loss_mask=case["label_mask"] == 1)
  texts = draws.corrupted(diffusion, ddit.mask_id)
  logits = _logits(ddit, texts)
  log_p = masked_diffusion.token_log_likelihoods(logits, texts, ddit.mask_id)
  by_target = draws.corrupted(
    diffusion, ddit.mask_id, loss_normalization="target_positions"
  )
  return {
    "sft/xt": texts.tokens,
    "sft/token_loss": _token_losses(log_p, case["t"], diffusion),
    "sft/loss": masked_diffusion.weighted_sum(logits, texts, ddit.mask_id),
    "sft/loss_mean_over_label_tokens": masked_diffusion.weighted_sum(
      logits, by_target, ddit.mask_id
    ),
  }


def _real_vocabulary(
  case: Case, real: Loaded, diffusion
) -> dict[str, Readings]:
  texts = _draws(case, "rv/").corrupted(diffusion, real.mask_id)
  logits = _logits(real, texts)
  log_p = masked_diffusion.token_log_likelihoods(logits, texts, real.mask_id)
  results = {
    "rv/logsumexp": jax.nn.logsumexp(logits, axis=-1),
    "rv/argmax": logits.argmax(axis=-1),
    "rv/token_loss": _token_losses(log_p, case["rv/t"], diffusion),
    "rv/loss": masked_diffusion.weighted_sum(logits, texts, real.mask_id),
  }
  for name in case.outputs():
    if match := _EVERY.fullmatch(name):
      results[name] = logits[..., :: int(match[1])]
    if match := _LAST.fullmatch(name):
      results[name] = logits[..., -int(match[1]) :]
  return results


def _draws(case: Case, prefix: str, loss_mask=None) -> TextDraws:
  return TextDraws(
    latents=case[f"{prefix}image_latents"],
    tokens=case[f"{prefix}x0"],
    noisy_tokens=case[f"{prefix}xt"],
    t=case[f"{prefix}t"],
    loss_mask=loss_mask,
  )


def _logits(
  checkpoint: Loaded, texts: masked_diffusion.MaskedTexts
) -> jax.Array:
  clean_time = jnp.zeros(texts.tokens.shape[0])
  return checkpoint.predict(texts.latents, texts.tokens, clean_time).logits


def _token_losses(log_p, t, diffusion: MaskedDiffusion) -> jax.Array:
  return -log_p * diffusion.loss_weight(jnp.asarray(t))[:, None]
