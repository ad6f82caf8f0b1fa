"""Post-training on rewards: from a trained checkpoint to a better one.

  ddit train --config=configs/post_training.py --workdir=runs/nft \\
    --config.init_from=runs/digits

Hardware: two CPU cores. The settings are first choices; docs/post_training.md
says what the methods do, and has short runs of nft and of vrpo, which learns
its question and forgets all else.

Variants:
  nft (default): images, by DiffusionNFT and the digit checker.
  vrpo: answers to "is there a seven?", by preferences between drawn ones.
  espo: the same by group-relative advantages.
  image_pairs: preferred images of a file, by Diffusion-DPO.
  text_pairs: preferred texts of a file, by VRPO.
  Each also with _dry appended (nft_dry, ...): the same graph for four steps;
  dry is nft_dry.
"""

import pathlib

from ddit_jax.config.dry_run import chosen_variant, dry
from ddit_jax.config.load import config_module
from ddit_jax.experiment.config import default_config

_DIGITS = pathlib.Path(__file__).parent / "digits.py"


def get_config(variant: str = "nft"):
  """The complete config of a variant.

  Raises:
    ValueError: the variant is unknown.
  """
  variants = {
    "nft": _nft,
    "vrpo": _vrpo,
    "espo": _espo,
    "image_pairs": _image_pairs,
    "text_pairs": _text_pairs,
  }
  name, is_dry = chosen_variant(
    "configs/post_training.py", variant, variants, default="nft"
  )
  config = default_config()
  _common(config)
  variants[name](config)
  config.name = f"post_training:{name}"
  return dry(config) if is_dry else config


def _common(config):
  config_module(_DIGITS).one_digit(config)
  config.data.pool_size = 4_000
  config.optimizer.learning_rate = 3e-4
  config.optimizer.warmup_steps = 10
  config.optimizer.weight_decay = 0.0
  config.optimizer.ema_decay = 0.9
  config.train.num_steps = 200
  config.train.log_every = 5
  config.train.validate_every = 20
  config.train.checkpoint_every = 100


def _nft(config):
  config.data.text_to_image.batch_size = 12
  config.data.text_to_image.mixture = {"0": {"prompts": 1}}
  config.data.image_to_text.batch_size = 0
  config.data.validation_size = 64
  config.post_training.text_to_image.method = "nft"
  config.post_training.text_to_image.rewards = ("digits",)
  config.post_training.text_to_image.measured = ("image_kilobytes",)


def _texts(config, method: str):
  config.data.text_to_image.batch_size = 0
  config.data.image_to_text.mixture = {"0": {"is_there": 1}}
  config.data.pool_size = 20_000
  config.data.validation_size = 256
  config.optimizer.learning_rate = 1e-3
  config.post_training.image_to_text.method = method
  # An answer is one word and its end.
  config.post_training.image_to_text.sampling.order = "confidence"
  config.post_training.image_to_text.sampling.num_steps = 2
  config.post_training.image_to_text.num_passes = 2
  config.post_training.image_to_text.rewards = ("exact_match",)
  config.post_training.image_to_text.measured = ("answer_format",)


def _vrpo(config):
  _texts(config, "vrpo")
  config.data.image_to_text.batch_size = 48
  config.post_training.image_to_text.group_size = 4


def _espo(config):
  _texts(config, "espo")
  config.data.image_to_text.batch_size = 16
  config.post_training.image_to_text.group_size = 8


def _pairs(config):
  config.data.sources = {
    "pairs": {"kind": "pairs", "path": "pairs.jsonl", "images": "images"}
  }
  # Those of the weights, and the pairs' new ones.
  config.data.tokenizer = "words"
  for task in (config.data.text_to_image, config.data.image_to_text):
    task.image_size = 16
  config.optimizer.learning_rate = 1e-4


def _image_pairs(config):
  _pairs(config)
  config.data.text_to_image.batch_size = 32
  config.data.text_to_image.mixture = {"0": {"pairs": 1}}
  config.data.image_to_text.batch_size = 0
  config.post_training.text_to_image.method = "dpo"


def _text_pairs(config):
  _pairs(config)
  config.data.text_to_image.batch_size = 0
  config.data.image_to_text.batch_size = 32
  config.data.image_to_text.mixture = {"0": {"pairs": 1}}
  config.post_training.image_to_text.method = "vrpo_pairs"
