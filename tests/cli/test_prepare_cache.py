"""`ddit prepare --cache`: flags, what it prints, and one line for bad input."""

import pytest

from ddit_jax.cli import main as main_module
from ddit_jax.cli.prepare import cache_summary
from ddit_jax.experiment import write_cache
from tests import tiny_run
from tests.data.caches import tiny_cache

CONFIG = f"--config={tiny_run.CONFIG}"
STREAM = "--stream=text_to_image"


@pytest.fixture
def run(capsys):
  def run_with(*argv):
    """(exit code, stdout, stderr) of `ddit prepare argv`."""
    code = main_module.main(["prepare", *argv])
    captured = capsys.readouterr()
    return code, captured.out, captured.err

  return run_with


def test_flags_reach_the_request(tmp_path, run, monkeypatch):
  calls = []

  def write_caches(settings, request, make_progress):
    calls.append((settings, request, make_progress()))
    return {"web": tiny_cache.writer(tmp_path / "out" / "web").write()}

  monkeypatch.setattr(write_cache, "write_caches", write_caches)
  code, out, _ = run(
    "--cache=latents,t5",
    CONFIG,
    "--config.seed=5",
    STREAM,
    f"--out={tmp_path / 'out'}",
    "--shards=3",
    "--rows_per_device=7",
    "--max_bad_rate=0.2",
    "--threads=2",
  )
  assert code == 0
  [(settings, request, progress)] = calls
  assert settings.seed == 5 and callable(progress)
  assert request.parts == ("latents", "t5")
  assert (request.stream, request.out) == ("text_to_image", f"{tmp_path}/out")
  assert (request.num_shards, request.rows_per_device) == (3, 7)
  assert (request.max_bad_rate, request.threads) == (0.2, 2)
  folder = tmp_path / "out" / "web"
  assert out.splitlines() == [
    f"{folder}: latents of 23 records, 0.000786 GB",
    "bad records, replaced in training: missing_file 1, truncated_image 1, "
    f"listed in {folder / 'bad_records.jsonl'}",
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
    (["--cache=latents", CONFIG], "--stream is missing"),
    (["--cache=latents", CONFIG, STREAM], "--out is missing"),
    (
      ["--cache=latents", CONFIG, STREAM, "--out=o", "--short_side=9"],
      "--short_side is for copying images: with --cache the config says",
    ),
    (
      ["--cache=latents", CONFIG, STREAM, "--out=o"],
      "a cache holds images of data.sources, and the digit world draws its",
    ),
    (
      ["--cache=latents", CONFIG, "--config.sead=1", STREAM, "--out=o"],
      "unknown config key sead: did you mean",
    ),
    (["--out=o", STREAM], "--stream is for caches: add --cache=latents, or"),
    (["--out=o", "--config.seed=1"], "--config.seed is for caches: add --cac"),
  ],
)
def test_bad_input_is_one_line(tmp_path, monkeypatch, run, flags, line):
  monkeypatch.chdir(tmp_path)
  code, out, err = run(*flags)
  assert (code, out) == (2, "")
  assert err.startswith(f"ddit: {line}") and err.count("\n") == 1
