"""The scalars of a training step: losses, norms, speed, memory."""

import time

import jax

from ddit_jax.losses.buckets import without_empty
from ddit_jax.monitor.metric_writer import MetricWriter
from ddit_jax.monitor.peak_flops import peak_flops
from ddit_jax.monitor.progress import ProgressBar
from ddit_jax.monitor.utilisation import memory_scalars, speed_scalars
from ddit_jax.train.loop import Progress
from ddit_jax.train.optimizer import learning_rate


class StepLog:
  """Writes a step's scalars and moves the progress bar."""

  def __init__(
    self, job, writer: MetricWriter, bar: ProgressBar, feed, start: int
  ):
    self._writer, self._bar, self._feed = writer, bar, feed
    settings = job.settings
    self._schedule = learning_rate(settings.optimizer, settings.train.num_steps)
    streams = settings.data.streams_on().values()
    self._images = sum(stream.batch_size for stream in streams)
    self._tokens = sum(s.batch_size * s.text_length for s in streams)
    self._data = job.data
    self._last = (start, time.monotonic(), 0.0)
    self._mesh, self._num_flops = job.mesh, job.step_flops
    self._peak = peak_flops(jax.local_devices()[0].device_kind)

  def __call__(self, progress: Progress) -> None:
    scalars = without_empty({k: float(x) for k, x in progress.metrics.items()})
    step, now, waited = progress.step, time.monotonic(), self._feed.wait_seconds
    last_step, last_time, last_waited = self._last
    self._last = (step, now, waited)
    speed = (step - last_step) / max(now - last_time, 1e-9)
    # The optimiser does not count what was left out.
    num_updates = step - 1 - int(scalars["num_skipped"])
    scalars["learning_rate"] = float(self._schedule(num_updates))
    scalars["speed/steps_per_second"] = speed
    scalars["speed/images_per_second"] = speed * self._images
    scalars["speed/tokens_per_second"] = speed * self._tokens
    scalars["speed/data_wait_seconds"] = waited - last_waited
    scalars |= speed_scalars(
      speed,
      self._num_flops(step),
      num_devices=self._mesh.size,
      peak=self._peak,
    )
    scalars |= memory_scalars(jax.local_devices())
    scalars |= self._data.counts()
    self._writer.write_scalars(step, scalars)
    self._bar.update(step, scalars)
