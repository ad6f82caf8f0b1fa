"""The paper's ablations, and choices where paper and release differ.

  ddit train --config=configs/ablations.py:generation_7m \\
    --workdir=runs/generation_7m --config.init_from=runs/stage2

Each variant is a stage of configs/ddit_sd3.py with one change, with that
stage's sources and initial weights. The paper specifies neither the 7 M and
20 M images of its Table 10 nor the resolution: replace the sources below with
your own; the resolution is that of stage 3.

Hardware: as the stage's (docs/scale.md: stage 1 takes at least 0.18 s a step on
64 chips of v5e). In FLOPs, a step of generation_7m and generation_20m is a
quarter of stage 3's, of generation_0 an eighth, of text_only less than half of
stage 1's. These are estimates: none has been run at full size.

Variants:
  steps_4, steps_8, steps_16, steps_32, steps_64, steps_128: stage 3 sampled in
    that many steps (Table 5: VQAv2 58.8, 58.0, 59.3, 60.5, 60.0, 59.6; CIDEr
    20.2, 35.3, 46.5, 51.3, 56.2, 54.5). Training is the same for all: train
    one, and pass each `sample` section to `Pipeline.answer` and
    `Pipeline.caption`.
  generation_0, generation_7m, generation_20m: tuning on LLaVA's 665 K and
    this many images for the image loss, batch size 128 (Table 10 at 50,000
    steps: VQAv2 58.3, 58.1, 58.3; POPE 81.8, 82.4, 82.5). The checkpoints at
    10,000, 30,000 and 50,000 steps, which the paper evaluates, are kept.
  weighting_velocity, weighting_sigma_squared: stage 1's image loss as in the
    paper, and as in the release.
  divisor_all_positions, divisor_target_positions: stage 3's text loss divided
    by all positions as in the release, or by the target positions.
  text_only: stage 1's text loss on texts without images, with the null image;
    the image loss is off.
  Each also with _dry appended (text_only_dry, ...): the same graph at toy size
  on generated data; dry is generation_7m_dry, the default's.
"""

import functools
import pathlib

from ddit_jax.config.dry_run import chosen_variant, dry
from ddit_jax.config.load import config_module

_DDIT = pathlib.Path(__file__).parent / "ddit_sd3.py"
# The 20 M images are these 7 M and another 13 M.
_GENERATION = {
  "generation_7m": {
    "kind": "webdataset",
    "path": "data/generation_7m/*.tar",
  },
  "generation_13m": {
    "kind": "webdataset",
    "path": "data/generation_13m/*.tar",
  },
}


def get_config(variant: str = "generation_7m"):
  """The complete config of a variant.

  Raises:
    ValueError: the variant is unknown.
  """
  variants = _variants()
  name, is_dry = chosen_variant(
    "configs/ablations.py", variant, variants, default="generation_7m"
  )
  stage, change = variants[name]
  config = config_module(_DDIT).get_config(stage)
  config.name = f"ablations:{name}"
  change(config)
  return dry(config) if is_dry else config


def _variants():
  """name -> (its stage of ddit_sd3, the change of the config)."""
  amounts = {
    "generation_0": {},
    "generation_7m": {"generation_7m": 1.0},
    "generation_20m": {"generation_7m": 7.0, "generation_13m": 13.0},
  }
  return {
    **{
      f"steps_{steps}": ("stage3", _set("sample.text.num_steps", steps))
      for steps in (4, 8, 16, 32, 64, 128)
    },
    **{
      name: ("stage3", functools.partial(_generation, mixture=mixture))
      for name, mixture in amounts.items()
    },
    **{
      f"weighting_{kind}": (
        "stage1",
        _set("loss.flow_matching.loss_weighting", kind),
      )
      for kind in ("velocity", "sigma_squared")
    },
    **{
      f"divisor_{kind}": ("stage3", _set("loss.loss_normalization", kind))
      for kind in ("all_positions", "target_positions")
    },
    "text_only": ("stage1", _text_only),
  }


def _set(key: str, value):
  return lambda config: config.update_from_flattened_dict({key: value})


def _generation(config, mixture: dict[str, float]) -> None:
  """The paper's Table 10: the amount of generation data."""
  data = config.data
  llava = data.sources["llava_mix"]
  data.sources = {
    "llava_mix": llava,
    **{name: _GENERATION[name] for name in mixture},
  }
  data.image_to_text.mixture = {"0": {"llava_mix": 1.0}}
  data.image_to_text.batch_size = 128
  data.text_to_image.batch_size = 128 if mixture else 0
  data.text_to_image.mixture = {"0": mixture} if mixture else {}
  data.validation_size = 128
  config.train.validate_every = 10_000
  config.train.checkpoint_every = 10_000
  config.train.keep_last = 5


def _text_only(config) -> None:
  data = config.data
  data.sources = {
    "openwebtext": {
      "kind": "plain_text",
      "path": "data/openwebtext/*.parquet",
      "is_packed": True,
    }
  }
  data.text_to_image.batch_size = 0
  data.text_to_image.mixture = {}
  data.image_to_text.mixture = {"0": {"openwebtext": 1.0}}
