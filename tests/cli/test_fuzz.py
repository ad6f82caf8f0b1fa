"""Every verb with odd values: one line and exit code 2, or it would start.

What would start is stopped where the compute begins. `-s` prints the counts.
"""

import collections
import contextlib
import dataclasses
import json
import os
import pathlib
import random
import shutil
import signal

import jax
import numpy as np
import pytest
from PIL import Image

from ddit_jax.cli.main import VERBS, main
from ddit_jax.experiment.abstract_step import AbstractStep
from ddit_jax.experiment.config import Config
from ddit_jax.experiment.state_source import StateSource
from ddit_jax.experiment.trainer import Trainer
from ddit_jax.pipelines.abstract_sampling import AbstractSampling
from ddit_jax.pipelines.mesh_image_sampler import MeshImageSampler
from ddit_jax.pipelines.mesh_text_sampler import MeshTextSampler
from tests import tiny_run
from tests.protocols import official_files

NUM_CALLS = int(os.environ.get("FUZZ_CALLS", "1500"))
SECONDS = 60.0
NUMBERS = (
  *("0", "-1", "1", "3", "1e3", "1e999", "nan", "inf", "-inf", "0x10", "1_0"),
  *(str(2**31), str(2**32), str(2**63), str(2**64), str(10**9), "٣", "1j"),
  *("9" * 5000, "0x" + "f" * 5000, "1" + "0" * 400, "1.0", ".5", "-0", "00"),
)
WORDS = (
  *("", " ", "True", "none", "None", "null", "ema", "params", "t2i", "vqa"),
  *("stage:", "stage:x", "toy", "words", "t5:", "gpt2:x", ":", "é", "a=b"),
  *(",", ",,", "1,1", "64x", "1x1x1", "-", "--x", "=", "%s", "{0}", "a\nb"),
  *("\x1b[31m", "\ud800", "\0", "\u202e", "a" * 300, "a" * 5000, "'", '"'),
)
LITERALS = (
  *("[]", "[[]]", "{}", "{[]:1}", "{1, 2}", "()", "(1,)", "b'x'", "...", "\\"),
  *(
    "'\\d'",
    "1if 1else 2",
    "lambda: 1",
    "__import__('os')",
    "{1: 2}",
    "[1e999]",
  ),
  *("(" * 3000, "[" * 3000, "-" * 3000 + "1", "{'a': {'b': [None, True]}}"),
)
PATHS = (
  *(".", "..", "/", "~", "~nobody/x", "/dev/null", "/dev/zero", "/proc/self"),
  *("gs://b/x", "s3:/b", "file:///x", "pipe", "folder", "file", "loop"),
  *("missing/x", "file/x", "pics", "run", "run/checkpoints", "a.png", "*.png"),
  *("pics/{0..9}.png", "{9..0}", "{0..99999999999}", "[", "\\", "in.jsonl"),
)
ODD = (*NUMBERS, *WORDS, *LITERALS, *PATHS)
# Verb -> a call that would start.
SOUND = {
  "train": ["--workdir=new", *tiny_run.flags()],
  "sample": ["--checkpoint=run", "--task=caption", "--image=a.png", "--out=o"],
  "evaluate": ["--checkpoint=run", "--out=o", *tiny_run.flags()],
  "prepare": ["--kind=image_folder", "--path=pics", "--out=o", "--threads=1"],
  "lora": ["--checkpoint=run", "--out=o.safetensors"],
  "score": ["--benchmark=vqav2", "--predictions=r.json", "--references=a.json"],
  "compare": ["--first=first.json", "--second=first.json"],
  "judge": [
    *(f"--config={tiny_run.ROOT / 'configs' / 'benchmarks.py'}", "--out=o"),
    *("--task=vqav2", "--captions=captions.jsonl"),
  ],
  "plan": [*tiny_run.flags(), "--topology=h100:1x8"],
  "probe": [
    *tiny_run.flags(
      captioner__features="mmdit",
      captioner__features_from="run",
      captioner__decoder="tiny",
      data__text_to_image__batch_size="0",
      loss__is_merged="False",
    ),
    *("--layers=1,2", "--workdir=new"),
  ],
}
WEIGHTS = (6, 3, 2, 4, 1, 2, 1, 2, 2, 2)


class Started(BaseException):
  """The call was accepted."""


def config_keys(values, prefix="config"):
  """Every key of a config, sections included."""
  for key, value in values.items():
    yield f"{prefix}.{key}"
    if isinstance(value, dict):
      yield from config_keys(value, f"{prefix}.{key}")


KEYS = sorted(config_keys(dataclasses.asdict(Config())))
SPECIAL = ["config.data.sources.x", "config.data.sources.x.kind", "config."]


def names_of(verb: str) -> list[str]:
  names = list(VERBS[verb].flags)
  if "config" in VERBS[verb].flags:
    # As often as the flags.
    names = [*names * 12, *KEYS, *SPECIAL]
  if verb == "sample":
    names += ["sample.image.shift", "sample.text.order", "sample.x", "sample."]
  return [*names, "unknown"]


