"""A run that no longer moves is ended, and only such a run."""

import threading

import pytest

from ddit_jax.train import watchdog as module
from ddit_jax.train.watchdog import NO_WATCHDOG, Watchdog


class Clock:
  """Looks at the watchdog after the seconds given, without waiting."""

  def __init__(self, monkeypatch, pauses, between=lambda look: None):
    self.now, self.looks = 0.0, 0
    self._pauses, self._between = pauses, between
    monkeypatch.setattr(module.time, "monotonic", lambda: self.now)

  def wait(self, seconds):
    if self.looks == len(self._pauses):
      return True
    self.now += self._pauses[self.looks]
    self.looks += 1
    self._between(self.looks)
    return False


@pytest.fixture
def dog(tmp_path):
  dog = Watchdog(tmp_path / "hang_0.txt", 5.0)
  dog.waits_for("step 7")
  return dog


def lines_of(dog, clock):
  lines = []
  dog._watch(clock, lines.append)
  return lines


def test_a_step_that_does_not_come_is_named_with_all_stacks(
  dog, monkeypatch, tmp_path
):
  is_over = threading.Event()

  def hangs():
    is_over.wait()

  threading.Thread(target=hangs, daemon=True).start()
  try:
    line, *_ = lines_of(dog, Clock(monkeypatch, [1.0] * 6))
  finally:
    is_over.set()
  path = tmp_path / "hang_0.txt"
  assert line == (
    "waited for step 7 for more than 5 seconds; the stacks of its threads are "
    f"in {path}"
  )
  text = path.read_text()
  assert ", waiting for step 7\n" in text
  assert " in hangs\n" in text and " in lines_of\n" in text


@pytest.mark.parametrize(
  ("pauses", "is_slow", "is_hang"),
  [
    ([1.0] * 5, False, False),
    ([1.0] * 6, False, True),
    ([1.0] * 30, True, False),
    ([1.0] * 31, True, True),
    # The process was stopped for an hour.
    ([1.0, 1.0, 3600.0, 1.0], False, False),
  ],
)
def test_only_waits_that_are_too_long_are_hangs(
  dog, monkeypatch, pauses, is_slow, is_hang
):
  dog.waits_for("step 8", is_slow=is_slow)
  assert bool(lines_of(dog, Clock(monkeypatch, pauses))) == is_hang


def test_what_grows_with_the_data_may_take_any_time(dog, monkeypatch):
  dog.waits_for("its sources and data", is_endless=True)

  def between(look):
    if look == 10_000:
      dog.waits_for("step 1")

  # Steps have their limit again afterwards.
  clock = Clock(monkeypatch, [1.0] * 10_010, between)
  line, *_ = lines_of(dog, clock)
  assert line.startswith("waited for step 1 for more than 5 seconds")


def test_every_wait_begins_anew(dog, monkeypatch):
  def between(look):
    dog.waits_for("step 7")

  assert lines_of(dog, Clock(monkeypatch, [1.0] * 50, between)) == []


def test_where_the_disk_hangs_the_stacks_are_printed(
  monkeypatch, tmp_path, capfd
):
  dog = Watchdog(tmp_path / "no_folder" / "hang_0.txt", 1.0)
  dog.waits_for("step 7")
  line, *_ = lines_of(dog, Clock(monkeypatch, [1.0, 1.0]))
  assert "are in its output, since" in line
  assert "test_where_the_disk_hangs" in capfd.readouterr().err


def test_a_hang_ends_the_block_it_happens_in(dog, monkeypatch):
  monkeypatch.setattr(module, "_SECONDS_BETWEEN_LOOKS", 0.02)
  monkeypatch.setattr(dog, "_seconds", 0.1)
  dog.waits_for("step 9")
  has_ended, lines = threading.Event(), []

  def end(line):
    lines.append(line)
    has_ended.set()

  with dog.ending_hangs(end):
    assert has_ended.wait(10)
  assert lines[0].startswith("waited for step 9")


def test_without_a_limit_nothing_watches():
  before = threading.active_count()
  with NO_WATCHDOG.ending_hangs(lambda line: None):
    assert threading.active_count() == before
