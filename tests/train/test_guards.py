"""What watches the losses: skipped batches, spikes, and when they are read."""

import math

import pytest

from ddit_jax.train.hooks import LossGuard, LossSpike
from ddit_jax.train.loop import Progress


def progress(step, loss=1.0, num_in_row=0, *, is_last=False) -> Progress:
  metrics = {
    "loss/total": loss,
    "grad_norm": 2.0,
    "num_skipped_in_row": num_in_row,
    "speed": 3.0,
  }
  return Progress(step, None, metrics, {"stream": {"next": step}}, is_last)


def fed(losses, *, spike_factor=0.0):
  guard = LossGuard([].append, spike_factor=spike_factor)
  for step, loss in enumerate(losses, start=1):
    guard(progress(step, loss))
  guard.catch_up()
  return guard


def test_a_step_is_read_when_two_more_were_started():
  skipped = []
  guard = LossGuard(skipped.append, spike_factor=0.0)
  guard(progress(1, math.nan, 1))
  guard(progress(2, math.inf, 2))
  assert skipped == []
  guard(progress(3))
  assert [batch.step for batch in skipped] == [1]
  guard(progress(4, is_last=True))
  assert [batch.step for batch in skipped] == [1, 2]


def test_a_skipped_batch_comes_with_its_losses_and_place():
  skipped = []
  guard = LossGuard(skipped.append, spike_factor=0.0)
  guard(progress(7, math.nan, 3, is_last=True))
  (batch,) = skipped
  assert (batch.step, batch.num_in_row) == (7, 3)
  assert batch.losses.keys() == {"loss/total", "grad_norm"}
  assert math.isnan(batch.losses["loss/total"])
  assert batch.data_position == {"stream": {"next": 7}}


def test_a_loss_above_the_factor_times_the_median_is_a_spike():
  calm = [1.0 + 0.1 * (i % 3) for i in range(30)]
  fed([*calm, 2.1], spike_factor=2.0)
  with pytest.raises(
    LossSpike, match=r"step 31 is 2\.3, its recent median 1\.1"
  ):
    fed([*calm, 2.3], spike_factor=2.0)
  fed([*calm, 1e9])


def test_no_spike_is_seen_before_there_is_a_history():
  fed([1.0] * 19 + [1e9], spike_factor=2.0)
  with pytest.raises(LossSpike):
    fed([1.0] * 20 + [1e9], spike_factor=2.0)


def test_skipped_batches_are_no_part_of_the_median():
  skipped = []
  guard = LossGuard(skipped.append, spike_factor=2.0)
  for step in range(1, 21):
    guard(progress(step))
  for step in range(21, 60):
    guard(progress(step, math.nan, step - 20))
  guard(progress(60, 1.9))
  guard(progress(61, 2.1))
  with pytest.raises(LossSpike):
    guard.catch_up()
  assert len(skipped) == 39
