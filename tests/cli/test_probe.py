"""`ddit probe` joins its job and ends as `ddit train` does."""

import pytest

from ddit_jax.cli import cluster
from ddit_jax.cli.main import BAD_INPUT, main
from ddit_jax.experiment import layer_probe, run_report

CONFIG = "configs/feature_captioner.py:sd3_frozen"


@pytest.fixture
def probe(tmp_path, monkeypatch):
  """Runs `ddit probe`; a stop signal ends what would train."""
  monkeypatch.setattr(layer_probe, "probe_layers", lambda *_: False)
  monkeypatch.setattr(run_report, "write_run_reports", list)

  def run(*flags):
    argv = [f"--config={CONFIG}", "--layers=1,4", f"--workdir={tmp_path}"]
    return main(["probe", *argv, "--compilation_cache=off", *flags])

  return run


def test_the_job_keeps_to_the_configs_patience(probe, monkeypatch):
  joined = []
  monkeypatch.setattr(cluster, "join", lambda _, **given: joined.append(given))
  changes = ("--config.train.peer_timeout_seconds=90", "--stop_code=75")
  assert probe(*changes) == 75
  assert joined == [{"peer_timeout_seconds": 90}]


def test_stop_codes_are_what_a_process_can_end_with(probe, capsys):
  assert probe("--stop_code=256") == BAD_INPUT
  assert "--stop_code must be in 0 ... 255: 256" in capsys.readouterr().err
