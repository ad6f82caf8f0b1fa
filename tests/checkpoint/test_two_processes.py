"""Two processes save together; one alone can go on, and both hear of damage."""

import os
import pathlib
import socket
import subprocess
import sys

import pytest

from tests import devices

ROOT = pathlib.Path(__file__).parents[2]

PROCESS = """
import sys
import jax
folder, port, index, count, is_writer = sys.argv[1], *map(int, sys.argv[2:])
if count > 1:
  jax.distributed.initialize(f"127.0.0.1:{port}", count, index)
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from ddit_jax.checkpoint.store import CheckpointStore

mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(AxisType.Auto,))
over_eight = NamedSharding(mesh, PartitionSpec("fsdp"))
with CheckpointStore(folder, keep_last=1, best_metric="loss") as store:
  for step in (1, 2, 3) if is_writer else ():
    make = jax.jit(lambda: jnp.arange(512.0).reshape(64, 8) + step,
                   out_shardings=over_eight)
    store.save(step, {"params": {"w": make()}}, data_position={"step": step},
               config={"schema_version": 1}, files={"a": b"b"},
               metrics={"loss": float(step)})
  store.wait()
  leaf = jax.ShapeDtypeStruct((64, 8), np.float32, sharding=over_eight)
  values = store.restore(3, {"params": {"w": leaf}})["params"]["w"]
  expected = np.arange(512.0).reshape(64, 8) + 3
  for shard in values.addressable_shards:
    np.testing.assert_array_equal(shard.data, expected[shard.index])
  print("steps", store.steps(), "at", store.data_position(3)["step"])
"""


def run_together(folder, *, count, is_writer):
  """Runs `count` processes with 8 devices in all; returns (rc, output)s."""
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  started = [
    subprocess.Popen(
      [sys.executable, "-c", PROCESS]
      + [str(x) for x in (folder, port, index, count, int(is_writer))],
      cwd=ROOT,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      env=os.environ | {"XLA_FLAGS": devices.xla_flags(8 // count)},
    )
    for index in range(count)
  ]
  outputs = [process.communicate(timeout=90)[0] for process in started]
  return [
    (process.returncode, output)
    for process, output in zip(started, outputs, strict=True)
  ]


@pytest.mark.slow
def test_two_processes_save_and_one_goes_on_alone(tmp_path):
  for code, output in run_together(tmp_path, count=2, is_writer=True):
    assert code == 0 and "steps [1, 3] at 3" in output, output
  [(code, output)] = run_together(tmp_path, count=1, is_writer=False)
  assert code == 0 and "steps [1, 3] at 3" in output, output
  damage_one_array_file(tmp_path / "3")
  results = run_together(tmp_path, count=2, is_writer=False)
  assert [code for code, _ in results] == [1, 1]
  together = "".join(output for _, output in results)
  assert "is altered" in together
  assert "verifying step 3 failed on process" in together


def damage_one_array_file(step):
  files = [p for p in (step / "params").rglob("*") if p.is_file()]
  path = max(files, key=lambda p: p.stat().st_size)
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)
