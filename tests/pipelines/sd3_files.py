"""A tiny converted SD3, random, made without PyTorch."""

import json
import pathlib

import jax
import numpy as np
import orbax.checkpoint as ocp
import transformers

from ddit_jax.checkpoint.manifest import write_manifest
from ddit_jax.conversion.record import CheckpointRecord, write_record
from ddit_jax.data.tokenizers import word_tokenizer
from ddit_jax.encoders.clip import CLIPTextConfig, clip_text_encoder
from ddit_jax.encoders.t5 import T5Config, t5_encoder
from ddit_jax.encoders.vae import AutoencoderConfig, autoencoder
from ddit_jax.models.config import MMDiTConfig
from ddit_jax.models.module import Network
from ddit_jax.pipelines.sd3 import Sd3Model
from tests import clip_tokenizer_files

WORDS = ("a", "red", "cat", "dog")
CONTEXT, POOLED = 24, 40
NETWORK = MMDiTConfig(
  depth=2,
  width=16,
  num_heads=2,
  latent_channels=4,
  max_grid=6,
  base_grid=4,
  context_dim=CONTEXT,
  vocab_size=0,
  pooled_dim=POOLED,
  num_null_image_tokens=0,
  is_last_text_block_full=False,
)
T5 = T5Config(
  depth=1, width=CONTEXT, num_heads=2, head_dim=4, mlp_width=16, vocab_size=12
)
VAE = AutoencoderConfig(
  latent_channels=4, block_widths=(8, 8), layers_per_block=1, num_groups=4
)


def _clip(width: int, projection_dim: int, activation: str) -> CLIPTextConfig:
  return CLIPTextConfig(
    depth=2,
    width=width,
    num_heads=2,
    mlp_width=16,
    activation=activation,
    projection_dim=projection_dim,
    vocab_size=len(clip_tokenizer_files.vocabulary()),
  )


CONFIGS = {
  "network": NETWORK,
  "text_encoder": T5,
  "vae": VAE,
  "clip_l": _clip(8, 16, "quick_gelu"),
  "clip_g": _clip(12, 24, "gelu"),
}


def model(**changes) -> Sd3Model:
  """The model of `CONFIGS`; T5 reads few ids, so that tests are quick."""
  fields = {
    "network": Network(NETWORK),
    "text_encoder": t5_encoder(T5),
    "autoencoder": autoencoder(VAE),
    "clip_l": clip_text_encoder(CONFIGS["clip_l"]),
    "clip_g": clip_text_encoder(CONFIGS["clip_g"]),
    "t5_length": 10,
  }
  return Sd3Model(**fields | changes)


def variables(of: Sd3Model) -> dict:
  """Random weights and constants."""
  random = np.random.default_rng(0)

  def draw(leaf):
    return (random.normal(size=leaf.shape) * 0.3).astype(np.float32)

  return {
    name: jax.tree.map(draw, part.abstract_variables())
    for name, part in of.parts().items()
  }


def write_tokenizers(folder: pathlib.Path) -> None:
  """CLIP-L's, CLIP-G's and T5's, under the names of a converted folder."""
  for ours, theirs in (("clip_l", "tokenizer"), ("clip_g", "tokenizer_2")):
    clip_tokenizer_files.write(
      folder / f"tokenizer_{ours}", clip_tokenizer_files.PADS[theirs]
    )
  transformers.PreTrainedTokenizerFast(
    tokenizer_object=word_tokenizer(WORDS).backend,
    pad_token="<pad>",
    eos_token="</s>",
  ).save_pretrained(folder / "tokenizer")


def write(folder: pathlib.Path) -> pathlib.Path:
  """All that the converter writes and loading reads."""
  whole = model()
  for name, collections in variables(whole).items():
    for kind, tree in collections.items():
      with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save((folder / name / kind).absolute(), tree)
  write_tokenizers(folder)
  write_record(folder, CheckpointRecord(target="sd3", configs=CONFIGS))
  write_scheduler(folder)
  (folder / "report.json").write_text(json.dumps({"notes": []}))
  write_manifest(folder)
  return folder


def write_scheduler(folder: pathlib.Path, **fields) -> None:
  """SD3's scheduler, with other `fields`."""
  (folder / "scheduler").mkdir(exist_ok=True)
  body = {"shift": 3.0, "num_train_timesteps": 1000} | fields
  path = folder / "scheduler" / "scheduler_config.json"
  path.write_text(json.dumps(body))
