"""Your own captioned images, from scratch on pixels.

  ddit train --config=configs/own_images.py \\
    --config.data.sources.mine.path=path/to/images --workdir=runs/mine

The folder holds NAME.png (.jpg, .webp) with NAME.txt beside it; for other
formats see docs/data.md. The tokenizer is built from the words of the captions.

Hardware: cpu is the quickstart's network, some 7 steps a second on two idle
cores; gpu is sized for one GPU and has not been run there. There are no
reference scores.

Variants:
  cpu (default): 16 x 16 pixels, minutes on two cores.
  gpu: 48 x 48 pixels.
  cpu_prepared, gpu_prepared: the same from shards of `ddit prepare`.
  Each also with _dry appended (cpu_dry, ...): the same graph at toy size on
  generated data; dry is cpu_dry.
"""

from ddit_jax.config.dry_run import chosen_variant, dry
from ddit_jax.experiment.config import default_config


def get_config(variant: str = "cpu"):
  """The complete config of a variant.

  Raises:
    ValueError: the variant is unknown.
  """
  cpu, gpu = ("tiny", 16, 32), ("small", 48, 256)
  variants = {
    "cpu": cpu,
    "gpu": gpu,
    "cpu_prepared": cpu,
    "gpu_prepared": gpu,
  }
  name, is_dry = chosen_variant(
    "configs/own_images.py", variant, variants, default="cpu"
  )
  size, side, batch_size = variants[name]
  config = default_config()
  config.name = f"own_images:{name}"
  config.model.size = size
  config.data.filters = {"min_short_side": side}
  source = {"kind": "image_folder", "path": "path/to/images"}
  if name.endswith("_prepared"):
    source = {"kind": "array_record", "path": "path/to/shards"}
  config.data.sources = {"mine": source}
  config.data.tokenizer = "words"
  config.data.validation_size = batch_size
  for task in (config.data.text_to_image, config.data.image_to_text):
    task.batch_size = batch_size
    task.image_size = side
    task.text_length = 32
    task.mixture = {"0": {"mine": 1.0}}
  config.loss.is_merged = True
  config.loss.masked_diffusion.mask_count = "exact"
  config.loss.flow_matching.sigma_draw = "stratified"
  config.loss.text_weight = 1.0
  config.optimizer.learning_rate = 1e-3
  config.optimizer.warmup_steps = 100
  config.optimizer.decay = "linear"
  config.optimizer.decay_fraction = 0.3
  config.optimizer.beta2 = 0.99
  config.optimizer.ema_decay = 0.998
  config.train.num_steps = 3000
  config.sample.image.guidance_scale = 3.0
  config.sample.image.shift = 1.0
  config.sample.text.order = "confidence"
  config.sample.text.temperature = 0.0
  return dry(config) if is_dry else config
