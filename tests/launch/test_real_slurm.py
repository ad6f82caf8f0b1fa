"""launch/slurm.sh under a real SLURM of one node, started for the test."""

import getpass
import shutil
import socket
import subprocess
import time

import pytest

from tests.launch import scripts

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
CONF = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld_port}
SlurmdPort={slurmd_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SelectType=select/cons_tres
JobRequeue=1
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 Gres=gpu:2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES State=UP
"""
DDIT = """
echo "$JAX_LOCAL_DEVICE_IDS: $*"
code=$1
for word; do code=$word; done
[[ $code == stop ]] || exit "$code"
trap 'exit 75' TERM
sleep 60 &
wait
"""


def free_ports():
  """Two ports; SLURM takes no 0."""
  with socket.socket() as first, socket.socket() as second:
    for one in (first, second):
      one.bind(("127.0.0.1", 0))
    return first.getsockname()[1], second.getsockname()[1]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
  """Environment of SLURM's commands."""
  if missing := [name for name in PROGRAMS if not shutil.which(name)]:
    pytest.skip(
      f"NOT CHECKED: no {', '.join(missing)}; on Debian: apt install munge "
      "slurmctld slurmd slurm-client"
    )
  folder = tmp_path_factory.mktemp("slurm")
  host = socket.gethostname().partition(".")[0]
  ctld_port, slurmd_port = free_ports()
  (folder / "slurm.conf").write_text(
    CONF.format(
      folder=folder,
      host=host,
      user=getpass.getuser(),
      ctld_port=ctld_port,
      slurmd_port=slurmd_port,
    )
  )
  # SLURM counts a GPU only if its device exists.
  gpus = (f"NodeName={host} Name=gpu File=/dev/{x}\n" for x in ("null", "zero"))
  (folder / "gres.conf").write_text("".join(gpus))
  (folder / "key").write_bytes(bytes(range(64)))
  (folder / "key").chmod(0o600)
  scripts.fake(folder / "bin", ddit=DDIT)
  env = {
    "SLURM_CONF": str(folder / "slurm.conf"),
    "PATH": f"{folder / 'bin'}:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": str(folder),
  }
  munged = ["munged", "--foreground", "--force", f"--key-file={folder}/key"]
  munged += [f"--socket={folder}/munge.socket", f"--pid-file={folder}/m.pid"]
  munged += [f"--log-file={folder}/m.log", f"--seed-file={folder}/m.seed"]
  started = []
  try:
    for command in (munged, ["slurmctld", "-D"], ["slurmd", "-D"]):
      with (folder / "daemons.log").open("a") as log:
        started.append(
          subprocess.Popen(command, env=env, stdout=log, stderr=log)
        )
      time.sleep(1)
    wait(lambda: "idle" in call(env, "sinfo", "--noheader"), folder)
    yield env
  finally:
    for process in reversed(started):
      process.terminate()
      process.wait(timeout=30)


def call(env, *argv):
  return subprocess.run(
    [*map(str, argv)],
    env=env,
    cwd=scripts.ROOT,
    text=True,
    capture_output=True,
    timeout=60,
  ).stdout


def wait(is_true, folder):
  """Until it is true, at most a minute."""
  end = time.monotonic() + 60
  while not is_true():
    logs = [path.read_text()[-2000:] for path in folder.glob("*.log")]
    assert time.monotonic() < end, "\n".join(logs)
    time.sleep(0.5)


def submit(env, folder, what, *options):
  """The number of a job whose fake `ddit` does `what`."""
  argv = ["sbatch", "--parsable", f"--output={folder / 'out'}", *options]
  argv += ["--gpus-per-node=2", "launch/slurm.sh", "configs/digits.py"]
  number = call(env, *argv, folder / "w", what).strip()
  assert number.isdecimal()
  return number


def job_field(env, number, name):
  """A field of `scontrol show job`."""
  words = call(env, "scontrol", "show", "job", number).split()
  return dict(w.partition("=")[::2] for w in words)[name]


@pytest.mark.slow
@pytest.mark.parametrize(
  ("what", "states", "restarts"),
  [
    ("0", {"COMPLETED"}, "0"),
    ("2", {"FAILED"}, "0"),
    # Pending again, under the same number.
    ("75", {"PENDING"}, "1"),
    ("7", {"PENDING"}, "1"),
  ],
)
def test_how_the_processes_end_decides(slurm, tmp_path, what, states, restarts):
  number = submit(slurm, tmp_path, what, "--ntasks-per-node=2")
  wait(
    lambda: (
      job_field(slurm, number, "JobState") in states
      and job_field(slurm, number, "Restarts") == restarts
    ),
    tmp_path,
  )
  log = (tmp_path / "w.logs" / "1.log").read_text()
  # Two processes on the node: JAX deals out its GPUs.
  assert log.startswith(": train --distributed --stop_code=75 ")
  call(slurm, "scancel", number)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("signal", "state"), [("--signal=TERM", "PENDING"), (None, "CANCELLED")]
)
def test_only_a_plain_scancel_is_final(slurm, tmp_path, signal, state):
  number = submit(slurm, tmp_path, "stop")
  log = tmp_path / "w.logs" / "0.log"
  wait(lambda: log.exists() and log.read_text(), tmp_path)
  assert log.read_text().startswith("0,1: train")
  call(slurm, "scancel", *([signal] if signal else []), number)
  wait(lambda: job_field(slurm, number, "JobState") == state, tmp_path)
  call(slurm, "scancel", number)
