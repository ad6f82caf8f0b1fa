"""The End-to-End variant (Table 9): 1.1 B parameters, GPT-2's ids, no T5.

  ddit train --config=configs/end_to_end.py --workdir=runs/end_to_end \\
    --config.data.tokenizer=gpt2:path/to/gpt2 \\
    --config.model.encoders_from=weights/sd3

The paper gives the number of parameters and the tokenizer. Depth 20, width 1152
and the mask id 50257 (appended to GPT-2's ids) are ours, see
`ddit_jax.models.config`. Of the converted weights only the autoencoder is used.

  ddit train --config=configs/end_to_end.py:all --workdir=runs/end_to_end ...

trains the three phases one after the other. The paper reached GenEval 0.39,
COCO FID 18.1 and zero-shot VQAv2 54.3.

Hardware: a pod, as for configs/ddit_sd3.py; the network has half as many
parameters. It has not been run at full size.

Variants:
  text: OpenWebText alone on the null image, for the paper's 350 B tokens:
    333,786 steps of 4,096 texts of 256 tokens.
  joint (default): 400,000 joint steps on DataComp.
  joint_filtered: 100,000 more on a filtered subset.
  all: the three as one job.
  Each also with _dry appended: the same graph at toy size on generated data.
"""

from ddit_jax.config.dry_run import chosen_variant, dry
from ddit_jax.config.load import stages_config
from ddit_jax.experiment.config import default_config

_TOKENS = 350_000_000_000
_TEXT_BATCH, _TEXT_LENGTH = 4096, 256


def get_config(variant: str = "joint"):
  """The complete config of a variant.

  Raises:
    ValueError: the variant is unknown.
  """
  phases = {"text": _text, "joint": _joint, "joint_filtered": _joint_filtered}
  name, is_dry = chosen_variant(
    "configs/end_to_end.py", variant, ["all", *phases], default="joint"
  )
  if name == "all":
    config = stages_config({one: _phase(one, phases) for one in phases})
    config.stages.joint.init_from = "stage:text"
    config.stages.joint_filtered.init_from = "stage:joint"
  else:
    config = _phase(name, phases)
  return dry(config) if is_dry else config


def _phase(name: str, phases):
  config = default_config()
  config.name = f"end_to_end:{name}"
  config.model.size = "end_to_end"
  config.model.encoders_from = "weights/sd3"
  config.model.execution.dtype = "bfloat16"
  config.model.execution.remat = "full"
  config.data.tokenizer = "gpt2:path/to/gpt2"
  config.data.validation_size = 512
  for task in (config.data.text_to_image, config.data.image_to_text):
    task.image_size = 256
    task.text_length = _TEXT_LENGTH
  config.loss.text_weight = 0.2
  config.loss.text_chunk = 64
  config.train.log_every = 50
  config.train.task_norms_every = 500
  config.train.validate_every = 2000
  config.train.checkpoint_every = 2000
  phases[name](config)
  return config


def _text(config):
  config.data.sources = {
    "openwebtext": {
      "kind": "plain_text",
      "path": "data/openwebtext/*.parquet",
      "is_packed": True,
    }
  }
  config.data.text_to_image.batch_size = 0
  config.data.image_to_text.batch_size = _TEXT_BATCH
  config.data.image_to_text.mixture = {"0": {"openwebtext": 1.0}}
  config.optimizer.learning_rate = 3e-4
  config.loss.text_weight = 1.0
  config.train.num_steps = _TOKENS // (_TEXT_BATCH * _TEXT_LENGTH)


def _joint(config):
  _on_datacomp(config, "data/recap_datacomp/*.tar")
  config.init_from = "runs/text"
  config.train.num_steps = 400_000


def _joint_filtered(config):
  _on_datacomp(config, "data/recap_datacomp_filtered/*.tar")
  config.init_from = "runs/joint"
  config.train.num_steps = 100_000


def _on_datacomp(config, path: str) -> None:
  config.data.sources = {"datacomp": {"kind": "webdataset", "path": path}}
  for task in (config.data.text_to_image, config.data.image_to_text):
    task.batch_size = 512
    task.mixture = {"0": {"datacomp": 1.0}}
