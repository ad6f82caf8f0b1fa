"""Seconds per image and caption, compared with diffusers.

Random weights of D-DiT on SD3 medium, bfloat16. Images: from text features to
pixels, 512 pixels, 28 Euler steps with guidance, by our sampler and by
diffusers' StableDiffusion3Pipeline, eager and with its transformer and decoder
under torch.compile; text encoders are excluded on all sides. Captions: encoder
and network at each of 16 steps, ours alone, as diffusers has no such model.

  pip install '.[gpu,parity]'
  python benchmarks/sampling_speed.py --batch=1 > sampling_speed.json

On a CPU, networks of the quickstart's size and larger, from text features to
latents, which is the transformer and the steps around it alone. Our blocks are
unrolled, as theirs are:

  python benchmarks/sampling_speed.py --size 4x96x4 4x128x8 6x256x12 8x384x12 \\
    --dtype=float32 --batch=8 --tasks=images > sampling_speed.json

Rounds alternate, so that other work on the machine affects all alike; a ratio
is the median of those within a round. On a CPU all sides use every core that
the process may run on (taskset).

Prints one JSON object, and a table to stderr. Without PyTorch, diffusers is
skipped with a message. `--size=tiny` is a smoke test.
"""

import argparse
import dataclasses
import functools
import importlib.util
import json
import os
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from diffusers_sd3 import POOLED_WIDTH, sd3_transformer

from ddit_jax.encoders.t5 import T5_SIZES, T5Config, t5_encoder
from ddit_jax.encoders.vae import AutoencoderConfig, autoencoder
from ddit_jax.experiment.model import DualModel
from ddit_jax.models.config import MMDiTConfig, size
from ddit_jax.models.mmdit import Execution
from ddit_jax.models.module import Network
from ddit_jax.prng import row_keys
from ddit_jax.sampling.image_sampler import (
  ImageSampling,
  Inputs,
  sample_latents,
)
from ddit_jax.sampling.text_options import TextSampling
from ddit_jax.sampling.text_sampler import infill
from ddit_jax.sharding.mesh import MeshConfig

