"""Do diffusion features read? GPT-2 on features of SD3, D-DiT and CLIP.

  tools/convert_sd3_weights.py path/to/stable-diffusion-3-medium weights/sd3
  tools/convert_sd3_weights.py path/to/gpt2 weights/gpt2
  tools/convert_sd3_weights.py path/to/clip-vit-large-patch14 weights/clip
  ddit train --config=configs/feature_captioner.py:sd3_frozen \\
    --workdir=runs/sd3_frozen --config.data.tokenizer=gpt2:path/to/gpt2

The comparison of the paper's Table 4, for which a language model answers
VQAv2's questions from the captions (0-shot and 32-shot accuracy in the paper:
sd3_frozen 42.3 and 46.9, sd3_trained 45.1 and 50.2, clip 50.6 and 54.8, D-DiT's
own text branch 55.0 and 60.3). The paper gives the decoder, the layer and the
data; steps, batch size, learning rate and resolution are ours.

Replace the paths under `data.sources` with your own; docs/data.md lists the
formats. GPT-2's tokenizer must be the one of its weights.

Hardware: 16 chips of 32 GB (an estimate: none has been run at full size).

Variants:
  sd3_frozen (default): SD3's image tokens after its 18th block, frozen.
  sd3_trained: the same, and its 18 blocks are trained, too.
  clip: CLIP ViT-L/14's tokens after its last block but one, frozen.
  ddit_features: as sd3_frozen, of a D-DiT in runs/stage2.
  Each also with _dry appended (clip_dry, ...): the same graph at toy size on
  generated data, with random features; dry is sd3_frozen_dry.
"""

from ddit_jax.config.dry_run import chosen_variant, dry
from ddit_jax.experiment.config import default_config

_SD3, _CLIP, _GPT2 = "weights/sd3", "weights/clip", "weights/gpt2"


def get_config(variant: str = "sd3_frozen"):
  """The complete config of a variant.

  Raises:
    ValueError: the variant is unknown.
  """
  variants = {
    "sd3_frozen": _sd3,
    "sd3_trained": _sd3_trained,
    "clip": _clip,
    "ddit_features": _ddit,
  }
  name, is_dry = chosen_variant(
    "configs/feature_captioner.py", variant, variants, default="sd3_frozen"
  )
  config = _common()
  config.name = f"feature_captioner:{name}"
  variants[name](config)
  return dry(config) if is_dry else config


def _common():
  config = default_config()
  config.model.execution.dtype = "bfloat16"
  config.model.execution.remat = "full"
  config.captioner.decoder_from = _GPT2
  config.captioner.decoder = "gpt2"
  config.data.tokenizer = f"gpt2:{_GPT2}_tokenizer"
  # The paper's mixture: recaptioned DataComp and OpenImages, ShareGPT4V.
  config.data.sources = {
    "datacomp": {"kind": "webdataset", "path": "data/recap_datacomp/*.tar"},
    "openimages": {
      "kind": "image_folder",
      "path": "data/openimages/recaptioned.json",
      "images": "data/openimages",
    },
    "sharegpt4v": {
      "kind": "image_folder",
      "path": "data/sharegpt4v/pretrain.json",
      "images": "data/sharegpt4v",
    },
  }
  config.data.text_to_image.batch_size = 0
  texts = config.data.image_to_text
  texts.batch_size = 512
  texts.image_size = 256
  texts.text_length = 128
  texts.mixture = {"0": {"datacomp": 1.0, "openimages": 1.9, "sharegpt4v": 1.3}}
  config.optimizer.learning_rate = 1e-4
  config.optimizer.warmup_steps = 1000
  config.optimizer.decay = "constant"
  config.optimizer.clip_norm = 1.0
  config.optimizer.ema_decay = 0.9999
  config.data.validation_size = 512
  config.train.num_steps = 50_000
  config.train.log_every = 50
  config.train.validate_every = 2000
  config.train.checkpoint_every = 2000
  config.sample.beam_width = 4
  return config


def _sd3(config):
  config.model.size = "sd3_medium"
  config.model.encoders_from = _SD3
  config.captioner.features = "mmdit"
  config.captioner.features_from = _SD3
  config.captioner.layer = 18


def _sd3_trained(config):
  _sd3(config)
  config.captioner.is_reader_trained = True
  config.optimizer.learning_rate = 3e-5


def _ddit(config):
  _sd3(config)
  config.captioner.features_from = "runs/stage2"


def _clip(config):
  config.captioner.features = "clip"
  config.captioner.features_from = _CLIP
  config.captioner.layer = 23
  config.data.image_to_text.image_size = 224
