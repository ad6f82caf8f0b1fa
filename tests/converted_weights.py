"""A folder as the conversion tool writes it, of tiny random networks."""

import functools
import pathlib

import jax
import orbax.checkpoint as ocp

from ddit_jax.checkpoint.manifest import write_manifest
from ddit_jax.conversion.record import CheckpointRecord, write_record
from ddit_jax.data.tokenizers import Tokenizer, word_tokenizer
from ddit_jax.digits import grammar
from ddit_jax.encoders.t5 import T5Config, t5_encoder
from ddit_jax.encoders.vae import AutoencoderConfig, autoencoder
from ddit_jax.models.config import MMDiTConfig
from ddit_jax.models.module import Network

TOKENIZER: Tokenizer = word_tokenizer(grammar.words())
CONFIGS = {
  "network": MMDiTConfig(
    depth=2,
    width=32,
    num_heads=2,
    max_grid=4,
    base_grid=2,
    context_dim=24,
    vocab_size=TOKENIZER.vocab_size,
    num_null_image_tokens=2,
  ),
  "text_encoder": T5Config(
    depth=2,
    width=24,
    num_heads=2,
    head_dim=8,
    mlp_width=32,
    vocab_size=TOKENIZER.vocab_size + 3,
  ),
  # An image of 16 pixels has 4 x 4 latents.
  "vae": AutoencoderConfig(
    block_widths=(16, 16, 16), layers_per_block=1, num_groups=8
  ),
}
MODULES = {
  "network": Network(CONFIGS["network"]),
  "text_encoder": t5_encoder(CONFIGS["text_encoder"]),
  "vae": autoencoder(CONFIGS["vae"]),
}


@functools.cache
def variables(name: str):
  """The random weights of one part; always the same. Not to be changed."""
  return jax.jit(MODULES[name].init)(jax.random.key(len(name)))


def write(folder: pathlib.Path) -> pathlib.Path:
  """The whole folder: three networks, tokenizer, record and manifest."""
  with ocp.PyTreeCheckpointer() as checkpointer:
    for name in MODULES:
      for kind, tree in variables(name).items():
        checkpointer.save((folder / name / kind).absolute(), tree)
  (folder / "tokenizer").mkdir()
  for name, content in TOKENIZER.files().items():
    (folder / "tokenizer" / name).write_bytes(content)
  write_record(folder, CheckpointRecord(target="ddit", configs=CONFIGS))
  write_manifest(folder)
  return folder
