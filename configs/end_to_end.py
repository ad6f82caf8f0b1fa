"""The End-to-End variant (Table 9): 1.1 B parameters, GPT-2's ids, no T5.

  ddit train --config=configs/end_to_end.py --workdir=runs/end_to_end \\
    --config.data.tokenizer=gpt2:path/to/gpt2 \\
    --config.model.encoders_from=weights/sd3

The paper gives the number of parameters and the tokenizer. Depth 20, width 1152
and the mask id 50257 (appended to GPT-2's ids) are ours, see
`ddit_jax.models.sizes`. Of the converted weights only the autoencoder is used.

Variants:
  joint (default): 400,000 joint steps on DataComp.
  joint_filtered: 100,000 more on a filtered subset.
The paper's first phase, text alone on the null image, is not here yet.
"""

from ddit_jax.config_files import default_config


def get_config(variant: str = "joint"):
  """The complete config of a variant.

  Raises:
    ValueError: no such variant.
  """
  steps = {"joint": 400_000, "joint_filtered": 100_000}
  if variant not in steps:
    raise ValueError(
      f"configs/end_to_end.py has no variant {variant!r}; it has "
      f"{', '.join(steps)}"
    )
  config = default_config()
  config.name = f"end_to_end:{variant}"
  config.model.size = "end_to_end"
  config.model.encoders_from = "weights/sd3"
  config.model.dtype = "bfloat16"
  config.model.remat = "full"
  config.data.tokenizer = "gpt2:path/to/gpt2"
  config.data.validation_size = 512
  shards = {
    "joint": "data/recap_datacomp/*.tar",
    "joint_filtered": "data/recap_datacomp_filtered/*.tar",
  }
  config.data.sources = {
    "datacomp": {"kind": "webdataset", "path": shards[variant]}
  }
  for stream in (config.data.text_to_image, config.data.image_to_text):
    stream.batch_size = 512
    stream.image_size = 256
    stream.text_length = 256
    stream.mixture = {"0": {"datacomp": 1.0}}
  if variant == "joint_filtered":
    config.init_from = "runs/end_to_end"
  config.loss.text_weight = 0.2
  config.train.num_steps = steps[variant]
  config.train.log_every = 50
  config.train.validate_every = 2000
  config.train.checkpoint_every = 2000
  return config
