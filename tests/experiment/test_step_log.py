"""The scalars of a run's steps, from its config and a fake clock."""

import jax
import jax.numpy as jnp
import pytest

from ddit_jax.batch import DualBatch, ImageToTextBatch, TextToImageBatch
from ddit_jax.data.tokenizers import word_tokenizer
from ddit_jax.digits import grammar
from ddit_jax.experiment.step_flops import training_flops
from ddit_jax.experiment.step_log import step_log
from ddit_jax.train import hooks
from ddit_jax.train.loop import Progress
from tests import tiny_run


class Writer:
  def __init__(self):
    self.written = []

  def write_scalars(self, step, scalars):
    self.written.append((step, scalars))


class Bar:
  n = 0

  def set_postfix(self, shown, *, refresh):
    self.shown = shown

  def update(self, count):
    self.n += count


def rows_of(count, length, side=16):
  images = jax.ShapeDtypeStruct((count, side, side, 3), jnp.uint8)
  tokens = jax.ShapeDtypeStruct((count, length), jnp.int32)
  mask = jax.ShapeDtypeStruct((count, length), bool)
  return TextToImageBatch(images, tokens), ImageToTextBatch(
    images, tokens, mask
  )


@pytest.fixture
def now(monkeypatch):
  now = [100.0]
  monkeypatch.setattr(hooks.time, "monotonic", lambda: now[0])
  return now


def test_a_lines_scalars_are_those_of_the_whole_job(now):
  config = tiny_run.settings(
    data__image_to_text__batch_size="4", train__num_steps="100"
  )
  model = config.make_model(word_tokenizer(grammar.words()))
  tasks = config.data.tasks()
  lengths = [tasks[n].text_length for n in ("text_to_image", "image_to_text")]
  # The validation batch has rows of its own.
  validation = DualBatch(rows_of(2, lengths[0])[0], rows_of(2, lengths[1])[1])
  training = DualBatch(rows_of(8, lengths[0])[0], rows_of(4, lengths[1])[1])
  writer, bar = Writer(), Bar()
  log = step_log(
    *(config, model, validation, writer, bar),
    num_devices=4,
    reader_counts=lambda: {"data/bad_records": 3},
  )
  log.restart(10)
  now[0] += 5.0
  metrics = {
    "loss/total": jnp.float32(2.5),
    "loss/image": jnp.float32(1.0),
    "num_skipped": jnp.int32(6),
  }
  progress = Progress(
    step=20,
    state=None,
    metrics=metrics,
    data_position={},
    data_wait_seconds=1.5,
    is_last=False,
  )
  log(progress)
  [(step, scalars)] = writer.written
  assert step == 20 and bar.n == 20
  assert bar.shown == {"loss": 2.5, "image": 1.0}
  # Ten steps in five seconds.
  assert scalars["speed/steps_per_second"] == 2.0
  assert scalars["speed/images_per_second"] == 2 * (8 + 4)
  tokens = 8 * lengths[0] + 4 * lengths[1]
  assert scalars["speed/tokens_per_second"] == 2 * tokens
  assert scalars["speed/data_wait_seconds"] == 1.5
  assert scalars["data/bad_records"] == 3
  flops = training_flops(model, training)
  assert scalars["speed/model_tflops_per_second"] == pytest.approx(
    2 * sum(flops.values()) / 1e12
  )
  # Of 20 steps 6 were skipped; the warm-up takes two.
  rate = config.optimizer.schedule(100)(13)
  assert scalars["learning_rate"] == pytest.approx(float(rate))
