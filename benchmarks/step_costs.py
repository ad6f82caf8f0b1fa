"""Memory and time of a training step with each option, at a small size.

One step (a small MM-DiT with a small T5 and autoencoder, random weights and
data) is compiled once per option and run in alternating rounds, so that other
work on the machine affects all options alike. Prints the compiler's temporary
memory, the median time, both as ratios to the plain step of the same run, and
model FLOPs by part. The ratios depend on sizes and machine.

  python benchmarks/step_costs.py
  python benchmarks/step_costs.py --rounds=2 --only=plain,micro_batches_2

Shorter texts ("text_length_N") are not equivalent: T5 attends to padding and
padding tokens are targets.
"""

import argparse
import dataclasses
import statistics
import time

import jax
import numpy as np

from ddit_jax.batch import DualBatch, ImageToTextBatch, TextToImageBatch
from ddit_jax.encoders.t5 import T5Config, t5_encoder
from ddit_jax.encoders.vae import AutoencoderConfig, autoencoder
from ddit_jax.experiment.model import DualModel
from ddit_jax.experiment.step_flops import training_flops
from ddit_jax.losses.dual import DualLoss
from ddit_jax.models.config import MMDiTConfig
from ddit_jax.models.mmdit import Execution
from ddit_jax.models.module import MASK_EMBEDDING, Network
from ddit_jax.train.loop import TrainConfig
from ddit_jax.train.optimizer import OptimizerConfig
from ddit_jax.train.state import init_state
from ddit_jax.train.step import TrainStep

