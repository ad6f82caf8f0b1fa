"""Two recipes for what the paper leaves to future work.

  ddit train --config=configs/future_work.py:text_beside \\
    --workdir=runs/text_beside --config.init_from=runs/stage1
  ddit train --config=configs/future_work.py:long_prompts \\
    --workdir=runs/long_prompts --config.init_from=runs/text_beside

The paper's model "has never been trained on text-only generation": a text-only
target "does not influence its captioning performance significantly" in its
preliminary experiments, and modelling the marginal distribution of each
modality is named as a direction (section 4.1). And its "performance
deteriorates with longer prompts, primarily due to the bias towards short
prompts in the LLaVA finetuning dataset" (its limitations).

Each variant is a stage of configs/ddit_sd3.py; the mixture of its texts turns
the recipe on, and may do so at a later step, or off again. Weights and lengths
are ours, and nothing is known of their effect: none has been run at full size.

Hardware: as the stage's (docs/scale.md). A row without an image costs as much
as one with; prompts of 256 tokens cost T5 and the network in long_prompts more
than the 128 of stage 3.

Variants:
  text_beside (default): stage 2, whose texts are documents without an image in
    one of five, beside captions.
  long_prompts: stage 3 with 256 tokens; half of LLaVA's conversations have
    earlier turns in the prompt.
  Each also with _dry appended (text_beside_dry, ...): the same graph at toy
  size on generated data; dry is text_beside_dry.
"""

import pathlib

from ddit_jax.config.dry_run import chosen_variant, dry
from ddit_jax.config.load import config_module

_DDIT = pathlib.Path(__file__).parent / "ddit_sd3.py"


def get_config(variant: str = "text_beside"):
  """The complete config of a variant.

  Raises:
    ValueError: the variant is unknown.
  """
  variants = {
    "text_beside": ("stage2", _text_beside),
    "long_prompts": ("stage3", _long_prompts),
  }
  name, is_dry = chosen_variant(
    "configs/future_work.py", variant, variants, default="text_beside"
  )
  stage, change = variants[name]
  config = config_module(_DDIT).get_config(stage)
  config.name = f"future_work:{name}"
  change(config.data)
  return dry(config) if is_dry else config


def _text_beside(data) -> None:
  data.sources["openwebtext"] = {
    "kind": "plain_text",
    "path": "data/openwebtext/*.parquet",
    "is_packed": True,
  }
  captioned = dict(data.image_to_text.mixture["0"])
  data.image_to_text.mixture = {
    "0": {**captioned, "openwebtext": sum(captioned.values()) / 4}
  }


def _long_prompts(data) -> None:
  data.sources["llava_history"] = {
    **data.sources["llava_mix"],
    # Some 150 tokens, which leave room for a question and its answer.
    "history_characters": 600,
  }
  asked = dict(data.image_to_text.mixture["0"])
  half = asked["llava_mix"] / 2
  data.image_to_text.mixture = {
    "0": {**asked, "llava_mix": half, "llava_history": half}
  }
  # A merged batch has texts of one length.
  for task in (data.text_to_image, data.image_to_text):
    task.text_length = 256
