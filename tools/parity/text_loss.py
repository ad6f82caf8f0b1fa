"""Case d: the masked-diffusion loss with recorded times and masks."""

import re

import jax
import jax.numpy as jnp

from ddit_jax.diffusion.masked_diffusion import MaskedDiffusion
from ddit_jax.losses import masked_diffusion
from parity.checkpoints import Checkpoints, Loaded
from parity.comparison import Readings
from parity.golden_set import Case, GoldenSet
from parity.recorded_draws import TextDraws, release_process

_EVERY = re.compile(r"rv/logits_every_(\d+)th")
_LAST = re.compile(r"rv/logits_last(\d+)")


def outputs(
  golden: GoldenSet, case: Case, checkpoints: Checkpoints
) -> dict[str, Readings]:
  """Our side of every array of the case."""
  results: dict[str, Readings] = {}
  if "x0" in case.entries:
    ddit = checkpoints.get("ddit")
    process = release_process(golden, ddit.mask_id)
    results |= _schedule(process, case["t"])
    results |= _whole_texts(case, ddit, process)
    results |= _instruction_tuning(case, ddit, process)
  if "rv/x0" in case.entries:
    real = checkpoints.get("ddit_realvocab")
    process = release_process(golden, real.mask_id)
    results |= _real_vocabulary(case, real, process)
  if "sample_t/u" in case.entries:
    process = release_process(golden, mask_id=0)
    uniforms = jnp.asarray(case["sample_t/u"])
    results["sample_t/t"] = process.times_from_uniforms(uniforms)
  return results


def _schedule(process: MaskedDiffusion, t) -> dict[str, Readings]:
  """The release's total noise, by its meaning: mask chance 1 - exp(-sigma)."""

  def total_noise(t):
    return -jnp.log1p(-process.mask_probability(t))

  t = jnp.asarray(t)
  return {
    "sigma": total_noise(t),
    "dsigma": jax.vmap(jax.grad(total_noise))(t),
    "weight": process.loss_weight(t),
    "move_chance": process.mask_probability(t),
  }


def _whole_texts(case: Case, ddit: Loaded, process) -> dict[str, Readings]:
  texts = _draws(case, "").corrupted(process)
  logits = _logits(ddit, texts)
  log_p = masked_diffusion.token_log_likelihoods(logits, texts, process)
  return {
    "logits": logits,
    "log_p_x0": log_p,
    "token_loss": _token_losses(log_p, case["t"], process),
    "loss": masked_diffusion.weighted_sum(logits, texts, process),
  }


def _instruction_tuning(
  case: Case, ddit: Loaded, process
) -> dict[str, Readings]:
  draws = _draws(case, "", loss_mask=case["label_mask"] == 1)
  texts = draws.corrupted(process)
  logits = _logits(ddit, texts)
  log_p = masked_diffusion.token_log_likelihoods(logits, texts, process)
  by_target = draws.corrupted(process, divisor="target_positions")
  return {
    "sft/xt": texts.tokens,
    "sft/token_loss": _token_losses(log_p, case["t"], process),
    "sft/loss": masked_diffusion.weighted_sum(logits, texts, process),
    "sft/loss_mean_over_label_tokens": masked_diffusion.weighted_sum(
      logits, by_target, process
    ),
  }


def _real_vocabulary(case: Case, real: Loaded, process) -> dict[str, Readings]:
  texts = _draws(case, "rv/").corrupted(process)
  logits = _logits(real, texts)
  log_p = masked_diffusion.token_log_likelihoods(logits, texts, process)
  results = {
    "rv/logsumexp": jax.nn.logsumexp(logits, axis=-1),
    "rv/argmax": logits.argmax(axis=-1),
    "rv/token_loss": _token_losses(log_p, case["rv/t"], process),
    "rv/loss": masked_diffusion.weighted_sum(logits, texts, process),
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


def _token_losses(log_p, t, process: MaskedDiffusion) -> jax.Array:
  return -log_p * process.loss_weight(jnp.asarray(t))[:, None]
