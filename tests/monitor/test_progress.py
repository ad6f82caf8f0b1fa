"""The bar on a terminal, lines in a log file, nothing elsewhere."""

import io
import sys

import pytest

from ddit_jax.monitor.progress import progress_bar


class Terminal(io.StringIO):
  def isatty(self):
    return True


@pytest.fixture
def shown(monkeypatch):
  """Runs a bar from step 2 to 10 with a loss; what it wrote to stderr."""

  def run(stream, **options):
    monkeypatch.setattr(sys, "stderr", stream)
    with progress_bar(10, initial=2, **options) as bar:
      for step in range(3, 11):
        bar.set_postfix({"loss": 0.75}, refresh=False)
        bar.update(step - bar.n)
    return stream.getvalue()

  return run


def test_on_a_terminal_it_is_one_moving_bar(shown):
  text = shown(Terminal())
  assert "10/10" in text and "loss=0.75" in text and "\r" in text


def test_in_a_log_file_there_are_few_lines_and_the_last_step(shown):
  lines = shown(io.StringIO()).split("\n")
  assert not any("\r" in line for line in lines)
  lines = [line for line in lines if line.strip()]
  assert len(lines) == 2 and " 2/10 " in lines[0]
  assert "10/10" in lines[-1] and "loss=0.75" in lines[-1]


def test_a_closed_terminal_does_not_stop_the_run(shown):
  class Closed(Terminal):
    def write(self, text):
      raise BrokenPipeError

  assert shown(Closed()) == ""


def test_other_processes_show_nothing(shown):
  assert shown(io.StringIO(), is_shown=False) == ""
