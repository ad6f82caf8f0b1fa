"""Any config at toy size on generated data: the same graph in a minute."""

from collections.abc import Iterable

from ml_collections import ConfigDict

from ddit_jax.data.sources.registry import generated_spec

# The `model.encoders_from` that needs no file.
TOY_WEIGHTS = "toy"
_SUFFIX = "dry"
_NUM_STEPS = 4
_BATCH_SIZE, _IMAGE_SIZE, _TEXT_LENGTH = 8, 32, 12
_TOY_SIZES = {
  "sd3_medium": "toy_sd3",
  "end_to_end": "toy_end_to_end",
  "of_encoders": "toy_sd3",
}
# The tokenizer that is built from the words of the sources.
_WORDS = "words"


def chosen_variant(
  file: str, variant: str, known: Iterable[str], *, default: str
) -> tuple[str, bool]:
  """Splits "NAME_dry" into the name of a variant and whether it is a dry run.

  Args:
    file: the config file, for the message.
    variant: NAME or NAME_dry; "dry" is the dry run of the default.
    known: names of the variants.
    default: one of them.

  Raises:
    ValueError: the variant is unknown.
  """
  is_dry = variant == _SUFFIX or variant.endswith(f"_{_SUFFIX}")
  name = variant
  if is_dry:
    name = variant.removesuffix(_SUFFIX).removesuffix("_") or default
  known = list(known)
  if name not in known:
    raise ValueError(
      f"{file} has no variant {variant!r}; it has {', '.join(known)}, and each "
      f"with _{_SUFFIX}"
    )
  return name, is_dry


def dry(config: ConfigDict) -> ConfigDict:
  """Shrinks a config in place: toy network, toy encoders, four steps.

  What determines the graph is kept: which tasks are on, losses, optimizer,
  precision, rematerialisation, the trained mask embedding. More than two
  micro-batches become two. Adapters are turned off, as they need a network to
  start from. In a job of several stages each stage is shrunk. The batch size of
  8 works on 1, 2, 4 and 8 devices.
  """
  if "stages" in config:
    for stage in config.stages.values():
      dry(stage)
    return config
  config.name = f"{config.name}:{_SUFFIX}"
  _shrink_model(config)
  _shrink_data(config.data, has_encoders=bool(config.model.encoders_from))
  _shrink_runs(config)
  return config


def _shrink_model(config: ConfigDict) -> None:
  model = config.model
  if model.size in _TOY_SIZES:
    model.size = _TOY_SIZES[model.size]
    for shape in ("depth", "width", "num_heads", "patch_size", "max_grid"):
      model[shape] = 0
  if model.encoders_from:
    model.encoders_from = TOY_WEIGHTS
  config.lora.rank = 0
  captioner = config.captioner
  captioner.features_from = captioner.decoder_from = ""
  captioner.layer = 1
  captioner.clip, captioner.decoder = "toy", "tiny"
  if not config.init_from.startswith("stage:"):
    config.init_from = ""
  for axis in ("replica", "context", "tensor"):
    config.mesh[axis] = 1
  config.mesh.fsdp = -1


def _shrink_data(data: ConfigDict, *, has_encoders: bool) -> None:
  data.pool_size = 64
  data.validation_size = _BATCH_SIZE
  kinds = {name: spec["kind"] for name, spec in data.sources.items()}
  if data.tokenizer != _WORDS:
    data.tokenizer = "" if has_encoders or not kinds else _WORDS
  data.sources = {name: generated_spec(kind) for name, kind in kinds.items()}
  data.validation_sources = {}
  data.max_bad_share = 0.5
  for task in (data.text_to_image, data.image_to_text):
    if task.batch_size:
      task.batch_size = _BATCH_SIZE
    if kinds:
      task.image_size = min(task.image_size, _IMAGE_SIZE)
      task.bucket_step = min(task.bucket_step, task.image_size)
      task.text_length = _TEXT_LENGTH
    task.pool_size = 0
    if "cache" in task:
      task.cache = ""


def _shrink_runs(config: ConfigDict) -> None:
  config.optimizer.warmup_steps = 2
  train = config.train
  train.num_steps = _NUM_STEPS
  train.num_microbatches = min(train.num_microbatches, 2)
  train.log_every = 1
  for every in ("validate_every", "checkpoint_every"):
    train[every] = 2
  train.sample_grid_size = min(train.sample_grid_size, 2)
  if train.mask_embedding_steps > 0:
    train.mask_embedding_steps = _NUM_STEPS // 2
  config.sample.image.num_inference_steps = 2
  config.sample.text.num_steps = 2
  config.sample.batch_size = _BATCH_SIZE
  images = config.post_training.text_to_image
  images.sampling.num_inference_steps = 2
  texts = config.post_training.image_to_text
  texts.sampling.num_steps = 2
  images.group_size = texts.group_size = texts.num_passes = 2
  evaluate = config.evaluate
  evaluate.images_per_prompt = 1
  evaluate.num_captions = _BATCH_SIZE
  evaluate.questions_per_kind = 4
  evaluate.num_pope_images = 4
