"""A writer that is killed at any moment is finished by the next run."""

import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

from ddit_jax.data.example import BadRecord, Example
from ddit_jax.data.prepare import shard_writer
from ddit_jax.data.prepare.prepare import PrepareOptions, prepare
from tests.data.prepare import tiny_cache

ROOT = pathlib.Path(__file__).parents[3]
WRITER = """
import sys
from tests.data.prepare import test_killed
test_killed.write_and_die(*sys.argv[1:])
"""


class Source:
  """120 examples, two of them bad."""

  name, removed = "random", {}

  def __len__(self):
    return 120

  def __getitem__(self, index):
    if index in (17, 95):
      raise BadRecord("bad_json", "broken", f"r{index}")
    data = random.Random(index).randbytes(30_000)
    return Example(record_id=f"r{index}", image=data, texts=("a",))

  def fingerprint(self):
    return "f"


def write(kind, folder, progress=None):
  """Copies the source, or writes a small cache."""
  if kind == "cache":
    tiny_cache.writer(folder, progress=progress).write()
  else:
    options = PrepareOptions(num_shards=8)
    limits = {"threads": 2, "max_bad_rate": 0.1}
    prepare(Source(), folder, options, progress=progress, **limits)
  return tiny_cache.contents(folder)


def die(*_, **__):
  os.kill(os.getpid(), signal.SIGKILL)


def die_at_half(done, total):
  if done > total / 2:
    die()


def be_slow(done, total):
  time.sleep(0.002)


def write_and_die(kind, folder, moment):
  """In a process of its own."""
  # Waiting for the disk guards against power loss, which is not tried here.
  os.fsync = lambda descriptor: None
  replace, progress = os.replace, None

  def replace_until(wanted):
    def until(source, target):
      if wanted in str(target) and str(target).endswith(".array_record"):
        die()
      replace(source, target)

    return until

  if moment == "before a shard's rename":
    os.replace = replace_until("part-00003")
  elif moment == "between the shards of a part":
    os.replace = replace_until("features-00001")
  elif moment == "before dataset.json":
    shard_writer.write_dataset = die
  elif moment == "before the end":
    shard_writer.shutil.rmtree = die
  elif moment == "in a part":
    progress = die_at_half
  elif moment == "any":
    progress = be_slow
  print("ready", flush=True)
  write(kind, pathlib.Path(folder), progress)


def start(kind, folder, moment):
  return subprocess.Popen(
    [sys.executable, "-c", WRITER, kind, str(folder), moment],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    text=True,
  )


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
  """Kind to every file of an undisturbed run."""
  folder = tmp_path_factory.mktemp("whole")
  return {kind: write(kind, folder / kind) for kind in ("copy", "cache")}


@pytest.mark.parametrize(
  ("kind", "moment"),
  [
    ("copy", "in a part"),
    ("copy", "before a shard's rename"),
    ("copy", "before dataset.json"),
    ("copy", "before the end"),
    ("cache", "in a part"),
    ("cache", "between the shards of a part"),
  ],
)
def test_killed_at_a_chosen_moment(tmp_path, expected, kind, moment):
  folder = tmp_path / "out"
  assert start(kind, folder, moment).wait(timeout=60) == -signal.SIGKILL
  assert (folder / "in_progress").is_dir()
  assert (folder / "dataset.json").exists() == (moment == "before the end")
  assert write(kind, folder) == expected[kind]


def test_killed_again_and_again(tmp_path, expected):
  folder = tmp_path / "out"
  for _ in range(2):
    process = start("copy", folder, "any")
    assert process.stdout.readline() == "ready\n"
    time.sleep(random.uniform(0, 0.2))
    process.kill()
    process.wait(timeout=60)
  assert write("copy", folder) == expected["copy"]
