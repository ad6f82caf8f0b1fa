"""Your own captioned images, from scratch on pixels.

  ddit train --config=configs/own_images.py \\
    --config.data.sources.mine.path=path/to/images --workdir=runs/mine

The folder holds NAME.png (.jpg, .webp) with NAME.txt beside it; other layouts
are in docs/data.md. The words of your captions become the tokenizer.

Variants:
  cpu (default): 16 x 16 pixels, minutes on two cores; to try things out.
  gpu: 48 x 48 pixels.
  cpu_prepared, gpu_prepared: the same from shards of `ddit prepare`.
"""

from ddit_jax.config_files import default_config


def get_config(variant: str = "cpu"):
  """The complete config of a variant.

  Raises:
    ValueError: no such variant.
  """
  cpu, gpu = ("tiny", 16, 32), ("small", 48, 256)
  variants = {
    "cpu": cpu,
    "gpu": gpu,
    "cpu_prepared": cpu,
    "gpu_prepared": gpu,
  }
  if variant not in variants:
    raise ValueError(
      f"configs/own_images.py has no variant {variant!r}; it has "
      f"{', '.join(variants)}"
    )
  size, side, batch_size = variants[variant]
  config = default_config()
  config.name = f"own_images:{variant}"
  config.model.size = size
  source = {
    "kind": "image_folder",
    "path": "path/to/images",
    "filters": {"min_short_side": side},
  }
  if variant.endswith("_prepared"):
    source = {"kind": "array_record", "path": "path/to/shards"}
  config.data.sources = {"mine": source}
  config.data.tokenizer = "words"
  config.data.validation_size = batch_size
  for stream in (config.data.text_to_image, config.data.image_to_text):
    stream.batch_size = batch_size
    stream.image_size = side
    stream.text_length = 32
    stream.mixture = {"0": {"mine": 1.0}}
  config.loss.is_merged = True
  config.loss.mask_count = "exact"
  config.loss.sigma_draw = "stratified"
  config.loss.text_weight = 1.0
  config.optimizer.learning_rate = 1e-3
  config.optimizer.warmup_steps = 100
  config.optimizer.decay = "linear"
  config.optimizer.decay_fraction = 0.3
  config.optimizer.beta2 = 0.99
  config.optimizer.ema_decay = 0.998
  config.train.num_steps = 3000
  config.sample.guidance = 3.0
  config.sample.shift = 1.0
  config.sample.text_order = "confidence"
  config.sample.temperature = 0.0
  return config