GUIDANCE, SHIFT, IMAGE_STEPS, TEXT_STEPS = 7.0, 3.0, 28, 16
# The side that others are compared with.
OURS = "images/ours"


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Sizes of all networks and inputs.

  Attributes:
    network: the MM-DiT.
    text_encoder: T5.
    vae: the autoencoder; None draws latents.
    latent_side: of the square latents.
    scan_unroll: our blocks in an iteration of the scan over them.
    text_length: tokens of a text.
  """

  network: MMDiTConfig
  text_encoder: T5Config
  vae: AutoencoderConfig | None
  latent_side: int
  text_length: int
  scan_unroll: int = 1


@dataclasses.dataclass(frozen=True)
class Setup:
  """What all sides run.

  Attributes:
    sizes: of networks and inputs.
    batch: images or captions at once.
    steps: Euler steps.
    dtype: "bfloat16" or "float32".
  """

  sizes: Sizes
  batch: int
  steps: int
  dtype: str


def _small(
  depth: int, width: int, num_heads: int, grid: int, vae=None
) -> Sizes:
  """A network on a square of `grid` patches a side."""
  text_width = width // 2
  network = dataclasses.replace(
    size("sd3_medium"),
    depth=depth,
    width=width,
    num_heads=num_heads,
    context_dim=text_width,
    vocab_size=64,
  )
  text_encoder = T5Config(
    depth=2,
    width=text_width,
    num_heads=2,
    head_dim=text_width // 2,
    mlp_width=2 * text_width,
    vocab_size=64,
  )
  side = network.patch_size * grid
  return Sizes(
    *(network, text_encoder, vae, side), text_length=64, scan_unroll=depth
  )


SIZES = {
  "sd3_medium": Sizes(
    network=size("sd3_medium"),
    text_encoder=T5_SIZES["xxl"],
    vae=AutoencoderConfig(),
    latent_side=64,
    text_length=256,
  ),
  "tiny": _small(
    *(2, 64, 2, 8),
    AutoencoderConfig(block_widths=(32, 32), layers_per_block=1),
  ),
  # Blocks, width and patches a side; the first is the quickstart's.
  "4x96x4": _small(4, 96, 4, 4),
  "4x128x8": _small(4, 128, 4, 8),
  "6x256x12": _small(6, 256, 8, 12),
  "8x384x12": _small(8, 384, 6, 12),
  "8x384x24": _small(8, 384, 6, 24),
}


class Ours:
  """Our samplers with random weights, initialised on the device."""

  def __init__(self, setup: Setup):
    sizes, dtype = setup.sizes, setup.dtype
    self._sizes, self._batch = sizes, setup.batch
    self._dtype = jnp.dtype(dtype)
    self._model = DualModel(
      network=Network(
        sizes.network,
        Execution(dtype=dtype, scan_unroll=sizes.scan_unroll),
        parameter_dtype=dtype,
      ),
      text_encoder=t5_encoder(
        sizes.text_encoder, dtype=dtype, parameter_dtype=dtype
      ),
      autoencoder=sizes.vae
      and autoencoder(sizes.vae, dtype=dtype, parameter_dtype=dtype),
    )
    mesh = MeshConfig().make(jax.devices()[:1])
    self._variables = {
      name: part.init_sharded(jax.random.key(0), mesh)
      for name, part in self._model.parts().items()
    }
    self._sampling = ImageSampling(
      num_inference_steps=setup.steps, shift=SHIFT, guidance_scale=GUIDANCE
    )
    features = (sizes.text_length, sizes.network.context_dim)
    self._conditions = (
      jnp.ones((self._batch, *features), self._dtype),
      jnp.zeros((1, *features), self._dtype),
    )
    self._draw = jax.jit(self._draw_images)
    self._fill = jax.jit(self._fill_texts)

  def images(self) -> np.ndarray:
    """Pixels (without an autoencoder latents) of one batch, on the host."""
    drawn = self._draw(self._variables, jax.random.key(1), *self._conditions)
    return np.asarray(drawn)

  def captions(self) -> np.ndarray:
    """Tokens of one batch, on the host."""
    return np.asarray(self._fill(self._variables, jax.random.key(1)))

  def _noise(self, key):
    side, channels = (
      self._sizes.latent_side,
      self._sizes.network.latent_channels,
    )
    return jax.random.normal(key, (self._batch, side, side, channels))

  def _draw_images(self, variables, key, condition, null_condition):
    latents = sample_latents(
      functools.partial(self._model.predict, variables),
      Inputs(self._noise(key), condition, null_condition),
      sampling=self._sampling,
    )
    if self._sizes.vae is None:
      return latents
    return self._model.decode(variables, latents)

  def _fill_texts(self, variables, key):
    sizes, latents = self._sizes, self._noise(key)
    time_zero = jnp.zeros(self._batch)

    def predict(tokens):
      condition = self._model.condition(variables, tokens)
      return self._model.predict(
        variables, latents, condition, time_zero
      ).logits

    tokens = jnp.zeros((self._batch, sizes.text_length), jnp.int32)
    sampling = TextSampling(num_steps=TEXT_STEPS, order="confidence")
    return infill(
      predict,
      tokens,
      jnp.zeros(tokens.shape, bool),
      row_keys(key, jnp.arange(self._batch)),
      mask_id=sizes.network.vocab_size - 1,
      sampling=sampling,
    ).tokens


class Diffusers:
  """StableDiffusion3Pipeline from features to pixels or latents."""

  def __init__(self, setup: Setup, *, is_compiled: bool):
    import diffusers
    import torch

    self._torch, self._setup = torch, setup
    dtype = getattr(torch, setup.dtype)
    sizes, batch = setup.sizes, setup.batch
    network, device = sizes.network, "cuda"
    if not torch.cuda.is_available():
      device = "cpu"
      torch.set_num_threads(len(os.sched_getaffinity(0)))
    with torch.device(device):
      # Its last block has no text stream, which images do not need.
      transformer = sd3_transformer(
        dataclasses.replace(
          network, vocab_size=0, is_last_text_block_full=False
        )
      )
      vae = sizes.vae and _diffusers_autoencoder(sizes.vae)
    self._pipeline = diffusers.StableDiffusion3Pipeline(
      transformer=transformer,
      scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=SHIFT),
      vae=vae,
      **dict.fromkeys(
        f"{kind}{number}"
        for kind in ("text_encoder", "tokenizer")
        for number in ("", "_2", "_3")
      ),
    ).to(device, dtype)
    self._pipeline.set_progress_bar_config(disable=True)
    if is_compiled:
      on_gpu = "max-autotune-no-cudagraphs" if device == "cuda" else None
      # For the shapes of this size alone, after those of others.
      transformer.compile(mode=on_gpu, dynamic=False)
      if vae is not None:
        vae.decode = torch.compile(vae.decode)
    features = (batch, sizes.text_length, network.context_dim)
    kwargs = {"device": device, "dtype": dtype}
    pooled = torch.ones((batch, POOLED_WIDTH), **kwargs)
    self._inputs = {
      "prompt_embeds": torch.ones(features, **kwargs),
      "negative_prompt_embeds": torch.zeros(features, **kwargs),
      "pooled_prompt_embeds": pooled,
      "negative_pooled_prompt_embeds": pooled,
      "height": sizes.latent_side * self._pipeline.vae_scale_factor,
      "width": sizes.latent_side * self._pipeline.vae_scale_factor,
    }

  def images(self) -> np.ndarray:
    """Pixels (without an autoencoder latents) of one batch, on the host."""
    has_pixels = self._setup.sizes.vae is not None
    with self._torch.no_grad():
      drawn = self._pipeline(
        **self._inputs,
        guidance_scale=GUIDANCE,
        num_inference_steps=self._setup.steps,
        output_type="np" if has_pixels else "latent",
      ).images
    return drawn if has_pixels else drawn.float().cpu().numpy()


def _diffusers_autoencoder(vae: AutoencoderConfig):
  import diffusers

  num_blocks = len(vae.block_widths)
  return diffusers.AutoencoderKL(
    down_block_types=("DownEncoderBlock2D",) * num_blocks,
    up_block_types=("UpDecoderBlock2D",) * num_blocks,
    block_out_channels=vae.block_widths,
    layers_per_block=vae.layers_per_block,
    latent_channels=vae.latent_channels,
    norm_num_groups=vae.num_groups,
    scaling_factor=vae.scale,
    shift_factor=vae.shift,
    use_quant_conv=False,
    use_post_quant_conv=False,
  )


def alternate(functions, rounds: int) -> dict[str, list[float]]:
  """Seconds of each function: the first call, then those of each round."""
  seconds = {name: [] for name in functions}
  for _ in range(1 + rounds):
    for name, function in functions.items():
      start = time.perf_counter()
      function()
      seconds[name].append(time.perf_counter() - start)
  return seconds


def measure(name: str, setup: Setup, tasks: str, rounds: int) -> dict:
  """Seconds of a batch by side, and the others' in ours."""
  ours = Ours(setup)
  functions = {OURS: ours.images}
  if tasks == "both":
    functions["captions/ours"] = ours.captions
  if all(map(importlib.util.find_spec, ("torch", "diffusers"))):
    for way, is_compiled in (("eager", False), ("compiled", True)):
      peer = Diffusers(setup, is_compiled=is_compiled)
      functions[f"images/diffusers {way}"] = peer.images
  else:
    print("PyTorch or diffusers is missing: ours alone", file=sys.stderr)
  found = alternate(functions, rounds)
  times = {side: seconds[1:] for side, seconds in found.items()}
  return {
    "size": name,
    "batch": setup.batch,
    "seconds_a_batch": {
      side: {
        "first_call": found[side][0],
        "median": statistics.median(seconds),
        "fastest": min(seconds),
        "slowest": max(seconds),
      }
      for side, seconds in times.items()
    },
    "our_images_a_second": setup.batch / statistics.median(times[OURS]),
    "times_over_ours": {
      side: statistics.median(
        theirs / mine for theirs, mine in zip(seconds, times[OURS], strict=True)
      )
      for side, seconds in times.items()
      if "diffusers" in side
    },
  }


