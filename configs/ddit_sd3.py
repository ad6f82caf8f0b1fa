"""D-DiT from Stable Diffusion 3 medium: the paper's stages (Table 6).

  python tools/convert_sd3_weights.py path/to/sd3-medium weights/sd3
  ddit train --config=configs/ddit_sd3.py:all --workdir=runs/ddit

trains the four stages one after the other, each in its own folder of the
workdir; the same command resumes. Change a key of one stage with
--config.stages.stage2.train.num_steps=1000, of all stages without the prefix;
--config.order=stage1,stage2 selects stages. One stage alone:

  ddit train --config=configs/ddit_sd3.py:stage1 --workdir=runs/stage1
  ddit train --config=configs/ddit_sd3.py:stage2 --workdir=runs/stage2 \\
    --config.init_from=runs/stage1
  ddit train --config=configs/ddit_sd3.py:stage3 --workdir=runs/stage3 \\
    --config.init_from=runs/stage2

Replace the paths under `data.sources` with your own; docs/data.md lists the
formats. Each stage starts from the EMA of the previous one.

Hardware: a pod of 64 TPU chips or as many GPUs; docs/scale.md lists what a step
needs. The paper reached GenEval 0.65, zero-shot VQAv2 55.0 after stage 2, and
after stage 3 VQAv2 60.1, POPE 84.0, MME-P 1124.7 and CIDEr 56.2 at 512 pixels.

Variants:
  all: the four stages as one job.
  stage1: dual pretraining, 60,000 steps at 256 pixels and 64 tokens.
  stage2: continued, 200,000 steps at 256 pixels and 256 tokens.
  stage2_highres: optional, 80,000 steps at 512 pixels.
  stage3: instruction tuning, 50,000 steps at 512 pixels and 128 tokens.
  Each also with _dry appended (all_dry, stage1_dry, ...): the same graph at toy
  size on generated data, in a minute; dry is stage1_dry.
"""

from ddit_jax.config.dry_run import chosen_variant, dry
from ddit_jax.config.load import stages_config
from ddit_jax.experiment.config import default_config

_WEIGHTS = "weights/sd3"


def get_config(variant: str = "stage1"):
  """The complete config of a variant.

  Raises:
    ValueError: the variant is unknown.
  """
  stages = {
    "stage1": _stage1,
    "stage2": _stage2,
    "stage2_highres": _stage2_highres,
    "stage3": _stage3,
  }
  name, is_dry = chosen_variant(
    "configs/ddit_sd3.py", variant, ["all", *stages], default="stage1"
  )
  if name == "all":
    config = _all({stage: _stage(stage, stages) for stage in stages})
  else:
    config = _stage(name, stages)
  return dry(config) if is_dry else config


def _stage(name: str, stages):
  config = _common()
  config.name = f"ddit_sd3:{name}"
  stages[name](config)
  return config


def _all(stages):
  before = {
    "stage2": "stage1",
    "stage2_highres": "stage2",
    "stage3": "stage2_highres",
  }
  for name, earlier in before.items():
    stages[name].init_from = f"stage:{earlier}"
  return stages_config(stages)


def _common():
  """Common config of all stages (paper section 4.1 and the release)."""
  config = default_config()
  config.model.size = "sd3_medium"
  config.model.encoders_from = _WEIGHTS
  config.model.execution.dtype = "bfloat16"
  config.model.execution.remat = "chip"
  config.loss.flow_matching.loss_weighting = "velocity"
  config.loss.loss_normalization = "all_positions"
  # A quarter of stage 2's texts: float32 logits of 64 positions at a time.
  config.loss.text_chunk = 64
  # One gather of the weights for both tasks, whose shapes are equal.
  config.loss.is_merged = True
  config.optimizer.decay = "constant"
  config.optimizer.clip_norm = 2.0
  config.optimizer.ema_decay = 0.9999
  config.data.validation_size = 512
  config.data.text_to_image.crop = "random"
  config.train.log_every = 50
  config.train.task_norms_every = 500
  config.train.validate_every = 2000
  config.train.checkpoint_every = 2000
  return config


