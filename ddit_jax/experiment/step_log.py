"""The scalars of a run's steps: losses, speeds and model FLOPs."""

from collections.abc import Callable, Mapping

import jax
from tqdm import tqdm

from ddit_jax.batch import DualBatch
from ddit_jax.data.config import TaskConfig
from ddit_jax.experiment.captioner import CaptionerModel
from ddit_jax.experiment.config import Config
from ddit_jax.experiment.model import DualModel
from ddit_jax.experiment.step_flops import training_flops
from ddit_jax.monitor.metric_writer import MetricWriter
from ddit_jax.train.hooks import StepLog


def step_log(
  config: Config,
  model: DualModel | CaptionerModel,
  batch: DualBatch,
  writer: MetricWriter,
  bar: tqdm,
  *,
  num_devices: int,
  reader_counts: Callable[[], Mapping[str, int]],
) -> StepLog:
  """The hook that logs a run's steps.

  Args:
    config: of the run.
    model: the network and the frozen parts around it.
    batch: the validation batch, which has a training batch's shapes except
      for the rows.
    writer: receives the scalars.
    bar: shows the losses.
    num_devices: devices of the whole job.
    reader_counts: statistics of reading the data, as scalars.
  """
  tasks = config.data.tasks()
  has_row = config.model.has_mask_embedding and not config.lora.rank
  shapes = DualBatch(
    text_to_image=_with_rows(batch.text_to_image, tasks["text_to_image"]),
    image_to_text=_with_rows(batch.image_to_text, tasks["image_to_text"]),
  )
  flops = {
    # Rollouts and their rows are not counted, so nothing is said of them.
    is_trained: {}
    if config.post_training.parts
    else training_flops(
      model,
      shapes,
      is_mask_embedding_trained=has_row and is_trained,
      is_network_frozen=bool(config.lora.rank),
    )
    for is_trained in (True, False)
  }
  return StepLog(
    writer,
    bar,
    schedule=config.optimizer.schedule(config.train.num_steps),
    images_per_step=sum(t.batch_size for t in tasks.values()),
    tokens_per_step=sum(t.batch_size * t.text_length for t in tasks.values()),
    step_flops=lambda step: flops[config.train.trains_mask_embedding(step)],
    num_devices=num_devices,
    reader_counts=reader_counts,
  )


def _with_rows(batch, task: TaskConfig):
  return jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(
      (task.batch_size, *leaf.shape[1:]), leaf.dtype
    ),
    batch,
  )
