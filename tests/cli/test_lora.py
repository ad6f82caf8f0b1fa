"""`ddit lora`: what it hands on, and what it refuses in one line."""

import pytest

from ddit_jax.cli.main import main
from ddit_jax.pipelines import lora_export


@pytest.fixture
def calls(monkeypatch):
  """(name of the export, arguments) of what the verb calls."""
  seen = []
  for name in ("export_adapter", "export_merged"):

    def record(checkpoint, out, *, name=name, **options):
      seen.append((name, checkpoint, out, options))
      return 0

    monkeypatch.setattr(lora_export, name, record)
  return seen


@pytest.mark.parametrize(
  ("flags", "name", "options"),
  [
    ([], "export_adapter", {"weights": "ema", "step": None}),
    (
      ["--merge", "--weights=params", "--step=4"],
      "export_merged",
      {"weights": "params", "step": 4},
    ),
  ],
)
def test_flags_reach_the_export(calls, flags, name, options):
  assert main(["lora", "--checkpoint=run", "--out=there", *flags]) == 0
  assert calls == [(name, "run", "there", options)]


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--out=a.safetensors"], "--checkpoint is missing"),
    (["--checkpoint=run"], "--out is missing"),
    (
      ["--checkpoint=run", "--out=there", "--weights=mean"],
      "unknown weights 'mean'",
    ),
    (
      ["--checkpoint=nowhere", "--out=a.safetensors"],
      "nowhere has no checkpoints",
    ),
  ],
)
def test_bad_flags_are_one_line(capsys, tmp_path, monkeypatch, flags, message):
  monkeypatch.chdir(tmp_path)
  assert main(["lora", *flags]) == 2
  err = capsys.readouterr().err
  assert message in err and err.count("\n") == 1