def table(rows: list[dict]) -> str:
  """Markdown: images a second of each side, and ours in those of others."""
  sides = [side for side in rows[0]["seconds_a_batch"] if "images" in side]
  names = [side.removeprefix("images/") for side in sides]
  lines = [
    "| size | batch |" + "".join(f" {name}, images/s |" for name in names),
    "| --- | ---: |" + " ---: |" * len(sides),
  ]
  for row in rows:
    cells = [row["size"], str(row["batch"])]
    for side in sides:
      rate = row["batch"] / row["seconds_a_batch"][side]["median"]
      ratio = row["times_over_ours"].get(side)
      cells.append(f"{rate:.3g}" + (f" ({ratio:.2f} x)" if ratio else ""))
    lines.append("| " + " | ".join(cells) + " |")
  return "\n".join(lines)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument(
    "--size", choices=sorted(SIZES), nargs="+", default=["sd3_medium"]
  )
  parser.add_argument("--batch", type=int, default=1)
  parser.add_argument("--steps", type=int, default=IMAGE_STEPS)
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument(
    "--dtype", choices=("bfloat16", "float32"), default="bfloat16"
  )
  parser.add_argument("--tasks", choices=("both", "images"), default="both")
  options = parser.parse_args()
  rows = []
  for name in options.size:
    setup = Setup(SIZES[name], options.batch, options.steps, options.dtype)
    rows.append(measure(name, setup, options.tasks, options.rounds))
    print(json.dumps(rows[-1]), file=sys.stderr)
  print(table(rows), file=sys.stderr)
  result = {
    "device": jax.devices()[0].device_kind,
    "cores": len(os.sched_getaffinity(0)),
    "dtype": options.dtype,
    "image_steps": options.steps,
    "text_steps": TEXT_STEPS,
    "sizes": rows,
  }
  print(json.dumps(result, indent=2))


if __name__ == "__main__":
  main()
