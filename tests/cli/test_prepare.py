"""`ddit prepare`: flags, what it prints, and one line for bad input."""

import io
import json
import subprocess
import sys

import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from ddit_jax.cli import main as main_module
from ddit_jax.cli.prepare import VERB, cache_summary
from ddit_jax.data.example import BadRecord, Example
from ddit_jax.data.sources.array_record import open_array_record
from ddit_jax.experiment import write_cache
from tests import tiny_run
from tests.data.prepare import tiny_cache


class TinySource:
  """Ten texts, one of which is bad."""

  name = "tiny"
  removed = {"ratio": 1_234}  # noqa: RUF012

  def __len__(self):
    return 10

  def __getitem__(self, index):
    if index == 4:
      raise BadRecord("bad_json", "broken", "r4")
    return Example(record_id=f"r{index}", image=None, texts=(f"text {index}",))

  def fingerprint(self):
    return "f"


def png(width, height, shade) -> bytes:
  file = io.BytesIO()
  Image.new("RGB", (width, height), (shade, 0, 0)).save(file, "PNG")
  return file.getvalue()


@pytest.fixture
def opened(monkeypatch):
  """Calls of open_source; the verb gets a TinySource."""
  calls = []

  def open_source(name, spec):
    calls.append((name, dict(spec)))
    if spec["kind"] == "unknown":
      raise ValueError("no kind\n'unknown'")
    return TinySource()

  fake = type(sys)("open_source")
  fake.open_source = open_source
  fake.keys_of = lambda kind: {"path": True}
  path = "ddit_jax.data.sources.registry"
  monkeypatch.setitem(sys.modules, path, fake)
  monkeypatch.setitem(main_module.VERBS, "prepare", VERB)
  return calls


@pytest.fixture
def run(opened, capsys):
  def run_with(*argv):
    """(exit code, stdout, stderr) of `ddit prepare argv`."""
    code = main_module.main(["prepare", *argv])
    captured = capsys.readouterr()
    return code, captured.out, captured.err

  return run_with


def test_counts_and_places_are_printed(tmp_path, opened, run):
  out = tmp_path / "out"
  flags = ["--kind=tiny", "--path=p", f"--out={out}", "--max_bad_rate=0.1"]
  code, printed, _ = run(*flags)
  assert opened == [("tiny", {"kind": "tiny", "path": "p"})]
  assert code == 0
  assert printed == (
    f"{out}: 9 records in 1 shard, 0.000131 GB\n"
    "skipped by filters: ratio 1,234\n"
    "bad records skipped: 1 (bad_json 1), listed in "
    f"{out / 'bad_records.jsonl'}\n"
  )
  source = open_array_record("prepared", path=str(out))
  assert source[4].texts == ("text 5",)
  # Once more: it is finished, and says the same.
  assert run(*flags) == (0, printed, "")


def test_the_source_is_read_from_json(tmp_path, opened, run):
  spec = {"kind": "tiny", "path": "p", "filters": {"max_ratio": 2.0}}
  (tmp_path / "vqa.json").write_text(json.dumps(spec))
  code, _, _ = run(
    f"--source={tmp_path / 'vqa.json'}",
    f"--out={tmp_path / 'out'}",
    "--max_bad_rate=0.2",
    "--shards=3",
    "--short_side=32",
    "--jpeg_quality=80",
    "--max_ratio=3",
    "--min_short_side=8",
    "--threads=2",
  )
  assert code == 0
  assert opened == [("vqa", spec)]
  body = json.loads((tmp_path / "out" / "dataset.json").read_text())
  assert body["options"] == {
    "num_shards": 3,
    "short_side": 32,
    "jpeg_quality": 80,
    "max_ratio": 3.0,
    "min_short_side": 8,
  }


