"""The loss guard: skipped batches, spikes, and when losses are read."""

import json
import math

import pytest

from ddit_jax.errors import InputError
from ddit_jax.train.hooks import LossGuard, LossSpike, TooManySkipped
from ddit_jax.train.loop import Progress


def progress(step, loss=1.0, num_in_row=0, *, is_last=False) -> Progress:
  metrics = {
    "loss/total": loss,
    "grad_norm": 2.0,
    "num_skipped_in_row": num_in_row,
    "speed": 3.0,
  }
  return Progress(
    step=step,
    state=None,
    metrics=metrics,
    data_position={"stream": {"next": step}},
    data_wait_seconds=0.0,
    is_last=is_last,
  )


@pytest.fixture
def make_guard(tmp_path):
  def make(*, spike_factor=0.0, max_skipped_in_row=100, max_rollbacks=1):
    return LossGuard(
      tmp_path,
      lambda position: {"stream": [f"record {position['stream']['next']}"]},
      max_skipped_in_row=max_skipped_in_row,
      spike_factor=spike_factor,
      max_rollbacks=max_rollbacks,
    )

  return make


@pytest.fixture
def incidents(tmp_path):
  """Reads what the guard listed."""

  def read():
    path = tmp_path / "incidents.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]

  return read


def feed(guard, losses):
  for step, loss in enumerate(losses, start=1):
    guard(progress(step, loss))
  guard.catch_up()


def test_a_step_is_read_when_two_more_were_started(make_guard, incidents):
  guard = make_guard()
  guard(progress(1, math.nan, 1))
  guard(progress(2, math.inf, 2))
  assert incidents() == []
  guard(progress(3))
  assert [event["step"] for event in incidents()] == [1]
  guard(progress(4, is_last=True))
  assert [event["step"] for event in incidents()] == [1, 2]


def test_a_skipped_batch_is_listed_with_losses_and_records(
  make_guard, incidents
):
  make_guard()(progress(7, math.nan, 3, is_last=True))
  (event,) = incidents()
  assert (event["event"], event["step"]) == ("skipped_batch", 7)
  assert event["losses"] == {"loss/total": "nan", "grad_norm": "2.0"}
  assert event["records"] == {"stream": ["record 7"]}


def test_one_skipped_batch_too_many_stops(make_guard):
  guard = make_guard(max_skipped_in_row=1)
  guard(progress(1, math.nan, 1))
  guard(progress(2, math.nan, 2))
  with pytest.raises(TooManySkipped, match="2 batches in a row up to step 2"):
    guard.catch_up()


def test_a_rollback_is_listed_and_forgets_the_steps_it_undoes(
  make_guard, incidents
):
  guard = make_guard()
  guard(progress(6, math.nan, 1))
  guard.roll_back(LossSpike(5, 9.0, 1.0, {"stream": {"next": 5}}), 4)
  guard.catch_up()
  (event,) = incidents()
  assert (event["event"], event["step"], event["to_step"]) == ("rollback", 5, 4)
  assert event["records"] == {"stream": ["record 5"]}


def test_rollbacks_need_a_checkpoint_and_have_a_limit(make_guard):
  guard = make_guard()
  spike = LossSpike(5, 9.0, 1.0, {"stream": {"next": 5}})
  with pytest.raises(InputError, match="no checkpoint yet to roll back to"):
    guard.roll_back(spike, None)
  guard.roll_back(spike, 4)
  with pytest.raises(InputError, match=r"max_rollbacks = 1: .*checkpoints/4"):
    guard.roll_back(spike, 4)


def test_a_loss_above_the_factor_times_the_median_is_a_spike(make_guard):
  calm = [1.0 + 0.1 * (i % 3) for i in range(30)]
  feed(make_guard(spike_factor=2.0), [*calm, 2.1])
  with pytest.raises(
    LossSpike, match=r"step 31 is 2\.3, its recent median 1\.1"
  ):
    feed(make_guard(spike_factor=2.0), [*calm, 2.3])
  feed(make_guard(), [*calm, 1e9])


def test_no_spike_is_seen_before_there_is_a_history(make_guard):
  feed(make_guard(spike_factor=2.0), [1.0] * 19 + [1e9])
  with pytest.raises(LossSpike):
    feed(make_guard(spike_factor=2.0), [1.0] * 20 + [1e9])


def test_skipped_batches_are_no_part_of_the_median(make_guard, incidents):
  guard = make_guard(spike_factor=2.0)
  for step in range(1, 21):
    guard(progress(step))
  for step in range(21, 60):
    guard(progress(step, math.nan, step - 20))
  guard(progress(60, 1.9))
  guard(progress(61, 2.1))
  with pytest.raises(LossSpike):
    guard.catch_up()
  assert len(incidents()) == 39
