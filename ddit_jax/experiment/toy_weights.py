"""Tiny random encoders in place of converted weights, for dry runs."""

import functools
import pathlib
from collections.abc import Iterable

import jax
from jax.sharding import Mesh

from ddit_jax.conversion.checkpoint_record import CheckpointRecord
from ddit_jax.data.tokenizer import Tokenizer, word_tokenizer
from ddit_jax.digits import grammar
from ddit_jax.dry_run import TOY_WEIGHTS
from ddit_jax.encoders.t5 import T5Config
from ddit_jax.encoders.vae import AutoencoderConfig
from ddit_jax.experiment.converted import ConvertedWeights, encoder_shardings
from ddit_jax.models.pure_module import PureModule, Variables
from ddit_jax.models.sizes import size

# More rows than the words of the digit world's captions.
_VOCAB_SIZE = 256


class ToyWeights(ConvertedWeights):
  """T5 and an autoencoder of toy size, the same random ones every time."""

  @classmethod
  def make(cls) -> "ToyWeights":
    """No file is read."""
    text_encoder = T5Config(
      depth=2,
      width=size("toy_sd3").context_dim,
      num_heads=2,
      head_dim=8,
      mlp_width=32,
      vocab_size=_VOCAB_SIZE,
    )
    vae = AutoencoderConfig(
      block_widths=(16, 16, 16), layers_per_block=1, num_groups=8
    )
    record = CheckpointRecord(
      target="ddit", configs={"text_encoder": text_encoder, "vae": vae}
    )
    return cls(pathlib.Path(TOY_WEIGHTS), record)

  def check_has(self, parts: Iterable[str]) -> None:
    """They have all that a D-DiT reads its inputs with."""
    if missing := set(parts) - self.record.configs.keys():
      raise ValueError(f"toy weights have no {', '.join(sorted(missing))}")

  @functools.cached_property
  def tokenizer(self) -> Tokenizer:
    """The digit world's words."""
    return word_tokenizer(grammar.words())

  def restore(
    self, name: str, module: PureModule, mesh: Mesh, placement: str = "sharded"
  ) -> Variables:
    """Random weights, created on the mesh."""
    layout = encoder_shardings(module, mesh, placement)
    key = jax.random.key(len(name))
    return jax.jit(module.init, out_shardings=layout)(key)
