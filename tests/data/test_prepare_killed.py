"""A prepare that is killed at any moment is finished by the next run."""

import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[2]

# Prepares 120 examples, two of them bad; dies where the argument says.
WRITER = """
import os, pathlib, random, shutil, signal, sys
from ddit_jax.data.prepare import prepare as prepare_module, shards
from ddit_jax.data.example import BadRecord, Example
from ddit_jax.data.prepare.prepare import PrepareOptions
from ddit_jax.data.prepare.prepare import prepare

# Waiting for the disk guards against power loss, which is not tried here.
os.fsync = lambda descriptor: None

def die(*_, **__):
  os.kill(os.getpid(), signal.SIGKILL)

class Source:
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

folder, moment = sys.argv[1:]
replace = os.replace

def replace_until(done, total=[0]):
  def counted(source, target):
    if str(target).endswith(".array_record"):
      total[0] += 1
      if total[0] > done:
        die()
    replace(source, target)
  return counted

if moment == "before a shard's place":
  os.replace = replace_until(3)
elif moment == "before dataset.json":
  shards.write_dataset = die
elif moment == "before the end":
  shards.shutil.rmtree = die

print("ready", flush=True)
progress = None
if moment == "in a shard":
  progress = lambda done, total: done == 77 and die()
elif moment == "any":
  import time
  progress = lambda done, total: time.sleep(0.002)
prepare(Source(), folder, PrepareOptions(num_shards=8), threads=2,
        max_bad_rate=0.1, progress=progress)
"""


def start(folder, moment):
  return subprocess.Popen(
    [sys.executable, "-c", WRITER, str(folder), moment],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    text=True,
  )


def contents(folder):
  files = {path.name: path for path in folder.iterdir()}
  return {name: path.read_bytes() for name, path in files.items()}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
  folder = tmp_path_factory.mktemp("whole") / "out"
  assert start(folder, "never").wait(timeout=60) == 0
  written = contents(folder)
  assert len(written) == 8 + 2
  return written


@pytest.mark.parametrize(
  "moment",
  [
    "in a shard",
    "before a shard's place",
    "before dataset.json",
    "before the end",
  ],
)
def test_killed_at_a_chosen_moment(tmp_path, expected, moment):
  folder = tmp_path / "out"
  assert start(folder, moment).wait(timeout=60) == -signal.SIGKILL
  assert (folder / "in_progress").is_dir()
  assert (folder / "dataset.json").exists() == (moment == "before the end")
  assert start(folder, "never").wait(timeout=60) == 0
  assert contents(folder) == expected


def test_killed_again_and_again(tmp_path, expected):
  folder = tmp_path / "out"
  for _ in range(3):
    process = start(folder, "any")
    assert process.stdout.readline() == "ready\n"
    time.sleep(random.uniform(0, 0.2))
    process.kill()
    process.wait(timeout=60)
  assert start(folder, "never").wait(timeout=60) == 0
  assert contents(folder) == expected
