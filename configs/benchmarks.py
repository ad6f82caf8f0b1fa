"""Published benchmarks on a checkpoint.

  ddit evaluate --checkpoint=runs/ddit/stage3 --config=configs/benchmarks.py \\
    --tasks=vqav2,pope,geneval --out=runs/ddit/stage3/benchmarks

Official files are read from data/benchmarks/NAME/; docs/evaluation.md lists
them. Prompts, steps and sizes are those of the published numbers.

Hardware: any; the devices of the machine share every batch.

Variants:
  published (default): the settings that published numbers were made with.
  own: the prompts that the checkpoint was trained with and the `sample` section
    below, for models of other data.
"""

from ddit_jax.experiment.config import default_config


def get_config(variant: str = "published"):
  """The complete config of a variant.

  Raises:
    ValueError: the variant is unknown.
  """
  if variant not in ("published", "own"):
    raise ValueError(
      f"configs/benchmarks.py has no variant {variant!r}: there are published "
      "and own"
    )
  config = default_config()
  config.name = f"benchmarks:{variant}"
  config.sample.batch_size = 64
  if variant == "own":
    config.benchmarks.prompt = "trained"
    config.benchmarks.sampling = "config"
  return config