def test_without_a_file_the_flags_alone_leave_images_out(
  tmp_path, monkeypatch, capsys
):
  monkeypatch.setitem(main_module.VERBS, "prepare", VERB)
  for name, size in {"a": (20, 20), "b": (9, 90), "c": (300, 300)}.items():
    (tmp_path / f"{name}.png").write_bytes(png(*size, 7))
    (tmp_path / f"{name}.txt").write_text(name)
  (tmp_path / "d.png").write_bytes(png(20, 20, 7))
  flags = ["prepare", "--kind=image_folder", f"--path={tmp_path}"]
  for number, (more, expected) in enumerate(
    {
      (): ("3 records", "no_text 1"),
      ("--min_short_side=10",): ("2 records", "no_text 1"),
      ("--max_ratio=4",): ("2 records", "no_text 1"),
    }.items()
  ):
    out = tmp_path.with_name(f"{tmp_path.name}_{number}")
    assert main_module.main([*flags, *more, f"--out={out}"]) == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in expected), printed


def test_parquet_to_shards_to_smaller_shards(tmp_path, monkeypatch, capsys):
  """With real sources, by the shorthand flags and by a JSON file."""
  monkeypatch.setitem(main_module.VERBS, "prepare", VERB)
  images = [png(64, 48, shade) for shade in range(5)]
  rows = {"image": [{"bytes": b, "path": None} for b in images]}
  rows["text"] = [f"text {i}" for i in range(5)]
  parquet.write_table(pa.table(rows), tmp_path / "rows.parquet")
  first, second = tmp_path / "first", tmp_path / "second"
  flags = [f"--path={tmp_path / 'rows.parquet'}", f"--out={first}"]
  assert main_module.main(["prepare", "--kind=parquet", *flags]) == 0
  source = open_array_record("first", path=str(first))
  assert [source[i].image for i in range(5)] == images
  spec = {"kind": "array_record", "path": str(first), "check_hashes": True}
  (tmp_path / "spec.json").write_text(json.dumps(spec))
  flags = [f"--source={tmp_path / 'spec.json'}", f"--out={second}"]
  assert main_module.main(["prepare", *flags, "--short_side=24"]) == 0
  source = open_array_record("second", path=str(second))
  sizes = {Image.open(io.BytesIO(source[i].image)).size for i in range(5)}
  assert sizes == {(32, 24)}
  assert [source[i].texts for i in range(5)] == [(t,) for t in rows["text"]]
  assert "5 records in 1 shard" in capsys.readouterr().out
  assert main_module.main(["prepare", "--kind=parket", *flags[1:], "--path=p"])
  assert "did you mean 'parquet'?" in capsys.readouterr().err


@pytest.mark.parametrize(
  ("flags", "line"),
  [
    ([], "--out is missing: new folder"),
    (["--out=o"], "--source is missing: a JSON file that describes the sour"),
    (["--out=o", "--kind=tiny"], "--path is missing"),
    (["--out=o", "--path=p"], "--kind is missing"),
    (["--out=o", "--source=s", "--kind=tiny"], "--source and --kind or"),
    (
      ["--out=o", "--source=none.json"],
      "--source=none.json is not a file: give",
    ),
    (["--out=o", "--source=bad.json"], "bad.json is not JSON"),
    (["--out=o", "--kind=unknown", "--path=p"], "no kind 'unknown'"),
    (
      ["--out=o", "--kind=tiny", "--path=p", "--shards=0"],
      "shards must be between 1 and 99999",
    ),
    (["--out=o", "--kind=tiny", "--path=p"], "tiny: 1 of 10 records are bad"),
    (["--out=bad.json", "--kind=tiny", "--path=p"], "bad.json is a file: choo"),
    (["--out=bad.json/o", "--kind=tiny", "--path=p"], "[Errno 20] Not a dir"),
    (["--out=o", "--shard=3"], "ddit prepare has no flag --shard: did you mea"),
  ],
)
def test_bad_input_is_one_line(tmp_path, monkeypatch, run, flags, line):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "bad.json").write_text("{")
  code, out, err = run(*flags)
  assert (code, out) == (2, "")
  assert err.replace(f"{tmp_path}/", "").startswith(f"ddit: {line}")
  assert err.count("\n") == 1


