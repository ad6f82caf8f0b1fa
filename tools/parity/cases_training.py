"""Cases d, e and h: both losses and the train step, with recorded draws.

Each case function returns our side of every array of its case.
"""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np

from ddit_jax.diffusion.flow_matching import FlowMatching
from ddit_jax.diffusion.masked_diffusion import MaskedDiffusion
from ddit_jax.losses import flow_matching, masked_diffusion
from ddit_jax.losses.dual import CorruptedBatch, DualLoss
from ddit_jax.models.embeddings import TIME_SCALE
from ddit_jax.train.loop import TrainConfig
from ddit_jax.train.optimizer import OptimizerConfig
from ddit_jax.train.state import TrainState
from ddit_jax.train.step import TrainStep
from parity.checkpoints import Checkpoints, Loaded
from parity.compare import Values
from parity.golden_set import (
  Case,
  GoldenSet,
  GoldenSetError,
  channels_first,
  channels_last,
)


def release_diffusion(golden: GoldenSet) -> MaskedDiffusion:
  """The text diffusion of the released code."""
  return MaskedDiffusion(
    noise_schedule="log_linear",
    epsilon=golden.constant("loglinear_eps"),
  )


def release_loss(golden: GoldenSet) -> DualLoss:
  """The dual loss of the released code; 10 % of the captions are dropped."""
  return DualLoss(
    flow_matching=FlowMatching(
      loss_weighting="sigma_squared",
      sigma_grid="thousand",
    ),
    masked_diffusion=release_diffusion(golden),
    text_weight=golden.constant("text_loss_weight"),
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageDraws:
  """Recorded examples of the image loss with all their random draws.

  Attributes:
    latents: clean, channels first.
    noise: standard normal, channels first.
    normals: standard normal, mapped to sigma, [batch].
    uniforms: captions are dropped where this is below `condition_dropout`.
    tokens: captions.
    null_tokens: the empty caption, [1, length].
  """

  latents: np.ndarray
  noise: np.ndarray
  normals: np.ndarray
  uniforms: np.ndarray
  tokens: np.ndarray
  null_tokens: np.ndarray

  def corrupted(self, loss: DualLoss) -> flow_matching.NoisyImages:
    """The result of `flow_matching.corrupt_images` with these draws."""
    is_dropped = self.uniforms < loss.condition_dropout
    return flow_matching.noisy_images(
      jnp.asarray(channels_last(self.latents)),
      jnp.where(is_dropped[:, None], self.null_tokens, self.tokens),
      sigma=loss.flow_matching.sigmas_from_normals(jnp.asarray(self.normals)),
      noise=jnp.asarray(channels_last(self.noise)),
      flow_matching=loss.flow_matching,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextDraws:
  """Recorded examples of the text loss with all their random draws.

  Attributes:
    latents: clean, channels first.
    tokens: clean.
    noisy_tokens: masked, as if every position were a target.
    t: text times, [batch].
    loss_mask: True where a token may be masked; None means everywhere.
  """

  latents: np.ndarray
  tokens: np.ndarray
  noisy_tokens: np.ndarray
  t: np.ndarray
  loss_mask: np.ndarray | None = None

  def corrupted(
    self,
    diffusion: MaskedDiffusion,
    mask_id: int,
    loss_normalization: masked_diffusion.LossNormalization = "all_positions",
  ) -> masked_diffusion.MaskedTexts:
    """The result of `masked_diffusion.mask_texts` with these draws."""
    if self.loss_mask is None:
      loss_mask = jnp.ones(self.tokens.shape, bool)
    else:
      loss_mask = jnp.asarray(self.loss_mask)
    is_masked = (self.noisy_tokens == mask_id) & loss_mask
    weight = diffusion.loss_weight(jnp.asarray(self.t))
    return masked_diffusion.MaskedTexts(
      latents=jnp.asarray(channels_last(self.latents)),
      tokens=jnp.where(is_masked, mask_id, self.tokens),
      clean_tokens=jnp.asarray(self.tokens),
      is_masked=jnp.asarray(is_masked),
      t=jnp.asarray(self.t),
      weight=weight
      / masked_diffusion.loss_normalizer(loss_mask, loss_normalization),
    )


_EVERY = re.compile(r"rv/logits_every_(\d+)th")
_LAST = re.compile(r"rv/logits_last(\d+)")


def text_loss(
  golden: GoldenSet, case: Case, checkpoints: Checkpoints
) -> dict[str, Values]:
  """Case d: the masked-diffusion loss with recorded times and masks."""
  results: dict[str, Values] = {}
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


def _schedule(diffusion: MaskedDiffusion, t) -> dict[str, Values]:
  """The release's total noise sigma: mask probability 1 - exp(-sigma)."""

  def total_noise(t):
    return -jnp.log1p(-diffusion.mask_probability(t))

  t = jnp.asarray(t)
  return {
    "sigma": total_noise(t),
    "dsigma": jax.vmap(jax.grad(total_noise))(t),
    "weight": diffusion.loss_weight(t),
    "move_chance": diffusion.mask_probability(t),
  }


def _whole_texts(case: Case, ddit: Loaded, diffusion) -> dict[str, Values]:
  texts = _draws(case, "").corrupted(diffusion, ddit.mask_id)
  logits = _logits(ddit, texts)
  log_p = masked_diffusion.token_log_likelihoods(logits, texts, ddit.mask_id)
  return {
    "logits": logits,
    "log_p_x0": log_p,
    "token_loss": _token_losses(log_p, case["t"], diffusion),
    "loss": masked_diffusion.text_loss(log_p.sum(-1), texts),
  }


def _instruction_tuning(
  case: Case, ddit: Loaded, diffusion
) -> dict[str, Values]:
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
    "sft/loss": masked_diffusion.text_loss(log_p.sum(-1), texts),
    "sft/loss_mean_over_label_tokens": masked_diffusion.text_loss(
      log_p.sum(-1), by_target
    ),
  }


def _real_vocabulary(case: Case, real: Loaded, diffusion) -> dict[str, Values]:
  texts = _draws(case, "rv/").corrupted(diffusion, real.mask_id)
  logits = _logits(real, texts)
  log_p = masked_diffusion.token_log_likelihoods(logits, texts, real.mask_id)
  results = {
    "rv/logsumexp": jax.nn.logsumexp(logits, axis=-1),
    "rv/argmax": logits.argmax(axis=-1),
    "rv/token_loss": _token_losses(log_p, case["rv/t"], diffusion),
    "rv/loss": masked_diffusion.text_loss(log_p.sum(-1), texts),
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


def image_loss(
  golden: GoldenSet, case: Case, checkpoints: Checkpoints
) -> dict[str, Values]:
  """Case e: the flow-matching loss with recorded times, noise and dropout."""
  ddit = checkpoints.get("ddit")
  loss = release_loss(golden)
  draws = ImageDraws(
    latents=case["latents"],
    noise=case["noise"],
    normals=case["z_normal"],
    uniforms=case["dropout_uniform"],
    tokens=case["caption_ids"],
    null_tokens=case["null_ids"],
  )
  images = draws.corrupted(loss)
  velocity = ddit.predict(images.latents, images.text, images.sigma).velocity
  errors = flow_matching.squared_errors(velocity, images.velocity)
  # The paper's weighting of the same examples.
  unweighted = dataclasses.replace(
    loss.flow_matching, loss_weighting="velocity"
  )
  by_paper = draws.corrupted(
    dataclasses.replace(loss, flow_matching=unweighted)
  )
  return {
    "timestep": images.sigma * TIME_SCALE,
    "sigma": images.sigma,
    "noisy_latents": channels_first(images.latents),
    "text_embeds": ddit["text_encoder"].apply(images.text),
    "velocity_pred": channels_first(velocity),
    "per_sample_loss_reference": loss.flow_matching.loss_weight(images.sigma)
    * errors,
    "loss_reference": flow_matching.image_loss(errors, images),
    "velocity_target": channels_first(images.velocity),
    "per_sample_velocity_mse": errors,
    "velocity_mse": flow_matching.image_loss(errors, by_paper),
  }


_GRADIENT = re.compile(r"grad/(.+)")
_CHANGE = re.compile(r"delta(\d+)/(.+)")
# The recorded run had no warm-up; all else is the recipe.
_OPTIMIZER = OptimizerConfig(warmup_steps=0)


def train_step(
  golden: GoldenSet, case: Case, checkpoints: Checkpoints
) -> dict[str, Values]:
  """Case h: dual loss, gradients, clipping and AdamW of the train step."""
  ddit = checkpoints.get("ddit")
  step = _train_step(golden, case, ddit)
  state = _start(step, ddit)
  start = ddit["network"].tensors(state.params)
  names = _parameter_names(golden, start)
  update, gradients = jax.jit(step.update), jax.jit(step.gradients)
  results: dict[str, Values] = {}
  batches = sorted(case.groups("x0"), key=_number)
  for index, batch in enumerate(batches):
    corrupted = _corrupted(case, batch, step)
    grads = ddit["network"].tensors(gradients(state, corrupted)[0])
    state, metrics = update(state, corrupted)
    now = ddit["network"].tensors(state.params)
    changes = {name: now[name] - start[name] for name in now}
    results |= _step_results(index, metrics, grads, changes, names)
    results |= _tensor_results(case, index, grads, changes)
  return results


def _parameter_names(golden: GoldenSet, parameters) -> list[str]:
  """The order in which norms of all parameters were recorded."""
  names = golden.extra.get("h_param_names")
  if not isinstance(names, list):
    raise GoldenSetError("the manifest lacks extra.h_param_names")
  if missing := sorted(set(names) - parameters.keys()):
    raise GoldenSetError(
      f"the network has no parameters {missing[:3]} of extra.h_param_names"
    )
  return names


def _number(batch: str) -> int:
  """3 of "batch3"."""
  return int(batch.removeprefix("batch"))


def _train_step(golden: GoldenSet, case: Case, ddit: Loaded) -> TrainStep:
  num_steps = len(case.groups("x0"))
  return TrainStep(
    model=ddit.dual,
    loss=release_loss(golden),
    optimizer=_OPTIMIZER,
    train=TrainConfig(num_steps=num_steps),
    # All random draws were recorded.
    seed=0,
  )


def _start(step: TrainStep, ddit: Loaded) -> TrainState:
  variables = ddit["network"].variables
  params = variables["params"]
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    num_skipped=jnp.zeros((), jnp.int32),
    num_skipped_in_row=jnp.zeros((), jnp.int32),
    params=params,
    ema=params,
    opt_state=step.chain.init(params),
    constants=variables["constants"],
    frozen={"text_encoder": ddit["text_encoder"].variables},
  )


def _corrupted(case: Case, batch: str, step: TrainStep) -> CorruptedBatch:
  images = ImageDraws(
    latents=case[f"{batch}/lat"],
    noise=case[f"{batch}/noise"],
    normals=case[f"{batch}/z"],
    uniforms=case[f"{batch}/drop"],
    tokens=case[f"{batch}/ids"],
    null_tokens=case[f"{batch}/nul"],
  )
  texts = TextDraws(
    latents=case[f"{batch}/t_img"],
    tokens=case[f"{batch}/x0"],
    noisy_tokens=case[f"{batch}/xt"],
    t=case[f"{batch}/t"],
  )
  return CorruptedBatch(
    images=images.corrupted(step.loss),
    texts=texts.corrupted(step.loss.masked_diffusion, step.model.mask_id),
  )


def _step_results(index, metrics, grads, changes, names) -> dict[str, Values]:
  norms = functools.partial(_norms, names=names)
  return {
    f"step{index}/image_loss": metrics["loss/image"],
    f"step{index}/text_loss": metrics["loss/text"],
    f"step{index}/loss": metrics["loss/total"],
    f"step{index}/grad_norm": metrics["grad_norm"],
    f"step{index}/param_grad_norms": norms(grads),
    f"step{index}/param_delta_norms": norms(changes),
  }


def _tensor_results(case: Case, index, grads, changes) -> dict[str, Values]:
  """Gradients are of the first batch, changes since the start."""
  results = {}
  for name in case.outputs():
    gradient, change = _GRADIENT.fullmatch(name), _CHANGE.fullmatch(name)
    if gradient and index == 0 and gradient[1] in grads:
      results[name] = grads[gradient[1]]
    is_now = change and int(change[1]) == index + 1
    if is_now and change[2] in changes:
      results[name] = changes[change[2]]
  return results


def _norms(tensors: dict[str, np.ndarray], names: list[str]) -> np.ndarray:
  return np.array([np.linalg.norm(tensors[name]) for name in names])
