"""Figures from files that other programs made of generated images."""

import json

import numpy as np
import pytest

from ddit_jax.pipelines.evaluation_task import (
  EvaluationTask,
  items_hash,
  scored_result,
)
from ddit_jax.protocols.config import BenchmarksConfig
from ddit_jax.protocols.item import Item, chosen
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


def result(root, name, files, *, num_units=0):
  protocol = PROTOCOLS[name]
  paths = BenchmarksConfig(folder=str(root), files={name: files}).paths(
    name, protocol
  )
  items = chosen(protocol.items(paths), num_units)
  task = EvaluationTask(
    name=name,
    protocol=protocol,
    files=paths,
    hashes={},
    items=items,
    items_hash=items_hash(items),
    is_subset=num_units > 0,
  )
  return scored_result(
    task,
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


def test_a_subset_of_geneval_is_scored_by_its_own_prompts(made):
  """Two prompts are drawn; every image but the last of all is right."""
  root, files = made
  lines = (root / "boxes.jsonl").read_text().splitlines(keepends=True)
  drawn = {
    item.facts["folder"]
    for item in result(root, "geneval", {}, num_units=2).task.items
  }
  assert len(drawn) == 2
  kept = [line for line in lines if json.loads(line)["filename"][:5] in drawn]
  (root / "boxes.jsonl").write_text("".join(kept))
  found = result(root, "geneval", files["geneval"], num_units=2)
  assert found.failed == () and found.figures()["geneval/num_prompts"] == 2
  assert found.figures()["geneval/overall"] == (
    7 / 8 if "00003" in drawn else 1.0
  )


def test_a_subset_of_dpg_is_scored_by_its_own_rows(made):
  root, files = made
  drawn = result(root, "dpg", {}, num_units=2).task.items
  answers = {item.facts["id"]: [{"1": "yes"}] * 4 for item in drawn}
  (root / "said.json").write_text(json.dumps({"answers": answers}))
  found = result(root, "dpg", files["dpg"], num_units=2)
  assert found.failed == () and found.figures()["dpg/score"] == 100.0
  assert found.figures()["dpg/items"] == 2


def test_files_that_cannot_be_scored_cost_no_other_figure(made):
  root, files = made
  np.savez(root / "clip.npz", features=np.ones((3, 2)), network="ViT-B/32")
  text = root / "text.npz"
  np.savez(text, features=np.ones((3, 5)), network="ViT-B/32")
  found = result(
    root, "coco30k", files["coco30k"] | {"text_features": str(text)}
  )
  assert "coco30k/frechet_distance" in found.figures()
  (sentence,) = found.failed
  assert sentence.startswith("not scored by clip_score: ")
  assert sentence in found.notes


@pytest.mark.parametrize(
  "facts",
  [
    {"record": "b.png", "texts": ["a red two"]},
    {"record": "a.png", "texts": ["a red two", "a two"]},
  ],
)
def test_records_of_equal_number_and_prompt_are_not_the_same(facts):
  """Captions have no prompt: their record is all that tells them apart."""

  def hashed(facts):
    return items_hash([Item(key="0", text="", draw=0, facts=facts)])

  assert hashed(facts) != hashed({"record": "a.png", "texts": ["a red two"]})
