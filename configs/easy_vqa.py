"""Easy-VQA, a published set of questions about shapes (PyPI: easy-vqa).

  pip install 'ddit_jax[easy_vqa]'
  ddit train --config=configs/easy_vqa.py --workdir=runs/easy_vqa

The images have no captions, so the image loss is unconditional
(`condition_dropout` 1). The test split is not trained on: answer its questions
with `ddit sample --task=vqa`.

Hardware: cpu is the quickstart's network, some 7 steps a second on two idle
cores; gpu is sized for one GPU and has not been run there. There are no
reference scores.

Variants:
  cpu (default): 16 x 16 pixels, minutes on two cores.
  gpu: 48 x 48 pixels.
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
  variants = {"cpu": ("tiny", 16, 32, 64), "gpu": ("small", 48, 128, 256)}
  name, is_dry = chosen_variant(
    "configs/easy_vqa.py", variant, variants, default="cpu"
  )
  size, side, num_images, num_questions = variants[name]
  config = default_config()
  config.name = f"easy_vqa:{name}"
  config.model.size = size
  config.data.sources = {"shapes": {"kind": "easy_vqa", "split": "train"}}
  config.data.tokenizer = "words"
  config.data.validation_size = num_questions
  config.data.text_to_image.batch_size = num_images
  config.data.image_to_text.batch_size = num_questions
  for task in (config.data.text_to_image, config.data.image_to_text):
    task.image_size = side
    task.text_length = 20
    task.mixture = {"0": {"shapes": 1.0}}
  config.loss.is_merged = True
  config.loss.condition_dropout = 1.0
  config.loss.masked_diffusion.mask_count = "exact"
  config.loss.flow_matching.sigma_draw = "stratified"
  config.loss.text_weight = 3.0
  config.optimizer.learning_rate = 1e-3
  config.optimizer.warmup_steps = 100
  config.optimizer.decay = "linear"
  config.optimizer.decay_fraction = 0.3
  config.optimizer.beta2 = 0.99
  config.optimizer.ema_decay = 0.998
  config.train.num_steps = 3000
  config.sample.text.order = "confidence"
  config.sample.text.temperature = 0.0
  return dry(config) if is_dry else config
