"""Processes on one machine: what each gets, and how they end."""

import os
import re
import signal
import subprocess
import time

import pytest

from tests.launch import scripts

SHOW = 'echo "$JAX_CPU_COLLECTIVES_IMPLEMENTATION $CUDA_VISIBLE_DEVICES $*"'


def job(tmp_path, body, count=2, **values):
  scripts.fake(tmp_path / "bin", job=body)
  env = scripts.environment(tmp_path / "bin", **values)
  return scripts.run("local.sh", count, "job", "train", "--a=b c", env=env)


def test_each_process_gets_its_place_in_one_job(tmp_path):
  result = job(tmp_path, SHOW, count=3, LOGS=tmp_path / "logs")
  assert result.returncode == 0, result.stderr
  lines = sorted(result.stdout.splitlines())
  ports = {re.search(r"coordinator=127.0.0.1:(\d+)", line)[1] for line in lines}
  [port] = ports
  assert lines == [
    f"[{i}] gloo  train --a=b c --coordinator=127.0.0.1:{port} "
    f"--num_processes=3 --process_id={i}"
    for i in range(3)
  ]
  logs = [(tmp_path / "logs" / f"{i}.log").read_text() for i in range(3)]
  assert logs == [line + "\n" for line in lines]


def test_gpus_are_dealt_out(tmp_path):
  result = job(tmp_path, SHOW, GPUS=2)
  parts = [line.split()[:2] for line in sorted(result.stdout.splitlines())]
  assert parts == [["[0]", "0,1"], ["[1]", "2,3"]]


@pytest.mark.parametrize(
  ("body", "code"),
  [
    ("exit 75", 75),
    # Bad input is told from what it caused.
    ("[[ $* == *id=0 ]] && exit 1; sleep 0.6; exit 2", 2),
    ("[[ $* == *id=1 ]] && exit 7; exit 0", 7),
  ],
)
def test_the_code_of_a_process_is_the_job_s(tmp_path, body, code):
  assert job(tmp_path, body).returncode == code


def test_a_failure_ends_processes_that_wait_for_it(tmp_path):
  start = time.monotonic()
  result = job(
    tmp_path, "[[ $* == *id=1 ]] && exit 3; exec sleep 120", GRACE_SECONDS=1
  )
  assert result.returncode == 3
  assert time.monotonic() - start < 30


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_all_processes(tmp_path, number):
  body = 'trap "echo saved; kill %1; exit 75" TERM; sleep 60 & echo up; wait'
  scripts.fake(tmp_path / "bin", job=body)
  started = subprocess.Popen(
    ["bash", scripts.LAUNCH / "local.sh", "2", "job"],
    env=scripts.environment(tmp_path / "bin"),
    stdout=subprocess.PIPE,
    text=True,
  )
  seen = sorted(started.stdout.readline() for _ in range(2))
  assert seen == ["[0] up\n", "[1] up\n"]
  os.kill(started.pid, number)
  rest, _ = started.communicate(timeout=60)
  assert sorted(rest.splitlines()) == ["[0] saved", "[1] saved"]
  assert started.returncode == 75
