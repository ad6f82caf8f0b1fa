"""Case a: D-DiT's network, from latents and text features to its outputs."""

import jax
import jax.numpy as jnp
import numpy as np

from ddit_jax.models.config import MMDiTConfig
from ddit_jax.models.embeddings import (
  TIME_SCALE,
  PatchEmbedding,
  VectorEmbedding,
  centred_crop,
  sine_cosine_table,
  sinusoid,
)
from ddit_jax.models.joint_block import JointBlock
from ddit_jax.models.layers import linear
from parity.axes import channels_first, channels_last
from parity.checkpoints import Checkpoints, Part
from parity.comparison import Readings
from parity.golden_set import Case, GoldenSet


def outputs(
  golden: GoldenSet, case: Case, checkpoints: Checkpoints
) -> dict[str, Readings]:
  """Our side of every array of the case."""
  del golden  # No constant of the run enters.
  network = checkpoints.get("ddit")["network"]
  results = {}
  for run in case.groups("latents"):
    inputs = (
      channels_last(case[f"{run}/latents"]),
      case[f"{run}/text_embeds"],
      case[f"{run}/timestep"] / TIME_SCALE,
    )
    prediction = network.apply(*inputs)
    results[f"{run}/image_pred"] = channels_first(prediction.velocity)
    results[f"{run}/text_logits"] = prediction.logits
    if any(name.startswith(f"{run}/mid_") for name in case.outputs()):
      steps = jax.jit(_intermediates, static_argnums=0)(
        network.config, network.variables, *inputs
      )
      results |= {f"{run}/mid_{name}": step for name, step in steps.items()}
  results |= _without_image(case, network)
  return results | _tables(case, network.config)


def _without_image(case: Case, network: Part) -> dict[str, Readings]:
  results = {}
  for run in case.groups("text_embeds"):
    if run not in case.groups("latents"):
      text = case[f"{run}/text_embeds"]
      prediction = network.apply(None, text, jnp.zeros(text.shape[0]))
      results[f"{run}/text_logits"] = prediction.logits
  return results


def _intermediates(config: MMDiTConfig, variables, latents, text, sigma):
  """What the network computes on its way, from its modules one by one."""
  params = variables["params"]
  embed = PatchEmbedding(config.width, config.patch_size)
  grid = [side // config.patch_size for side in latents.shape[1:3]]
  table = variables["constants"]["position_table"]
  image = embed.apply({"params": params["patch_embedding"]}, latents)
  image = image + centred_crop(table, *grid)
  vector = VectorEmbedding(config.width).apply(
    {"params": params["time_embedding"]}, sinusoid(sigma)
  )
  project = linear(
    config.width, ("channels", "embed"), name="context_embedding"
  )
  text = project.apply({"params": params["context_embedding"]}, text)
  steps = {
    "img_tokens_after_pos": image,
    "temb": vector,
    "txt_tokens_in": text,
  }
  for index in range(config.depth):
    block = jax.tree.map(lambda leaf, i=index: leaf[i], params["blocks"])
    (image, text), _ = JointBlock(config).apply(
      {"params": block}, (image, text), vector
    )
    steps |= {f"block{index}_img": image, f"block{index}_txt": text}
  return steps


def _tables(case: Case, config: MMDiTConfig) -> dict[str, Readings]:
  """The first rows and last columns of a fresh position table; sinusoids."""
  results = {}
  if "pos_table_sincos" in case.entries:
    rows, columns, _ = case.entries["pos_table_sincos"].shape
    table = sine_cosine_table(config.max_grid, config.width, config.base_grid)
    results["pos_table_sincos"] = table[:rows, -columns:]
  if "temb_timestep" in case.entries:
    sigma = case["temb_timestep"] / np.float32(TIME_SCALE)
    results["temb_sinusoid"] = sinusoid(jnp.asarray(sigma))
  return results
