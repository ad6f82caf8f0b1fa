"""A cache whose writer is killed at any moment is finished by the next run."""

import pathlib
import signal
import subprocess
import sys

import pytest

from tests.data.caches import tiny_cache as tiny

ROOT = pathlib.Path(__file__).parents[3]

WRITER = """
import os, pathlib, signal, sys
from ddit_jax.data.caches import cache_writer
from tests.data.caches import tiny_cache

# Waiting for the disk guards against power loss, which is not tried here.
os.fsync = lambda descriptor: None

def die(*_, **__):
  os.kill(os.getpid(), signal.SIGKILL)

folder, moment = sys.argv[1:]
replace = os.replace

def replace_until(source, target):
  if "features-00001" in str(target) and str(target).endswith("array_record"):
    die()
  replace(source, target)

if moment == "between the shards of a part":
  os.replace = replace_until
elif moment == "before dataset.json":
  cache_writer.write_manifest = die
progress = None
if moment == "in a part":
  progress = lambda done, total: done > 9 and die()
tiny_cache.writer(pathlib.Path(folder), progress=progress).write()
"""


@pytest.mark.parametrize(
  "moment",
  ["in a part", "between the shards of a part", "before dataset.json"],
)
def test_the_next_run_writes_the_same_bytes(tmp_path, moment):
  tiny.writer(tmp_path / "whole").write()
  folder = tmp_path / "killed"
  killed = subprocess.run(
    [sys.executable, "-c", WRITER, str(folder), moment], cwd=ROOT, timeout=60
  )
  assert killed.returncode == -signal.SIGKILL
  assert not (folder / "dataset.json").exists()
  num_left = len(tiny.writer(folder).unfinished_parts())
  assert num_left == (0 if moment == "before dataset.json" else 2)
  tiny.writer(folder).write()
  assert tiny.contents(folder) == tiny.contents(tmp_path / "whole")
