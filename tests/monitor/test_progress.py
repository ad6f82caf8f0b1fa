"""The line says where a run stands; the clock is our own."""

import io

import pytest

from ddit_jax.monitor.progress import ProgressBar, format_duration

SCALARS = {"loss/total": 0.75, "loss/image": 0.5, "loss/text": 0.25, "lr": 1.0}


class Clock:
  """Seconds that pass only when told."""

  now = 100.0

  def __call__(self):
    return self.now


class Terminal(io.StringIO):
  def isatty(self):
    return True


def plain(total, clock, **options):
  stream = io.StringIO()
  bar = ProgressBar(total, stream=stream, clock=clock, **options)
  return bar, stream


def test_a_plain_line_holds_losses_speed_and_time_left():
  clock = Clock()
  bar, stream = plain(1000, clock, initial=200)
  clock.now += 10
  bar.update(220, SCALARS)  # 20 steps in 10 s: 2 a second, 780 to go
  assert stream.getvalue() == (
    "step 220/1000 (22 %)  loss 0.75  image 0.5  text 0.25  2 steps/s  "
    "6m 30s left\n"
  )


def test_plain_lines_come_every_n_seconds_and_at_the_end():
  clock = Clock()
  bar, stream = plain(100, clock, seconds_between_lines=30)
  for step in range(1, 101):
    clock.now += 1
    bar.update(step, SCALARS if step == 1 else None)
  bar.close()
  shown = [line.split()[1] for line in stream.getvalue().splitlines()]
  assert shown == ["1/100", "31/100", "61/100", "91/100", "100/100"]
  assert all("loss 0.75" in line for line in stream.getvalue().splitlines())


def test_an_interrupted_run_still_shows_its_last_step():
  clock = Clock()
  bar, stream = plain(100, clock)
  for step in (1, 2):
    clock.now += 1
    bar.update(step)
  bar.close()
  assert stream.getvalue().splitlines()[-1].startswith("step 2/100 (2 %)")


def test_speed_forgets_the_slow_start():
  clock = Clock()
  bar, _ = plain(10_000, clock)
  clock.now += 600  # compilation
  for step in range(1, 101):
    bar.update(step)
    clock.now += 0.5
  assert "2 steps/s" in bar.line()


def test_no_speed_is_claimed_before_time_has_passed():
  bar, stream = plain(10, Clock())
  bar.update(1)
  assert stream.getvalue() == "step 1/10 (10 %)\n"


def test_on_a_terminal_it_is_one_moving_bar():
  clock, stream = Clock(), Terminal()
  with ProgressBar(50, initial=10, stream=stream, clock=clock) as bar:
    clock.now += 5
    bar.update(50, SCALARS)
    bar.say("checkpoint saved")
  text = stream.getvalue()
  assert "50/50" in text and "loss 0.75" in text and "8 steps/s" in text
  assert "checkpoint saved\n" in text and "\r" in text


def test_a_start_beyond_the_end_is_refused():
  with pytest.raises(ValueError, match=r"initial is 11: .* 0\.\.10"):
    ProgressBar(10, initial=11)


@pytest.mark.parametrize(
  ("seconds", "text"),
  [
    (0.4, "0s"),
    (59.6, "1m 00s"),
    (309, "5m 09s"),
    (3600, "1h 00m"),
    (90_000, "1d 1h"),
  ],
)
def test_durations_use_their_two_largest_units(seconds, text):
  assert format_duration(seconds) == text
