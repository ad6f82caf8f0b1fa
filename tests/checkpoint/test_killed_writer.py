"""A writer killed at any moment leaves the old or the new step, never half."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from ddit_jax.checkpoint.store import CheckpointStore

ROOT = pathlib.Path(__file__).parents[2]
SIZE = 512

# Saves steps 1, 2, 3, ... whose arrays are filled with the step's number.
WRITER = f"""
import os, shutil, signal, sys
import jax, jax.numpy as jnp
from ddit_jax.checkpoint import store as store_module

def die(*_, **__):
  os.kill(os.getpid(), signal.SIGKILL)

def remove_one_file_and_die(doomed, **__):
  os.unlink(os.path.join(doomed, "params", "manifest.ocdbt"))
  die()

folder, moment = sys.argv[1:]
store = store_module.CheckpointStore(folder, keep_last=1)
for step in range(1, 1000):
  if step == 2 and moment == "before the manifest":
    store_module.write_manifest = die
  if step == 2 and moment == "while deleting":
    shutil.rmtree = remove_one_file_and_die
  params = {{"w": jnp.full(({SIZE}, {SIZE}), step, jnp.float32)}}
  store.save(step, {{"params": params}}, data_position={{"step": step}},
             config={{"schema_version": 1}}, files={{}})
  if step == 2 and moment == "after save returned":
    os._exit(9)
  store.wait()
  print(step, flush=True)
"""


def start_writer(folder, moment):
  return subprocess.Popen(
    [sys.executable, "-c", WRITER, str(folder), moment],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.DEVNULL,
    text=True,
    env=os.environ | {"XLA_FLAGS": ""},
  )


def restored_step(folder):
  """Opens the store as a resuming run would; returns the step it can use."""
  sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  leaf = jax.ShapeDtypeStruct((SIZE, SIZE), np.float32, sharding=sharding)
  with CheckpointStore(folder, keep_last=1) as store:
    step = store.latest_step()
    for offered in store.steps():
      values = store.restore(offered, {"params": {"w": leaf}})["params"]["w"]
      np.testing.assert_array_equal(values, np.float32(offered))
      assert store.data_position(offered) == {"step": offered}
    # The run goes on from there, over whatever the kill left behind.
    params = {"w": jax.numpy.zeros((SIZE, SIZE))}
    store.save(
      step + 1,
      {"params": params},
      data_position={},
      config={"schema_version": 1},
      files={},
    )
    store.wait()
    assert store.steps() == [step + 1]
  return step


@pytest.mark.parametrize(
  ("moment", "usable"),
  [
    ("after save returned", 1),
    ("before the manifest", 1),
    ("while deleting", 2),
  ],
)
def test_killed_at_a_chosen_moment(tmp_path, moment, usable):
  writer = start_writer(tmp_path, moment)
  assert writer.wait(timeout=60) in (9, -signal.SIGKILL)
  assert restored_step(tmp_path) == usable


def test_killed_at_a_random_moment(tmp_path):
  writer = start_writer(tmp_path, "any")
  assert writer.stdout.readline() == "1\n"
  time.sleep(np.random.default_rng().uniform(0, 0.3))
  writer.kill()
  finished = [1, *map(int, writer.stdout.read().split())]
  writer.wait(timeout=60)
  # The next step may have been finished a moment before it was announced.
  assert restored_step(tmp_path) in (finished[-1], finished[-1] + 1)