def _tasks(config, *, batch_size, image_size, text_length):
  for task in (config.data.text_to_image, config.data.image_to_text):
    task.batch_size = batch_size
    task.image_size = image_size
    task.text_length = text_length


def _stage1(config):
  config.init_from = _WEIGHTS
  config.data.sources = {
    "datacomp": {"kind": "webdataset", "path": "data/recap_datacomp/*.tar"}
  }
  _tasks(config, batch_size=512, image_size=256, text_length=64)
  config.data.text_to_image.mixture = {"0": {"datacomp": 1.0}}
  config.data.image_to_text.mixture = {"0": {"datacomp": 1.0}}
  config.loss.text_weight = 0.2
  config.optimizer.learning_rate = 5e-5
  config.optimizer.warmup_steps = 5000
  config.train.num_steps = 60_000


def _stage2(config):
  config.init_from = "runs/stage1"
  config.data.sources = _captioned()
  _tasks(config, batch_size=512, image_size=256, text_length=256)
  captioned = {"0": {"sharegpt4v": 1.3, "openimages": 1.9}}
  config.data.text_to_image.mixture = captioned
  config.data.image_to_text.mixture = captioned
  # The mask embedding is trained throughout. The paper notes that it hardly
  # changes after 100,000 steps, so mask_embedding_steps may be that.
  config.model.has_mask_embedding = True
  config.train.mask_embedding_steps = -1
  config.loss.text_weight = 0.2
  config.optimizer.learning_rate = 3e-5
  config.optimizer.warmup_steps = 1000
  config.train.num_steps = 200_000


def _stage2_highres(config):
  _stage2(config)
  config.init_from = "runs/stage2"
  config.data.sources = _captioned() | {
    "laion": {"kind": "webdataset", "path": "data/laion_1024/*.tar"},
    "midjourney": {"kind": "webdataset", "path": "data/midjourney/*.tar"},
  }
  _tasks(config, batch_size=768, image_size=512, text_length=256)
  config.data.text_to_image.mixture = {"0": {"laion": 9.0, "midjourney": 1.0}}
  config.data.validation_size = 768
  config.train.mask_embedding_steps = 0
  config.train.num_steps = 80_000


def _stage3(config):
  config.init_from = "runs/stage2"
  llava, vqa = "data/llava", "data/vqa"
  config.data.sources = {
    "laion_aesthetic": {
      "kind": "webdataset",
      "path": "data/laion_aesthetic/*.tar",
    },
    "llava_pretrain": {
      "kind": "llava",
      "path": f"{llava}/blip_laion_cc_sbu_558k.json",
      "images": f"{llava}/pretrain_images",
    },
    "llava_mix": {
      "kind": "llava",
      "path": f"{llava}/llava_v1_5_mix665k.json",
      "images": llava,
      "turns": "all",
    },
    "textvqa": {
      "kind": "textvqa",
      "path": f"{vqa}/TextVQA_0.5.1_train.json",
      "images": f"{vqa}/textvqa_images",
    },
    "vizwiz": {
      "kind": "vizwiz",
      "path": f"{vqa}/vizwiz_train.json",
      "images": f"{vqa}/vizwiz_images",
    },
  }
  _tasks(config, batch_size=512, image_size=512, text_length=128)
  # That of stage 2, frozen.
  config.model.has_mask_embedding = True
  config.train.mask_embedding_steps = 0
  config.data.text_to_image.mixture = {"0": {"laion_aesthetic": 1.0}}
  # In proportion to their numbers of images or questions, in thousands.
  config.data.image_to_text.mixture = {
    "0": {
      "llava_pretrain": 558.0,
      "llava_mix": 665.0,
      "textvqa": 35.0,
      "vizwiz": 21.0,
    }
  }
  config.loss.text_weight = 1.0
  config.optimizer.learning_rate = 3e-5
  config.optimizer.warmup_steps = 1000
  config.train.num_steps = 50_000


def _captioned():
  return {
    "sharegpt4v": {
      "kind": "image_folder",
      "path": "data/sharegpt4v/pretrain.json",
      "images": "data/sharegpt4v",
    },
    "openimages": {
      "kind": "image_folder",
      "path": "data/openimages/recaptioned.json",
      "images": "data/openimages",
    },
  }
