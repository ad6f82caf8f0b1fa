"""Coloured handwritten digits: the built-in default.

  ddit train --config=configs/digits.py --workdir=runs/digits
  ddit train --config=configs/digits.py:gpu --workdir=runs/digits_gpu

Hardware: cpu takes about 7 steps a second on two idle cores, nine minutes in
all; gpu is sized for 20 minutes of one H100-class GPU (an estimate: it has not
been trained). README.md has the scores of cpu, docs/reproduction.md four of the
paper's tables on this data.

Variants:
  cpu (default): one nearly centred digit on 16 x 16 pixels.
  gpu: one to four digits on 48 x 48 pixels, all six generation tasks.
  Each also with _dry appended (cpu_dry, ...): the same graph for four
  steps; dry is cpu_dry.
"""

from ddit_jax.config.dry_run import chosen_variant, dry
from ddit_jax.experiment.config import default_config


def get_config(variant: str = "cpu"):
  """The complete config of a variant.

  Raises:
    ValueError: the variant is unknown.
  """
  variants = {"cpu": _cpu, "gpu": _gpu}
  name, is_dry = chosen_variant(
    "configs/digits.py", variant, variants, default="cpu"
  )
  config = default_config()
  variants[name](config)
  return dry(config) if is_dry else config


def one_digit(config):
  """What trainings on one digit have in common, also post_training.py's."""
  config.model.size = "tiny"
  config.model.execution.scan_unroll = 4
  config.data.world = "one_digit"
  config.loss.flow_matching.sigma_draw = "stratified"
  config.optimizer.beta2 = 0.99
  config.optimizer.clip_norm = 1.0
  config.sample.image.num_inference_steps = 20
  config.sample.image.guidance_scale = 3.0
  config.sample.image.shift = 1.0
  config.sample.text.num_steps = 10
  config.sample.text.order = "confidence"
  config.sample.text.temperature = 0.0
  config.sample.batch_size = 200


def _cpu(config):
  config.name = "digits:cpu"
  one_digit(config)
  config.data.pool_size = 40_000
  config.data.text_to_image.batch_size = 30
  config.data.image_to_text.batch_size = 56
  rare = {"what_color": 0.2, "is_there": 0.1, "is_there_pair": 0.1}
  config.data.image_to_text.mixture = {
    # "Is it red?" requires comparing two colours. Mixed with easier questions
    # it is learned late and suddenly, but early when most texts ask it.
    "0": {"caption": 0.7, "what_number": 0.4, "color_yes_no": 8.5, **rare},
    "1000": {"caption": 4.2, "what_number": 2.4, "color_yes_no": 3.0, **rare},
    "2000": {"caption": 5.0, "what_number": 3.8, "color_yes_no": 0.8, **rare},
  }
  config.loss.flow_matching.logit_mean = 0.7
  config.loss.is_merged = True
  config.loss.masked_diffusion.mask_count = "exact"
  config.loss.text_weight = 2.5
  config.optimizer.learning_rate = 2e-3
  config.optimizer.warmup_steps = 50
  config.optimizer.decay = "linear"
  config.optimizer.decay_fraction = 0.3
  config.optimizer.weight_decay = 0.05
  config.optimizer.ema_decay = 0.998
  config.train.num_steps = 3900
  config.train.checkpoint_every = 1950
  config.train.validate_every = 1950


def _gpu(config):
  config.name = "digits:gpu"
  config.model.size = "small"
  config.model.execution.dtype = "bfloat16"
  config.data.world = "scenes_48"
  config.data.pool_size = 200_000
  for task in (config.data.text_to_image, config.data.image_to_text):
    task.batch_size = 256
    task.text_length = 64
  config.data.validation_size = 512
  config.data.image_to_text.mixture = {
    "0": {
      "caption": 3.0,
      "what_number": 1.0,
      "what_color": 1.0,
      "how_many": 1.0,
      "how_many_numbers": 0.5,
      "is_there": 1.0,
      "is_there_pair": 1.5,
      "is_relation": 1.5,
      "where": 1.0,
      "what_relation": 1.0,
    }
  }
  config.loss.is_merged = True
  config.loss.masked_diffusion.mask_count = "exact"
  config.loss.flow_matching.sigma_draw = "stratified"
  config.loss.text_weight = 3.0
  config.optimizer.learning_rate = 6e-4
  config.optimizer.warmup_steps = 500
  config.optimizer.decay = "linear"
  config.optimizer.decay_fraction = 0.4
  config.optimizer.beta2 = 0.99
  config.optimizer.clip_norm = 1.0
  config.optimizer.ema_decay = 0.999
  config.train.num_steps = 12_000
  config.train.log_every = 50
  config.train.validate_every = 1000
  config.train.checkpoint_every = 2000
  config.sample.image.num_inference_steps = 28
  config.sample.image.guidance_scale = 4.0
  config.sample.image.shift = 1.0
  config.sample.text.num_steps = 32
  config.sample.text.order = "confidence"
  config.sample.text.temperature = 0.0
  config.sample.batch_size = 512
  config.evaluate.num_captions = 1000
  config.evaluate.questions_per_kind = 500
  config.evaluate.num_pope_images = 250
