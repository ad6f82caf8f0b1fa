"""Seconds per image and caption at full size, compared with diffusers.

Random weights of D-DiT on SD3 medium, bfloat16. Images: from text features to
pixels, 512 pixels, 28 Euler steps with guidance, by our sampler and by
diffusers' StableDiffusion3Pipeline, eager and with its transformer and decoder
under torch.compile; text encoders are excluded on all sides. Captions: encoder
and network at each of 16 steps, ours alone, as diffusers has no such model.
Rounds alternate, so that other work on the machine affects all alike.

  pip install '.[gpu,parity]'
  python benchmarks/sampling_speed.py --batch=1 > sampling_speed.json

On one core of a CPU, at a size for it:

  OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/sampling_speed.py \\
    --size=small --dtype=float32 --batch=4 --rounds=3 --tasks=images

Prints one JSON object. Without PyTorch, diffusers is skipped with a message.
`--size=tiny` is a smoke test.
"""

import argparse
import dataclasses
import functools
import importlib.util
import json
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


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Sizes of all networks and inputs."""

  network: MMDiTConfig
  text_encoder: T5Config
  vae: AutoencoderConfig
  pixels: int
  text_length: int


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


SIZES = {
  "sd3_medium": Sizes(
    network=size("sd3_medium"),
    text_encoder=T5_SIZES["xxl"],
    vae=AutoencoderConfig(),
    pixels=512,
    text_length=256,
  ),
  "small": Sizes(
    network=dataclasses.replace(
      size("sd3_medium"),
      depth=6,
      width=256,
      num_heads=4,
      context_dim=128,
      vocab_size=64,
    ),
    text_encoder=T5Config(
      depth=2,
      width=128,
      num_heads=2,
      head_dim=64,
      mlp_width=256,
      vocab_size=64,
    ),
    vae=AutoencoderConfig(block_widths=(32, 32), layers_per_block=1),
    pixels=64,
    text_length=64,
  ),
  "tiny": Sizes(
    network=dataclasses.replace(
      size("sd3_medium"),
      depth=2,
      width=64,
      num_heads=2,
      context_dim=32,
      vocab_size=64,
    ),
    text_encoder=T5Config(
      depth=2,
      width=32,
      num_heads=2,
      head_dim=16,
      mlp_width=64,
      vocab_size=64,
    ),
    vae=AutoencoderConfig(block_widths=(32, 32), layers_per_block=1),
    pixels=32,
    text_length=16,
  ),
}


class Ours:
  """Our samplers with random weights, initialised on the device."""

  def __init__(self, setup: Setup):
    sizes, dtype = setup.sizes, setup.dtype
    self._sizes, self._batch = sizes, setup.batch
    self._dtype = jnp.dtype(dtype)
    self._model = DualModel(
      network=Network(
        sizes.network, Execution(dtype=dtype), parameter_dtype=dtype
      ),
      text_encoder=t5_encoder(
        sizes.text_encoder, dtype=dtype, parameter_dtype=dtype
      ),
      autoencoder=autoencoder(sizes.vae, dtype=dtype, parameter_dtype=dtype),
    )
    mesh = MeshConfig().make(jax.devices()[:1])
    self._variables = {
      name: part.init_sharded(jax.random.key(0), mesh)
      for name, part in self._model.parts().items()
    }
    self._sampling = ImageSampling(
      num_inference_steps=setup.steps, shift=SHIFT, guidance_scale=GUIDANCE
    )
    self._draw = jax.jit(self._draw_images)
    self._fill = jax.jit(self._fill_texts)

  def images(self) -> np.ndarray:
    """Pixels of one batch, on the host."""
    return np.asarray(self._draw(self._variables, jax.random.key(1)))

  def captions(self) -> np.ndarray:
    """Tokens of one batch, on the host."""
    return np.asarray(self._fill(self._variables, jax.random.key(1)))

  def _draw_images(self, variables, key):
    sizes = self._sizes
    shape = self._model.latent_shape(sizes.pixels, sizes.pixels)
    features = (sizes.text_length, sizes.network.context_dim)
    condition = jnp.ones((self._batch, *features), self._dtype)
    latents = sample_latents(
      functools.partial(self._model.predict, variables),
      Inputs(
        jax.random.normal(key, (self._batch, *shape)),
        condition,
        jnp.zeros((1, *features), self._dtype),
      ),
      sampling=self._sampling,
    )
    return self._model.decode(variables, latents)

  def _fill_texts(self, variables, key):
    sizes = self._sizes
    shape = self._model.latent_shape(sizes.pixels, sizes.pixels)
    latents = jax.random.normal(key, (self._batch, *shape))
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
  """StableDiffusion3Pipeline from features to pixels."""

  def __init__(self, setup: Setup, *, is_compiled: bool):
    import diffusers
    import torch

    self._torch, self._steps = torch, setup.steps
    dtype = getattr(torch, setup.dtype)
    sizes, batch = setup.sizes, setup.batch
    network, device = sizes.network, "cuda"
    if not torch.cuda.is_available():
      device = "cpu"
    with torch.device(device):
      transformer = sd3_transformer(network)
      num_blocks = len(sizes.vae.block_widths)
      vae = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * num_blocks,
        up_block_types=("UpDecoderBlock2D",) * num_blocks,
        block_out_channels=sizes.vae.block_widths,
        layers_per_block=sizes.vae.layers_per_block,
        latent_channels=sizes.vae.latent_channels,
        norm_num_groups=sizes.vae.num_groups,
        scaling_factor=sizes.vae.scale,
        shift_factor=sizes.vae.shift,
        use_quant_conv=False,
        use_post_quant_conv=False,
      )
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
      transformer.compile(mode=on_gpu)
      vae.decode = torch.compile(vae.decode)
    features = (batch, sizes.text_length, network.context_dim)
    kwargs = {"device": device, "dtype": dtype}
    pooled = torch.ones((batch, POOLED_WIDTH), **kwargs)
    self._inputs = {
      "prompt_embeds": torch.ones(features, **kwargs),
      "negative_prompt_embeds": torch.zeros(features, **kwargs),
      "pooled_prompt_embeds": pooled,
      "negative_pooled_prompt_embeds": pooled,
      "height": sizes.pixels,
      "width": sizes.pixels,
    }

  def images(self) -> np.ndarray:
    """Pixels of one batch, on the host."""
    with self._torch.no_grad():
      return self._pipeline(
        **self._inputs,
        guidance_scale=GUIDANCE,
        num_inference_steps=self._steps,
        output_type="np",
      ).images


def alternate(functions, rounds: int) -> dict[str, dict[str, float]]:
  """Seconds of each function: the first call, then median and range."""
  first, seconds = {}, {name: [] for name in functions}
  for name, function in functions.items():
    start = time.perf_counter()
    function()
    first[name] = time.perf_counter() - start
  for _ in range(rounds):
    for name, function in functions.items():
      start = time.perf_counter()
      function()
      seconds[name].append(time.perf_counter() - start)
  return {
    name: {
      "first_call": first[name],
      "median": statistics.median(times),
      "fastest": min(times),
      "slowest": max(times),
    }
    for name, times in seconds.items()
  }


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--size", choices=sorted(SIZES), default="sd3_medium")
  parser.add_argument("--batch", type=int, default=1)
  parser.add_argument("--steps", type=int, default=IMAGE_STEPS)
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument(
    "--dtype", choices=("bfloat16", "float32"), default="bfloat16"
  )
  parser.add_argument("--tasks", choices=("both", "images"), default="both")
  options = parser.parse_args()
  setup = Setup(
    SIZES[options.size], options.batch, options.steps, options.dtype
  )
  ours = Ours(setup)
  functions = {"images/ours": ours.images}
  if options.tasks == "both":
    functions["captions/ours"] = ours.captions
  names = ("torch", "diffusers")
  if all(map(importlib.util.find_spec, names)):
    for name, is_compiled in (("eager", False), ("compiled", True)):
      peer = Diffusers(setup, is_compiled=is_compiled)
      functions[f"images/diffusers {name}"] = peer.images
  else:
    print("PyTorch or diffusers is missing: ours alone", file=sys.stderr)
  times = alternate(functions, options.rounds)
  our_time = times["images/ours"]["median"]
  result = {
    "device": jax.devices()[0].device_kind,
    "size": options.size,
    "batch": options.batch,
    "dtype": options.dtype,
    "image_steps": options.steps,
    "text_steps": TEXT_STEPS,
    "seconds_a_batch": times,
    "our_images_a_second": options.batch / our_time,
    "times_over_ours": {
      name: times[name]["median"] / our_time
      for name in functions
      if "diffusers" in name
    },
  }
  print(json.dumps(result, indent=2))


if __name__ == "__main__":
  main()
