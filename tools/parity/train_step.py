"""Case h: dual loss, gradients, clipping and AdamW through the train step."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np

from ddit_jax.losses.dual import CorruptedBatch
from ddit_jax.train.loop import TrainConfig
from ddit_jax.train.optimizer import OptimizerConfig
from ddit_jax.train.state import TrainState
from ddit_jax.train.step import TrainStep
from parity.checkpoints import Checkpoints, Loaded
from parity.comparison import Readings
from parity.golden_set import Case, GoldenSet, GoldenSetError
from parity.recorded_draws import ImageDraws, TextDraws, release_loss
from parity.tensor_names import their_tensors

_GRADIENT = re.compile(r"grad/(.+)")
_CHANGE = re.compile(r"delta(\d+)/(.+)")
# The run had no warm-up; all else is the recipe's.
_OPTIMIZER = OptimizerConfig(warmup_steps=0)


def outputs(
  golden: GoldenSet, case: Case, checkpoints: Checkpoints
) -> dict[str, Readings]:
  """Our side of every array of the case."""
  ddit = checkpoints.get("ddit")
  step = _train_step(golden, case, ddit)
  state = _start(step, ddit)
  start = their_tensors(ddit["network"].plan, state.params)
  names = _parameter_names(golden, start)
  update, gradients = jax.jit(step.update), jax.jit(step.gradients)
  results: dict[str, Readings] = {}
  batches = sorted(case.groups("x0"), key=_number)
  for index, batch in enumerate(batches):
    corrupted = _corrupted(case, batch, step)
    grads = their_tensors(ddit["network"].plan, gradients(state, corrupted)[0])
    state, metrics = update(state, corrupted)
    now = their_tensors(ddit["network"].plan, state.params)
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
    train=TrainConfig(num_steps=num_steps, has_stream_norms=False),
    # All that is random was recorded.
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


def _step_results(index, metrics, grads, changes, names) -> dict[str, Readings]:
  norms = functools.partial(_norms, names=names)
  return {
    f"step{index}/image_loss": metrics["loss/image"],
    f"step{index}/text_loss": metrics["loss/text"],
    f"step{index}/loss": metrics["loss/total"],
    f"step{index}/grad_norm": metrics["grad_norm"],
    f"step{index}/param_grad_norms": norms(grads),
    f"step{index}/param_delta_norms": norms(changes),
  }


def _tensor_results(case: Case, index, grads, changes) -> dict[str, Readings]:
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