def test_flags_are_checked_without_heavy_imports():
  program = (
    "import sys\n"
    "from ddit_jax.cli.prepare import VERB\n"
    "VERB.parse(['--kind=x'])\n"
    "assert max(map(len, VERB.help_text().splitlines())) <= 80\n"
    "heavy = {'jax', 'numpy', 'PIL', 'pyarrow', 'array_record', 'grain'}\n"
    "print(heavy & set(sys.modules))\n"
  )
  done = subprocess.run(
    [sys.executable, "-c", program], capture_output=True, text=True
  )
  assert (done.returncode, done.stdout) == (0, "set()\n"), done.stderr


CONFIG = f"--config={tiny_run.CONFIG}"
TASK = "--task=text_to_image"


def test_flags_reach_the_request(tmp_path, run, monkeypatch):
  calls = []

  def write_caches(settings, request, progress):
    progress(3, 4)
    calls.append((settings, request))
    return {"web": tiny_cache.writer(tmp_path / "out" / "web").write()}

  monkeypatch.setattr(write_cache, "write_caches", write_caches)
  code, out, _ = run(
    "--cache=latents,t5",
    CONFIG,
    "--config.seed=5",
    TASK,
    f"--out={tmp_path / 'out'}",
    "--shards=3",
    "--rows_per_device=7",
    "--max_bad_rate=0.2",
    "--threads=2",
  )
  assert code == 0
  [(settings, request)] = calls
  assert settings.seed == 5
  assert request.parts == ("latents", "t5")
  assert (request.task, request.out) == ("text_to_image", f"{tmp_path}/out")
  assert (request.num_shards, request.rows_per_device) == (3, 7)
  assert (request.max_bad_rate, request.threads) == (0.2, 2)
  folder = tmp_path / "out" / "web"
  assert out.splitlines() == [
    f"{folder}: latents of 23 records, 0.000786 GB",
    "bad records, replaced in training: 2 (missing_file 1, "
    f"truncated_image 1), listed in {folder / 'bad_records.jsonl'}",
    "features of 35 texts, 1 of them cut; texts that cannot be used: "
    "empty_text 1",
    f"to train on them: --config.data.text_to_image.cache={tmp_path}/out",
  ]


def test_a_summary_without_features_is_short(tmp_path):
  manifest = tiny_cache.writer(tmp_path, has_features=False).write()
  assert len(cache_summary(manifest, tmp_path).splitlines()) == 2


@pytest.mark.parametrize(
  ("flags", "line"),
  [
    (["--cache=latents"], "--config is missing"),
    (["--cache=latents", CONFIG], "--task is missing"),
    (["--cache=latents", CONFIG, TASK], "--out is missing"),
    (
      ["--cache=latents", CONFIG, TASK, "--out=o", "--short_side=9"],
      "--short_side is for copying images: with --cache the config says",
    ),
    (
      ["--cache=latents", CONFIG, TASK, "--out=o"],
      "a cache holds images of data.sources, and the digit world generates its",
    ),
    (
      ["--cache=latents", CONFIG, "--config.sead=1", TASK, "--out=o"],
      "unknown config key sead: did you mean",
    ),
    (["--out=o", TASK], "--task is for caches: add --cache=latents, or"),
    (["--out=o", "--config.seed=1"], "--config.seed is for caches: add --cac"),
  ],
)
def test_bad_input_for_caches_is_one_line(
  tmp_path, monkeypatch, run, flags, line
):
  monkeypatch.chdir(tmp_path)
  code, out, err = run(*flags)
  assert (code, out) == (2, "")
  assert err.startswith(f"ddit: {line}") and err.count("\n") == 1
