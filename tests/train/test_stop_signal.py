"""SIGTERM and Ctrl-C become a question; handlers are given back."""

import os
import signal

import pytest

from ddit_jax.train.loop import StopSignal


def test_nobody_asked():
  with StopSignal() as stop:
    assert not stop.is_asked(1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_for_a_stop_and_goes_on_asking(number):
  with StopSignal() as stop:
    os.kill(os.getpid(), number)
    assert stop.is_asked(1)
    assert stop.is_asked(2)


def test_a_second_sigterm_changes_nothing():
  with StopSignal() as stop:
    for _ in range(2):
      os.kill(os.getpid(), signal.SIGTERM)
    assert stop.is_asked(1)


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


def test_each_run_is_asked_anew():
  stop = StopSignal()
  with stop:
    os.kill(os.getpid(), signal.SIGTERM)
  with stop:
    assert not stop.is_asked(1)
