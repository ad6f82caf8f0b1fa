"""Encoders of toy size with random weights, for dry runs."""

import functools
import pathlib
from collections.abc import Iterable

import jax
from jax.sharding import Mesh

from ddit_jax.config.dry_run import TOY_WEIGHTS
from ddit_jax.conversion.record import CheckpointRecord
from ddit_jax.data.tokenizers import Tokenizer, word_tokenizer
from ddit_jax.digits import grammar
from ddit_jax.encoders.t5 import T5Config
from ddit_jax.encoders.vae import AutoencoderConfig
from ddit_jax.experiment.pretrained import PretrainedModel
from ddit_jax.models.config import size
from ddit_jax.models.module import PureModule, Variables

# Rows of the toy T5's table: more than the digit world has words.
_TOY_VOCAB_SIZE = 256


class ToyModel(PretrainedModel):
  """T5 and an autoencoder of toy size with random weights, for dry runs."""

  @classmethod
  def make(cls) -> "ToyModel":
    """The same at every call; no file is read."""
    text_encoder = T5Config(
      depth=2,
      width=size("toy_sd3").context_dim,
      num_heads=2,
      head_dim=8,
      mlp_width=32,
      vocab_size=_TOY_VOCAB_SIZE,
    )
    vae = AutoencoderConfig(
      block_widths=(16, 16, 16), layers_per_block=1, num_groups=8
    )
    record = CheckpointRecord(
      target="ddit", configs={"text_encoder": text_encoder, "vae": vae}
    )
    return cls(pathlib.Path(TOY_WEIGHTS), record)

  def check_has(self, parts: Iterable[str]) -> None:
    """Raises ValueError for a part other than the encoders."""
    if missing := set(parts) - self.record.configs.keys():
      raise ValueError(f"toy weights have no {', '.join(sorted(missing))}")

  @functools.cached_property
  def tokenizer(self) -> Tokenizer:
    """The digit world's words."""
    return word_tokenizer(grammar.words())

  def restore(self, name: str, module: PureModule, mesh: Mesh) -> Variables:
    """Random weights, created on the mesh."""
    return module.init_sharded(jax.random.key(len(name)), mesh)
