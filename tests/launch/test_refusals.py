"""Every script says in one line what it lacks, and is clean shell."""

import pathlib
import shutil
import subprocess
import sys

import pytest

from tests.launch import scripts

GKE = {
  "NAME": "digits",
  "IMAGE": "us-docker.pkg.dev/p/ddit/train:1",
  "CLAIM": "filestore",
  "ACCELERATOR": "tpu-v5p-slice",
  "TOPOLOGY": "4x4x4",
  "HOSTS": "16",
  "CHIPS": "4",
}
QUEUED = {
  "PROJECT": "p",
  "ZONE": "z",
  "ACCELERATOR_TYPE": "v5p-128",
  "RUNTIME_VERSION": "v2",
  "SETUP": "true",
}
JOB = ("configs/digits.py", "/shared/w")


def without(values, *names, **changes):
  return {k: v for k, v in values.items() if k not in names} | changes


@pytest.mark.parametrize(
  ("name", "argv", "values", "message"),
  [
    ("local.sh", (), {}, "usage: launch/local.sh NUM_PROCESSES COMMAND"),
    ("local.sh", ("2",), {}, "usage: launch/local.sh NUM_PROCESSES COMMAND"),
    ("local.sh", ("0", "true"), {}, "NUM_PROCESSES must be 1 ... 9999"),
    ("local.sh", ("two", "true"), {}, "got 'two'"),
    ("local.sh", ("2", "no-such"), {}, "no command 'no-such'"),
    ("local.sh", ("2", "true"), {"DEVICES": "x"}, "DEVICES must be 1"),
    ("local.sh", ("2", "true"), {"GPUS": "-1"}, "GPUS must be 1"),
    ("slurm.sh", (), {}, "usage: sbatch launch/slurm.sh CONFIG WORKDIR"),
    ("slurm.sh", JOB, {}, "start it with sbatch"),
    ("slurm.sh", ("", "w"), {"SLURM_JOB_ID": 1}, "CONFIG is empty"),
    ("slurm.sh", ("c", ""), {"SLURM_JOB_ID": 1}, "WORKDIR is empty"),
    (
      "slurm.sh",
      JOB,
      {"SLURM_JOB_ID": 1, "MAX_FAILURES": "x"},
      "MAX_FAILURES must be a number, got 'x'",
    ),
    ("slurm.sh", JOB, {"SLURM_JOB_ID": 1}, "no command ddit"),
    ("gke.sh", ("tpu",), GKE, "usage: launch/gke.sh tpu|gpu CONFIG WORKDIR"),
    ("gke.sh", ("npu", *JOB), GKE, "'npu' is neither tpu nor gpu"),
    ("gke.sh", ("tpu", "c", "runs/w"), GKE, "WORKDIR must lie in /shared"),
    *(
      ("gke.sh", ("tpu", *JOB), without(GKE, name), f"{name} is not set")
      for name in GKE
    ),
    (
      "gke.sh",
      ("tpu", *JOB),
      without(GKE, HOSTS="8"),
      "HOSTS 8 x CHIPS 4 are not the chips of TOPOLOGY 4x4x4",
    ),
    ("gke.sh", ("tpu", *JOB), without(GKE, NAME="A_b"), "NAME has no such"),
    ("gke.sh", ("tpu", *JOB), without(GKE, IMAGE="a: b"), "IMAGE has no such"),
    ("gke.sh", ("gpu", *JOB), without(GKE, SLICES="2"), "gpu takes no SLICES"),
    ("gke.sh", ("tpu", *JOB), GKE, "no command kubectl"),
    ("tpu_pod.sh", ("n", "z"), {}, "usage: launch/tpu_pod.sh NAME ZONE CONFIG"),
    ("tpu_pod.sh", ("", "z", *JOB), {}, "an argument is empty"),
    ("tpu_pod.sh", ("n", "z", *JOB), {}, "no command gcloud"),
    ("tpu_queued.sh", ("n",), {}, "usage: launch/tpu_queued.sh NAME CONFIG"),
    *(
      ("tpu_queued.sh", ("n", *JOB), without(QUEUED, name), f"{name} is not")
      for name in QUEUED
    ),
    ("tpu_queued.sh", ("n", *JOB), QUEUED | {"SLICES": "0"}, "SLICES must be"),
    ("tpu_queued.sh", ("n", *JOB), QUEUED, "no command gcloud"),
  ],
)
def test_what_is_missing_is_refused_in_one_line(
  tmp_path, name, argv, values, message
):
  env = scripts.environment(tmp_path / "bin", **values)
  result = scripts.run(name, *argv, env=env)
  assert result.returncode == 2, result.stderr
  assert result.stdout == ""
  [line] = result.stderr.splitlines()
  assert message in line and f"launch/{name}" in line


@pytest.mark.parametrize(
  "name", sorted(p.name for p in scripts.LAUNCH.glob("*.sh"))
)
def test_shellcheck_finds_nothing(name):
  beside = pathlib.Path(sys.executable).with_name("shellcheck")
  shellcheck = beside if beside.exists() else shutil.which("shellcheck")
  if shellcheck is None:
    pytest.skip("NOT CHECKED: no shellcheck; it comes with the extra `test`")
  result = subprocess.run(
    [shellcheck, "--external-sources", f"launch/{name}"],
    cwd=scripts.ROOT,
    text=True,
    capture_output=True,
  )
  assert result.returncode == 0, result.stdout
