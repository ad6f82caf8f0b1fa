"""Plain fine-tuning of Stable Diffusion 3: the image loss alone.

  python tools/convert_sd3_weights.py path/to/sd3-medium weights/sd3
  ddit train --config=configs/sd3_baseline.py --workdir=runs/sd3_baseline

The baseline of configs/ddit_sd3.py's stages: the same network, weights, images,
captions, batches and learning rate without the text loss. Differences in image
quality are then due to the dual loss and not to the data. The paper only
compares with SD3 as released (GenEval 0.62 at 512 pixels, COCO FID 10.2,
MJHQ-30K FID 16.45; D-DiT 0.65, 9.4 and 15.16). For SD3 as released, with both
CLIP encoders, see docs/sd3_baseline.md.

Hardware: as the stages of configs/ddit_sd3.py, with half the FLOPs: on 64 chips
of v5e a step of stage1 takes at least 0.09 s, half of the 0.18 s in
docs/scale.md. An estimate: it has not been run at full size.

Variants:
  stage1 (default): 60,000 steps at 256 pixels and 64 tokens.
  stage2: 200,000 steps at 256 pixels and 256 tokens.
  stage2_highres: 80,000 steps at 512 pixels.
  Each also with _dry appended (stage1_dry, ...): the same graph at toy size on
  generated data; dry is stage1_dry.
"""

import pathlib

from ddit_jax.config.dry_run import chosen_variant, dry
from ddit_jax.config.load import config_module

_DDIT = pathlib.Path(__file__).parent / "ddit_sd3.py"
_BEFORE = {
  "stage1": "weights/sd3",
  "stage2": "runs/sd3_baseline",
  "stage2_highres": "runs/sd3_baseline_stage2",
}


def get_config(variant: str = "stage1"):
  """The complete config of a variant.

  Raises:
    ValueError: the variant is unknown.
  """
  name, is_dry = chosen_variant(
    "configs/sd3_baseline.py", variant, _BEFORE, default="stage1"
  )
  config = config_module(_DDIT).get_config(name)
  config.name = f"sd3_baseline:{name}"
  config.init_from = _BEFORE[name]
  data = config.data
  data.image_to_text.batch_size = 0
  data.image_to_text.mixture = {}
  # Of the sources of stage2_highres, only those of the image loss.
  used = data.text_to_image.mixture["0"]
  data.sources = {source: data.sources[source] for source in used}
  # The mask embedding belongs to the text loss.
  config.model.has_mask_embedding = False
  config.train.mask_embedding_steps = -1
  return dry(config) if is_dry else config
