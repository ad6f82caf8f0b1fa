"""`ddit serve` refuses what no server could keep, before it loads a model."""

import importlib.util
import socket

import pytest

from ddit_jax.cli.main import main
from ddit_jax.pipelines import load

needs_server = pytest.mark.skipif(
  any(importlib.util.find_spec(x) is None for x in ("starlette", "uvicorn")),
  reason="needs the extra `serve`",
)


def refused(capsys, *flags):
  assert main(["serve", "--checkpoint=nowhere", *flags]) == 2
  line = capsys.readouterr().err
  assert line.startswith("ddit: ") and line.count("\n") == 1
  return line


@needs_server
@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--port=65536"], "--port must be in 0 to 65535, got 65536"),
    (["--port=-1"], "--port must be in 0 to 65535, got -1"),
    (["--batch_size=0"], "--batch_size must be positive, got 0"),
    (["--timeout=-1"], "--timeout must be positive, got -1"),
    (["--max_waiting=0"], "--max_waiting must be positive, got 0"),
    (["--timeout=nan"], "--timeout must be positive, got nan"),
    (
      ["--max_waiting=15"],
      "--max_waiting=15 is less than --batch_size=16",
    ),
    ([], "nowhere"),
  ],
)
def test_bad_flags_are_one_line(capsys, flags, message):
  assert message in refused(capsys, *flags, "--compilation_cache=off")


def test_the_extra_is_named_where_it_is_missing(capsys, monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  line = refused(capsys)
  assert "ddit serve needs starlette: pip install 'ddit_jax[serve]'" in line


@needs_server
def test_a_port_that_is_taken_ends_with_an_error(monkeypatch):
  for name in ("load", "refuse_captioner"):
    monkeypatch.setattr(load, name, lambda *_, **__: None)
  with socket.socket() as taken:
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    port = taken.getsockname()[1]
    flags = ["--checkpoint=c", f"--port={port}", "--compilation_cache=off"]
    assert main(["serve", *flags]) == 1
