"""The order of records with one, two and four real processes, and resumed."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).parents[2]
NUM_BATCHES = 6

PROCESS = """
import json, pathlib, sys
import jax
folder = sys.argv[1]
port, index, count, first, last = map(int, sys.argv[2:])
if count > 1:
  jax.distributed.initialize(f"127.0.0.1:{port}", count, index)
import functools
from ddit_jax.config.load import from_dict
from ddit_jax.data.prefetch import rows_of_process
from ddit_jax.experiment.config import Config
from ddit_jax.experiment.data import open_data, open_sources
from ddit_jax.experiment.vocabulary import make_tokenizer
from ddit_jax.sharding.mesh import MeshConfig

spec = {"kind": "image_folder", "filters": {"min_short_side": 4}}
stream = {"batch_size": 8, "image_size": 4, "text_length": 8, "crop": "random"}
mixture = {"0": {"a": 3.0, "b": 1.0}, "2": {"a": 1.0, "b": 1.0}}
settings = from_dict(Config, {"data": {
  "sources": {n: spec | {"path": f"{folder}/{n}"} for n in "ab"},
  "tokenizer": "words",
  "text_to_image": stream | {"mixture": {"0": {"b": 1.0}}},
  "image_to_text": stream | {"mixture": mixture},
}})
sources = open_sources(settings.data)
tokenizer = make_tokenizer(settings.data, None, sources)
data = open_data(settings, tokenizer, sources, pathlib.Path(folder))
mesh = MeshConfig().make()
feed = data.training_loader(functools.partial(rows_of_process, mesh))
if first:
  place = {"global_next_index": first * 8}
  feed.seek({"text_to_image": place, "image_to_text": place})
for number in range(first, last):
  batch, position = next(feed)
  for name in ("text_to_image", "image_to_text"):
    part = getattr(batch, name)
    rows = [
      [tokenizer.decode(tokens), int(image.astype(int).sum())]
      for tokens, image in zip(part.tokens, part.images)
    ]
    print(json.dumps([number, name, index, rows, position]))
feed.close()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Two sources of pictures whose captions name them."""
  folder = tmp_path_factory.mktemp("order")
  for name, count in (("a", 11), ("b", 5)):
    (folder / name).mkdir()
    for i in range(count):
      # Random crops of a gradient differ from place to place.
      picture = Image.linear_gradient("L").resize((24, 12 + i)).convert("RGB")
      picture.save(folder / name / f"{i}.png")
      (folder / name / f"{i}.txt").write_text(f"{name} {i}")
  return folder


def global_batches(folder, *, count: int, first: int = 0):
  """{(batch, stream): rows} that `count` processes read together."""
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  started = [
    subprocess.Popen(
      [sys.executable, "-c", PROCESS]
      + [str(x) for x in (folder, port, index, count, first, NUM_BATCHES)],
      cwd=ROOT,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      env=os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"},
    )
    for index in range(count)
  ]
  rows = {}
  for process in started:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    for line in out.splitlines():
      number, name, index, read, position = json.loads(line)
      rows.setdefault((number, name), {})[index] = read, position
  for by_process in rows.values():
    # One integer of state, the same everywhere.
    positions = [position for _, position in by_process.values()]
    assert all(position == positions[0] for position in positions)
  return {
    key: [row for i in sorted(parts) for row in parts[i][0]]
    for key, parts in rows.items()
  }


@pytest.mark.slow
def test_order_and_draws_do_not_depend_on_processes_or_restarts(folder):
  alone = global_batches(folder, count=1)
  assert len(alone) == 2 * NUM_BATCHES
  for count in (2, 4):
    together = global_batches(folder, count=count)
    assert together == alone
  resumed = global_batches(folder, count=2, first=3)
  assert resumed == {key: rows for key, rows in alone.items() if key[0] >= 3}
  names = [text for key in sorted(alone) for text, _ in alone[key]]
  assert {name.split()[0] for name in names} == {"a", "b"}
