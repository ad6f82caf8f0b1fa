"""SIGTERM and Ctrl-C request a stop; handlers are restored."""

import os
import signal

import pytest

from ddit_jax.train.loop import StopSignal


def test_nothing_is_requested_at_first():
  with StopSignal() as stop:
    assert not stop.is_requested(1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_requests_a_stop_for_good(number):
  with StopSignal() as stop:
    os.kill(os.getpid(), number)
    assert stop.is_requested(1)
    assert stop.is_requested(2)


def test_a_second_sigterm_changes_nothing():
  with StopSignal() as stop:
    for _ in range(2):
      os.kill(os.getpid(), signal.SIGTERM)
    assert stop.is_requested(1)


def test_a_second_ctrl_c_interrupts():
  with pytest.raises(KeyboardInterrupt), StopSignal():
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)


def test_handlers_are_given_back_also_after_an_error():
  numbers = (signal.SIGTERM, signal.SIGINT)
  before = [signal.getsignal(number) for number in numbers]
  with pytest.raises(RuntimeError), StopSignal():
    assert [signal.getsignal(number) for number in numbers] != before
    raise RuntimeError
  assert [signal.getsignal(number) for number in numbers] == before


def test_a_new_run_starts_without_a_request():
  stop = StopSignal()
  with stop:
    os.kill(os.getpid(), signal.SIGTERM)
  with stop:
    assert not stop.is_requested(1)
