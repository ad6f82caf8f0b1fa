"""The stages that `reproduce_*.py` train on the digit world.

Variants, each for `small` (configs/digits.py:cpu) and `full` (:gpu):
  small_image_first: the image loss alone, stands for SD3.
  small_dual: both losses, captions only (the paper's stages 1 and 2).
  small_tuning: questions and some captions beside generation (its stage 3).
  small_captioner: GPT-2 on features of an image model (its Table 4).

The dual stage has no questions, so tuning shows how they are learned.
"""

import pathlib

from ddit_jax.config.load import config_module

_DIGITS = pathlib.Path(__file__).parent.parent / "configs" / "digits.py"
# (steps, checkpoints kept) of each stage.
LENGTHS = {
  "small": {
    "image_first": (1000, 1),
    "dual": (1200, 1),
    "tuning": (400, 2),
    "captioner": (600, 1),
  },
  "full": {
    "image_first": (8000, 1),
    "dual": (12_000, 1),
    "tuning": (6000, 3),
    "captioner": (6000, 1),
  },
}
# Three quarters of the blocks, as the 18th of SD3's 24.
_READ_LAYER = {"small": 3, "full": 6}
# Captions and answers in tuning; the paper has somewhat more captions.
_CAPTIONS_TO_ANSWERS = 3, 7


def get_config(variant: str = "small_dual"):
  """The complete config of a variant.

  Raises:
    ValueError: the variant is unknown.
  """
  grid, _, stage = variant.partition("_")
  if grid not in LENGTHS or stage not in LENGTHS[grid]:
    names = [f"{g}_{s}" for g, stages in LENGTHS.items() for s in stages]
    raise ValueError(
      f"benchmarks/reproduction_config.py has no variant {variant!r}; it has "
      f"{', '.join(names)}"
    )
  world = {"small": "cpu", "full": "gpu"}[grid]
  config = config_module(_DIGITS).get_config(world)
  config.name = f"reproduction:{variant}"
  _stage(config, stage, *LENGTHS[grid][stage])
  if stage == "captioner":
    config.data.text_to_image.batch_size = 0
    config.captioner.features = "mmdit"
    config.captioner.decoder = "tiny"
    config.captioner.layer = _READ_LAYER[grid]
  if grid == "small":
    config.data.pool_size = 20_000
    config.evaluate.images_per_prompt = 3
    config.evaluate.num_captions = 200
    config.evaluate.questions_per_kind = 100
    config.evaluate.num_pope_images = 50
  return config


def _stage(config, stage: str, num_steps: int, num_checkpoints: int) -> None:
  kinds = dict(config.data.image_to_text.mixture["0"])
  if stage == "image_first":
    config.data.image_to_text.batch_size = 0
  if stage == "tuning":
    questions = [kind for kind in kinds if kind != "caption"]
    captions, answers = _CAPTIONS_TO_ANSWERS
    mixture = {
      "caption": captions * len(questions),
      **dict.fromkeys(questions, answers),
    }
    # The paper's stage 3 has a constant, lower learning rate.
    config.optimizer.learning_rate /= 2
    config.optimizer.decay = "constant"
  else:
    mixture = {"caption": 1.0}
  config.data.image_to_text.mixture = {"0": mixture}
  train = config.train
  train.num_steps = num_steps
  train.checkpoint_every = train.validate_every = num_steps // num_checkpoints
  train.keep_last = num_checkpoints
