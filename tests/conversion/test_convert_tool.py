"""The command line: what it prints, and its exit codes."""

import pathlib
import runpy
import subprocess
import sys
import time

import pytest

from ddit_jax.checkpoint.manifest import verify_manifest

ROOT = pathlib.Path(__file__).parents[2]
TOOL = ROOT / "tools" / "convert_sd3_weights.py"


@pytest.fixture
def run(monkeypatch, capsys):
  """Runs the tool in this process: (exit code, output, errors)."""

  def call(*arguments):
    monkeypatch.setattr(sys, "argv", [str(TOOL), *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
      runpy.run_path(str(TOOL), run_name="__main__")
    captured = capsys.readouterr()
    return stop.value.code, captured.out, captured.err

  return call


def test_there_and_back(tmp_path, run, sd3_folder):
  code, out, err = run(sd3_folder, tmp_path / "x", "--target=sd3", "--verify")
  assert code == 0
  lines = out.splitlines()
  assert any(line.startswith("mapped ") for line in lines)
  assert lines[-2].startswith("verified: ")
  assert lines[-1] == f"wrote {tmp_path / 'x'}"
  assert "peak memory" in lines[-3] and "bound 1.00 GiB" in lines[-3]
  assert "MB/s" in lines[-4]
  assert "100%" in err  # the progress bar
  code, out, _ = run(tmp_path / "x", tmp_path / "y", "--export=a")
  assert code == 0
  assert (tmp_path / "y/transformer/config.json").is_file()


def test_paths_as_people_write_them(tmp_path, run, sd3_folder, monkeypatch):
  (tmp_path / "here").mkdir()
  (tmp_path / "sd3").symlink_to(sd3_folder)
  monkeypatch.chdir(tmp_path / "here")
  code, out, _ = run("../sd3", "../x", "--target=sd3", "--verify")
  assert code == 0
  assert "verified: all arrays were read back, and every value equals" in out
  code, out, _ = run("../x", "../here/../y", "--export=a")
  assert code == 0 and "verified" not in out
  assert out.splitlines()[-1] == f"wrote {tmp_path / 'y'}"
  for arguments in (("gs://b/x", "z"), ("../x", "s3://b/z", "--export=a")):
    code, out, err = run(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "is a bucket address" in err
  assert sorted(p.name for p in tmp_path.iterdir()) == ["here", "sd3", "x", "y"]
  assert list((tmp_path / "here").iterdir()) == []


def test_bad_input_is_one_line_and_exit_code_2(tmp_path, run, ddit_folder):
  missing = tmp_path / "nowhere"
  for arguments, message in (
    ((missing, tmp_path / "x"), "does not exist"),
    ((ddit_folder, tmp_path / "x", "--target=sd3"), "no pooled-text branch"),
    ((ddit_folder, tmp_path / "x", "--export=c"), "not a checkpoint"),
    ((ddit_folder, tmp_path / "x", "--format=q"), "unknown format"),
    ((ddit_folder, ddit_folder), "already exists"),
  ):
    code, out, err = run(*arguments)
    last = err.rstrip().splitlines()[-1]
    assert code == 2 and not out
    assert last.startswith("error: ") and message in last
  assert list(tmp_path.iterdir()) == []


def test_flags_that_cannot_be_are_one_line(tmp_path, run, sd3_folder):
  for flags, message in (
    (["--dtype=fp16"], "invalid choice: 'fp16'"),
    (["--quick"], "unrecognized arguments: --quick"),
    (["--vocab_size=many"], "invalid int value"),
    (["--params=x"], "--params is for an export only"),
    (["--export=a", "--seed=0", "--format=a"], "--format, --seed is for an im"),
    (["--export="], "is not a checkpoint"),
  ):
    code, out, err = run(sd3_folder, tmp_path / "x", *flags)
    assert code == 2 and not out
    assert err.startswith("error: ") and err.count("\n") == 1
    assert message in err
  assert list(tmp_path.iterdir()) == []


def test_interrupt_leaves_nothing(tmp_path, run, sd3_folder, monkeypatch):
  def interrupt(*args, **kwargs):
    raise KeyboardInterrupt

  monkeypatch.setattr("ddit_jax.conversion.convert.write_manifest", interrupt)
  code, out, err = run(sd3_folder, tmp_path / "x")
  assert code == 130 and not out
  assert err.splitlines()[-1] == "stopped: nothing was left behind"
  assert list(tmp_path.iterdir()) == []


def test_runs_as_a_program(tmp_path):
  done = subprocess.run(
    [sys.executable, TOOL, tmp_path / "nowhere", tmp_path / "x"],
    capture_output=True,
    text=True,
    env={"PYTHONPATH": str(ROOT), "PATH": ""},
  )
  assert done.returncode == 2
  assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: ")


@pytest.mark.slow
def test_of_two_conversions_into_one_folder_one_writes(tmp_path, ddit_folder):
  env = {"PYTHONPATH": str(ROOT), "PATH": "", "JAX_PLATFORMS": "cpu"}
  for pair in range(6):
    target = tmp_path / str(pair)
    tools = []
    for _ in range(2):
      command = [sys.executable, TOOL, ddit_folder, target]
      tools.append(
        subprocess.Popen(
          command,
          stdout=subprocess.PIPE,
          stderr=subprocess.PIPE,
          text=True,
          env=env,
        )
      )
      time.sleep(0.1 * pair)
    outputs = [tool.communicate() for tool in tools]
    assert sorted(tool.returncode for tool in tools) == [0, 2]
    for tool, (out, err) in zip(tools, outputs, strict=True):
      if tool.returncode == 0:
        assert out.splitlines()[-1] == f"wrote {target}"
      else:
        last = err.splitlines()[-1]
        assert "another process is writing" in last or "already exists" in last
    verify_manifest(target)
  assert len(list(tmp_path.iterdir())) == 6
