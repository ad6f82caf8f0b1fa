"""Figures from files that other programs made of generated images."""

import json

import numpy as np
import pytest

from ddit_jax.pipelines.job import Job, items_hash, scored_result
from ddit_jax.protocols.config import BenchmarksConfig
from ddit_jax.protocols.protocol import PROTOCOLS
from tests.protocols import official_files

COUNT = 4
INCEPTION = "inception-2015-12-05 clean-fid"


def geneval_lines(items) -> str:
  """One box of the class in every image but the last."""
  box = [0, 0, 10, 10, 0.95, None]
  return official_files.lines(
    {
      "filename": item.path,
      "detections": {item.facts["metadata"]["include"][0]["class"]: [box]},
    }
    for item in items[:-1]
  ) + official_files.lines([{"filename": items[-1].path, "detections": {}}])


def features(path, network: str) -> str:
  rows = np.random.default_rng(0).normal(size=(8, 4))
  np.savez(path, features=rows, network=network)
  return str(path)


@pytest.fixture
def made(tmp_path):
  """Task -> role -> a file that its program would make."""
  official_files.write_all(tmp_path, COUNT)
  paths = {
    name: PROTOCOLS[name].items(
      BenchmarksConfig(folder=str(tmp_path)).paths(name, PROTOCOLS[name])
    )
    for name in ("geneval", "dpg")
  }
  (tmp_path / "boxes.jsonl").write_text(geneval_lines(paths["geneval"]))
  answers = {
    item.facts["id"]: [{"1": "yes"}, {"1": "no"}] * 2 for item in paths["dpg"]
  }
  (tmp_path / "said.json").write_text(json.dumps({"answers": answers}))
  blip = [{"question_id": n, "answer": "0.5000"} for n in range(COUNT)]
  (tmp_path / "blip.json").write_text(json.dumps(blip))
  inception = features(tmp_path / "inception.npz", INCEPTION)
  clip = features(tmp_path / "clip.npz", "ViT-B/32")
  distances = {"features": inception, "reference_features": inception}
  return tmp_path, {
    "geneval": {"detections": str(tmp_path / "boxes.jsonl")},
    "dpg": {"answers": str(tmp_path / "said.json")},
    "t2i_compbench": {
      f"{category}_answers": str(tmp_path / "blip.json")
      for category in ("color", "shape", "texture")
    },
    "mjhq": distances,
    "coco30k": distances | {"clip_features": clip, "text_features": clip},
  }


def result(root, name, files):
  protocol = PROTOCOLS[name]
  paths = BenchmarksConfig(folder=str(root), files={name: files}).paths(
    name, protocol
  )
  items = protocol.items(paths)
  job = Job(
    name=name,
    protocol=protocol,
    files=paths,
    items=items,
    items_hash=items_hash(items),
    is_subset=False,
  )
  return scored_result(
    job,
    folder=root,
    outputs={item.key: item.path for item in items},
    prompts={item.key: item.text for item in items},
    settings={},
    predictions=root,
    is_baseline=False,
  )


@pytest.mark.parametrize(
  ("name", "want"),
  [
    ("geneval", {"geneval/overall": 15 / 16}),
    ("dpg", {"dpg/score": 50.0, "dpg/published/score": 50.0}),
    (
      "t2i_compbench",
      {f"t2i_compbench/{x}/blip_vqa": 0.5 for x in ("color", "texture")},
    ),
    ("mjhq", {"mjhq/frechet_distance": 0.0}),
    (
      "coco30k",
      {"coco30k/frechet_distance": 0.0, "coco30k/clip/scaled_cosine": 100.0},
    ),
  ],
)
def test_files_of_other_programs_are_scored(made, name, want):
  root, files = made
  found = result(root, name, files[name])
  assert found.waiting == ()
  figures = {key: found.figures()[key] for key in want}
  # The covariances' root is that of eight rows, to 1e-7.
  assert figures == pytest.approx(want, abs=1e-6)


@pytest.mark.parametrize("name", ["geneval", "dpg", "mjhq", "coco30k"])
def test_without_them_the_program_and_the_flag_are_named(made, name):
  root, _ = made
  found = result(root, name, {})
  assert found.scored == {} and found.waiting
  for note, part in zip(
    found.waiting, PROTOCOLS[name].parts.values(), strict=True
  ):
    assert part.tool in note
    assert f"--config.benchmarks.files.{name}.{part.predictions}=FILE" in note
