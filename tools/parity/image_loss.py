"""Case e: the flow-matching loss with recorded times, noise and dropout."""

import dataclasses

from ddit_jax.losses import flow_matching
from ddit_jax.models.embeddings import TIME_SCALE
from parity.axes import channels_first
from parity.checkpoints import Checkpoints
from parity.comparison import Readings
from parity.golden_set import Case, GoldenSet
from parity.recorded_draws import ImageDraws, release_loss


def outputs(
  golden: GoldenSet, case: Case, checkpoints: Checkpoints
) -> dict[str, Readings]:
  """Our side of every array of the case."""
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
  by_paper = draws.corrupted(dataclasses.replace(loss, path=unweighted))
  return {
    "timestep": images.sigma * TIME_SCALE,
    "sigma": images.sigma,
    "noisy_latents": channels_first(images.latents),
    "text_embeds": ddit["text_encoder"].apply(images.text),
    "velocity_pred": channels_first(velocity),
    "per_sample_loss_reference": loss.flow_matching.loss_weight(images.sigma)
    * errors,
    "loss_reference": flow_matching.weighted_sum(velocity, images),
    "velocity_target": channels_first(images.velocity),
    "per_sample_velocity_mse": errors,
    "velocity_mse": flow_matching.weighted_sum(velocity, by_paper),
  }