MASK, VOCAB = 8000, 8001
BATCH, SIDE, LENGTH = 8, 64, 64
NETWORK = MMDiTConfig(
  depth=4,
  width=128,
  num_heads=4,
  max_grid=16,
  base_grid=8,
  context_dim=128,
  vocab_size=VOCAB,
)
TEXT_ENCODER = T5Config(
  depth=4, width=128, num_heads=4, head_dim=32, mlp_width=256, vocab_size=VOCAB
)
VAE = AutoencoderConfig(
  block_widths=(16, 16, 16), layers_per_block=1, num_groups=8
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Option:
  """One way to run the step; all but other text lengths are equivalent."""

  num_microbatches: int = 1
  remat: str = "none"
  text_chunk: int = 0
  has_task_norms: bool = False
  is_merged: bool = False
  is_mask_embedding_trained: bool = False
  text_length: int = LENGTH
  has_cached_latents: bool = False
  has_cached_features: bool = False


OPTIONS = {
  "plain": Option(),
  "micro_batches_2": Option(num_microbatches=2),
  "micro_batches_4": Option(num_microbatches=4),
  "remat_dots": Option(remat="dots"),
  "remat_full": Option(remat="full"),
  "text_chunk_32": Option(text_chunk=32),
  "text_chunk_16": Option(text_chunk=16),
  "task_norms": Option(has_task_norms=True),
  "merged_tasks": Option(is_merged=True),
  "remat_full_micro_batches_4_chunk_16": Option(
    remat="full", num_microbatches=4, text_chunk=16
  ),
  "cached_latents": Option(has_cached_latents=True),
  "cached_latents_and_features": Option(
    has_cached_latents=True, has_cached_features=True
  ),
  "mask_embedding_trained": Option(is_mask_embedding_trained=True),
  "text_length_32": Option(text_length=32),
  "text_length_16": Option(text_length=16),
}


def model_of(option: Option) -> DualModel:
  return DualModel(
    network=Network(
      NETWORK,
      Execution(remat=option.remat),
      has_mask_embedding=option.is_mask_embedding_trained,
    ),
    text_encoder=t5_encoder(TEXT_ENCODER, has_remat=True),
    autoencoder=autoencoder(VAE),
    mask_id=MASK,
  )


def batch_of(option: Option) -> DualBatch:
  draw = np.random.default_rng(0)
  images = draw.integers(0, 256, (BATCH, SIDE, SIDE, 3), dtype=np.uint8)
  if option.has_cached_latents:
    side = SIDE // VAE.downsampling
    moments = draw.normal(size=(BATCH, side, side, 2 * VAE.latent_channels))
    images = moments.astype(np.float32)
  shape = (BATCH, option.text_length)
  tokens = draw.integers(2, MASK, shape).astype(np.int32)
  features = None
  if option.has_cached_features:
    features = draw.normal(size=(*shape, TEXT_ENCODER.width))
    features = features.astype(np.float32)
  return DualBatch(
    TextToImageBatch(images, tokens, features),
    ImageToTextBatch(images, tokens, np.ones(shape, bool)),
  )


class Runner:
  """A compiled step that can be timed."""

  def __init__(self, option: Option):
    model = model_of(option)
    step = TrainStep(
      model=model,
      loss=DualLoss(
        is_merged=option.is_merged,
        text_chunk=option.text_chunk,
      ),
      optimizer=OptimizerConfig(ema_decay=0.99),
      train=TrainConfig(
        num_steps=100,
        num_microbatches=option.num_microbatches,
      ),
      seed=0,
      is_mask_embedding_trained=option.is_mask_embedding_trained,
      has_task_norms=option.has_task_norms,
    )
    key = jax.random.key(0)
    state = jax.jit(lambda key: init_state(model.network, step.chain, key))(key)
    frozen = {
      name: jax.jit(part.init)(key)
      for name, part in model.parts().items()
      if name != "network"
    }
    if option.is_mask_embedding_trained:
      row = model.frozen_mask_embedding(frozen)
      state = state.replace(params={**state.params, MASK_EMBEDDING: row})
    self._state = state.replace(frozen=frozen)
    self._batch = batch_of(option)
    self._null = np.ones(option.text_length, np.int32)
    jitted = jax.jit(step, donate_argnums=0)
    self._compiled = jitted.lower(
      self._state, self._batch, self._null
    ).compile()
    self.flops = training_flops(
      model,
      self._batch,
      is_mask_embedding_trained=option.is_mask_embedding_trained,
    )
    self.temporary_bytes = self._compiled.memory_analysis().temp_size_in_bytes

  def seconds(self) -> float:
    """Seconds of one step."""
    start = time.perf_counter()
    self._state, metrics = self._compiled(self._state, self._batch, self._null)
    jax.block_until_ready(metrics)
    return time.perf_counter() - start


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument("--rounds", type=int, default=15)
  parser.add_argument("--only", help="names of options joined by commas")
  arguments = parser.parse_args()
  names = arguments.only.split(",") if arguments.only else list(OPTIONS)
  if unknown := set(names) - OPTIONS.keys():
    parser.error(f"unknown options {sorted(unknown)}; there are {[*OPTIONS]}")
  runners = {name: Runner(OPTIONS[name]) for name in names}
  times = {name: [] for name in names}
  for _ in range(arguments.rounds + 1):
    for name, runner in runners.items():
      times[name].append(runner.seconds())
  print(table(runners, {k: statistics.median(v[1:]) for k, v in times.items()}))


def table(runners: dict[str, Runner], seconds: dict[str, float]) -> str:
  """Markdown, ratios to the first row."""
  first = next(iter(runners))
  lines = [
    "| option | temporary MiB | ratio | ms per step | ratio | GFLOP: network | "
    "T5 | VAE |",
    "|---|---|---|---|---|---|---|---|",
  ]
  for name, runner in runners.items():
    memory = runner.temporary_bytes / 2**20
    memory_ratio = runner.temporary_bytes / runners[first].temporary_bytes
    flops = " | ".join(
      f"{runner.flops[part] / 1e9:.1f}"
      for part in ("network", "text_encoder", "vae")
    )
    lines.append(
      f"| {name} | {memory:.1f} | {memory_ratio:.2f} | "
      f"{1e3 * seconds[name]:.0f} | {seconds[name] / seconds[first]:.2f} | "
      f"{flops} |"
    )
  return "\n".join(lines)


if __name__ == "__main__":
  main()
