"""Damaged files of every kind of source: one line or counted bad records."""

import collections
import json
import pathlib
import random
import shutil

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from ddit_jax.data.example import REASONS, BadRecord
from ddit_jax.data.image import ImageConfig, ImageTransform
from ddit_jax.data.prepare.prepare import PrepareOptions, prepare
from ddit_jax.data.sources.registry import open_source
from tests.source_files import encoded, write_shard

NUM_ROUNDS = 40
IMAGE = encoded(9, 12, "PNG")
ALL = {"max_ratio": float("inf"), "min_short_side": 2}


def asked(**more) -> dict:
  """One question with fields of every official file."""
  return {
    "question_id": 7,
    "image_id": 5,
    "question": "What is it?",
    "answers": [{"answer": "a dog", "raw_answer": "dogs"}],
  } | more


LISTS = {
  "json": [{"image_path": "5.png", "caption": ["a", "b"], "height": 9}],
  "coco": {
    "images": [{"id": 5, "file_name": "5.png", "height": 9, "width": 12}],
    "annotations": [{"image_id": 5, "caption": "a dog"}],
  },
  "llava": [
    {
      "image": "5.png",
      "conversations": [
        {"from": "human", "value": "<image>What is it?"},
        {"from": "gpt", "value": "a dog"},
      ],
    }
  ],
  "questions": {"data_subtype": "x", "questions": [asked()]},
  "annotations": {"annotations": [asked()]},
  "textvqa": {"data": [asked(answers=["a dog"])]},
  "vizwiz": [asked(image="5.png")],
  "gqa": {"7": asked(imageId="5", answer="a dog")},
}
LINES = {
  "lines": {"file_name": "5.png", "text": "a dog"},
  "pope": asked(image="5.png", text="A dog?", label="yes"),
  "texts": {"text": "one two three"},
}
BESIDE = {"images": ".", "follow_links": True}
PATTERN = {"image_pattern": "{image_id}.png"}
SPECS = {
  "folder": {"kind": "image_folder", "path": ".", "filters": ALL},
  "list": {"kind": "image_folder", "path": "json.json", "filters": ALL},
  "coco": {"kind": "image_folder", "path": "coco.json", "filters": ALL},
  "lines": {"kind": "image_folder", "path": "lines.jsonl", "filters": ALL},
  "csv": {"kind": "image_folder", "path": "list.csv", "filters": ALL},
  "llava": {"kind": "llava", "path": "llava.json", **BESIDE},
  "vqav2": {
    "kind": "vqav2",
    "questions": "questions.json",
    "annotations": "annotations.json",
    **(BESIDE | PATTERN),
  },
  "textvqa": {"kind": "textvqa", "path": "textvqa.json", **BESIDE, **PATTERN},
  "vizwiz": {"kind": "vizwiz", "path": "vizwiz.json", **BESIDE},
  "gqa": {"kind": "gqa", "path": "gqa.json", **BESIDE, **PATTERN},
  "pope": {"kind": "pope", "path": "pope.jsonl", **BESIDE},
  "texts": {"kind": "plain_text", "path": "texts.jsonl"},
  "documents": {"kind": "plain_text", "path": "5.txt", "documents": "line"},
  "parquet": {"kind": "parquet", "path": "rows.parquet"},
  "tar": {"kind": "webdataset", "path": "a.tar", "workers": 1},
  "shards": {"kind": "array_record", "path": "prepared"},
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> pathlib.Path:
  """A folder that holds a small source of every kind."""
  folder = tmp_path_factory.mktemp("sound")
  (folder / "5.png").write_bytes(IMAGE)
  (folder / "5.txt").write_text("a dog\nbarks")
  for name, body in LISTS.items():
    (folder / f"{name}.json").write_text(json.dumps(body))
  for name, line in LINES.items():
    (folder / f"{name}.jsonl").write_text(f"{json.dumps(line)}\n" * 3)
  (folder / "list.csv").write_text('image_path,caption\n5.png,"a, b"\n')
  rows = {"image": [{"bytes": IMAGE}] * 4, "text": ["a", "b", "c", "d"]}
  parquet.write_table(pa.table(rows), folder / "rows.parquet", row_group_size=2)
  write_shard(folder / "a.tar", ["0", "1", "2"])
  source = open_source("set", placed(SPECS["list"], folder))
  prepare(source, folder / "prepared", PrepareOptions(num_shards=1))
  return folder


def placed(spec: dict, folder: pathlib.Path) -> dict:
  """A spec whose paths lie in a folder."""
  keys = ("path", "images", "questions", "annotations")
  return spec | {k: str(folder / spec[k]) for k in keys if k in spec}


HOSTILE = (
  "[" * 100_000,
  '{"a":' * 100_000,
  "9" * 5000,
  "-1e999",
  "NaN",
  '"\\ud800"',
  '"\\u0000"',
  "null",
  "true",
  "[]",
  "{}",
  '["a"]',
  "[[7]]",
  '{"a": 1, "a": 2}',
  '"../../etc/passwd"',
  '"' + "long " * 50_000 + '"',
  f'"{"x" * 5000}.png"',
)


def with_hostile_value(body, rng: random.Random) -> str:
  """JSON in which one value, at any depth, became a hostile one."""
  marked, places = json.loads(json.dumps(body)), []

  def walk(value, parent, key):
    if parent is not None:
      places.append((parent, key))
    inner = value.items() if isinstance(value, dict) else ()
    inner = enumerate(value) if isinstance(value, list) else inner
    for inner_key, inner_value in list(inner):
      walk(inner_value, value, inner_key)

  walk(marked, None, None)
  parent, key = rng.choice(places)
  parent[key] = "@here@"
  return json.dumps(marked).replace('"@here@"', rng.choice(HOSTILE))


def damaged(data: bytes, rng: random.Random) -> bytes:
  """Bytes flipped, cut, doubled, or put in another order."""
  data, place = bytearray(data), rng.randrange(len(data))
  stop = min(len(data), place + rng.randint(1, 40))
  match rng.randrange(5):
    case 0:
      for _ in range(rng.choice((1, 3, 30))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    case 1:
      del data[place:]
    case 2:
      del data[place:stop]
    case 3:
      data[place:place] = data[place:stop] * rng.choice((1, 100))
    case _:
      data[place:stop] = rng.randbytes(stop - place)
  return bytes(data)


def damage(folder: pathlib.Path, name: str, rng: random.Random) -> None:
  """Damages one file that the spec of this name reads."""
  spec = SPECS[name]
  path = folder / spec.get("path", rng.choice(("questions", "annotations")))
  path = path if "path" in spec else path.with_suffix(".json")
  if path.is_dir():
    names = "5.*" if path == folder else "*"
    inside = sorted(p for p in path.glob(names) if p.is_file())
    path = rng.choice([p for p in inside if p.stat().st_size])
  body = LISTS.get(path.stem) if path.suffix == ".json" else None
  line = LINES.get(path.stem) if path.suffix == ".jsonl" else None
  if (body or line) and rng.random() < 0.6:
    sound_line = f"{json.dumps(line)}\n" if line else ""
    path.write_text(sound_line + with_hostile_value(body or line, rng))
  else:
    path.write_bytes(damaged(path.read_bytes(), rng))


def outcome(spec: dict) -> str:
  """How a source fares: refused, or which records of it are used."""
  try:
    source = open_source("set", spec)
  except ValueError as error:
    assert str(error).startswith("set: ") and len(str(error)) < 3000
    return "refused"
  transform = ImageTransform(config=ImageConfig(image_size=4))
  num_bad = 0
  for index in range(len(source)):
    try:
      example = source[index]
      for text in (*example.texts, *example.rewritten, example.prompt):
        text.encode()
      if example.image is not None:
        rng = np.random.default_rng(0)
        transform(example.image, rng, record_id="x", may_flip=False)
    except BadRecord as error:
      assert error.reason in REASONS and "\n" not in str(error)
      num_bad += 1
  return "bad records" if num_bad else "used"


def outcomes(sound, name: str, folder: pathlib.Path, num_rounds: int):
  """Outcome to number of damaged copies of the sound files."""
  counts = collections.Counter()
  for number in range(num_rounds):
    shutil.copytree(sound, folder)
    damage(folder, name, random.Random(f"{name} {number}"))
    try:
      counts[outcome(placed(SPECS[name], folder))] += 1
    except Exception as error:
      raise AssertionError(f"{name}, number {number}") from error
    shutil.rmtree(folder)
  return counts


@pytest.mark.parametrize("name", SPECS)
def test_sound_files_are_used(sound, name, tmp_path):
  shutil.copytree(sound, tmp_path / "copy")
  assert outcome(placed(SPECS[name], tmp_path / "copy")) == "used"


@pytest.mark.slow
@pytest.mark.parametrize("name", SPECS)
def test_damage_is_one_line_or_a_counted_record(sound, name, tmp_path):
  counts = outcomes(sound, name, tmp_path / "copy", NUM_ROUNDS)
  assert sum(counts.values()) == NUM_ROUNDS
  # Damage that no record shows lies in metadata, or in texts.
  assert counts["used"] < NUM_ROUNDS


@pytest.mark.slow
def test_specs_of_any_type_are_one_line(sound, tmp_path):
  shutil.copytree(sound, tmp_path / "copy")
  for name, spec in SPECS.items():
    rng = random.Random(name)
    for _ in range(NUM_ROUNDS):
      given = with_hostile_value(placed(spec, tmp_path / "copy"), rng)
      try:
        outcome(json.loads(given))
      except (ValueError, RecursionError):
        # Not JSON; the reader of spec files says so.
        continue