def calls(rng: random.Random):
  """Sound calls of which one to three flags have odd values."""
  while True:
    verb = rng.choices(list(SOUND), weights=WEIGHTS)[0]
    argv = list(SOUND[verb])
    for _ in range(rng.choice((1, 1, 2, 3))):
      name, value = rng.choice(names_of(verb)), rng.choice(ODD)
      argv = [a for a in argv if not a.startswith(f"--{name}=")]
      argv.append(f"--{name}={value}")
    yield [verb, *argv]


@contextlib.contextmanager
def within(seconds: float):
  def ring(number, frame):
    raise TimeoutError(f"more than {seconds} s")

  before = signal.signal(signal.SIGALRM, ring)
  signal.setitimer(signal.ITIMER_REAL, seconds)
  try:
    yield
  finally:
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def place(trained, tmp_path, monkeypatch):
  """The current folder: a run, pictures, and things that are no files."""
  (tmp_path / "run").symlink_to(trained)
  (tmp_path / "pics").mkdir()
  pixels = np.zeros((16, 16, 3), np.uint8)
  for path in (tmp_path / "a.png", tmp_path / "pics" / "0.png"):
    Image.fromarray(pixels).save(path)
  (tmp_path / "pics" / "0.txt").write_text("a red seven")
  (tmp_path / "folder").mkdir()
  (tmp_path / "file").write_text("x")
  (tmp_path / "in.jsonl").write_text('{"image": "a.png"}\n')
  write_benchmark(tmp_path)
  (tmp_path / "loop").symlink_to("loop")
  os.mkfifo(tmp_path / "pipe")
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("HOME", str(tmp_path / "folder"))
  return tmp_path


def write_benchmark(folder: pathlib.Path) -> None:
  """Questions of VQA v2 where `configs/benchmarks.py` has them, and results."""
  data = folder / "data" / "benchmarks" / "vqav2"
  official_files.vqa(data, 4)
  (annotations,) = data.glob("*annotations*")
  shutil.copy(annotations, folder / "a.json")
  keys = [
    x["question_id"] for x in json.loads(annotations.read_text())["annotations"]
  ]
  results = [{"question_id": key, "answer": "red"} for key in keys]
  (folder / "r.json").write_text(json.dumps(results))
  images = [
    {"image": path.name, "caption": "red"} for path in data.rglob("*.jpg")
  ]
  (folder / "captions.jsonl").write_text(official_files.lines(images))
  with contextlib.chdir(folder):
    assert main(["score", *SOUND["score"], "--out=first.json"]) == 0


@pytest.fixture
def stopped(monkeypatch, on_one_device, unchecked_shapes):
  """Raises `Started` where the compute would begin."""

  def start(*_, **__):
    raise Started

  def no_cluster():
    raise ValueError("no cluster")

  for kind, names in (
    (StateSource, ("initialise", "restore")),
    (Trainer, ("fit",)),
    (MeshTextSampler, ("fill",)),
    (MeshImageSampler, ("draw", "magnitude_ratios")),
    (AbstractStep, ("trace",)),
    (AbstractSampling, ("trace",)),
  ):
    for name in names:
      monkeypatch.setattr(kind, name, start)
  monkeypatch.setattr(jax.distributed, "initialize", no_cluster)


def listing(folder) -> set[str]:
  return {
    os.path.join(root, name)
    for root, folders, files in os.walk(folder)
    for name in (*folders, *files)
  }


def outcome(argv, capfd, place) -> str:
  """ "started", "done" or "refused"; anything else is a fault."""
  before = listing(place)
  capfd.readouterr()
  try:
    with within(SECONDS):
      code = main(argv)
  except Started:
    code = "started"
  except BaseException as error:
    code = f"{type(error).__name__}: {error}"[:300]
  out, err = capfd.readouterr()
  new = sorted(listing(place) - before)
  for path in new:
    shutil.rmtree(path) if os.path.isdir(path) else None
  if code == "started":
    return code
  if code == 0:
    for path in new:
      if os.path.exists(path):
        os.unlink(path)
    return "done"
  faults = [] if code == 2 else [f"ended with {code}"]
  if code == 2 and (err.count("\n") != 1 or not err.startswith("ddit: ")):
    faults.append(f"printed {err[:600]!r}")
  if code == 2 and not (out + err).replace("\n", "").isprintable():
    faults.append(f"printed control characters: {err[:300]!r}")
  if new:
    faults.append(f"left {new}")
  return "; ".join(faults) or "refused"


@pytest.mark.slow
def test_odd_values_are_one_line(place, stopped, capfd):
  found, faults = collections.Counter(), []
  stream = calls(random.Random(0))
  for argv, _ in zip(stream, range(NUM_CALLS), strict=False):
    result = outcome(argv, capfd, place)
    if result in ("started", "done", "refused"):
      found[argv[0], result] += 1
    else:
      sound = set(SOUND[argv[0]])
      odd = [a[:120] for a in argv[1:] if a not in sound]
      faults.append(f"{argv[0]} {odd}: {result}")
  with capfd.disabled():
    print()
    for (verb, result), count in sorted(found.items()):
      print(f"{verb:9} {result:8} {count:5}")
    print(*faults, sep="\n")
  assert not faults
