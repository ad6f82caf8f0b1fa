"""TPU VMs: what is sent to the workers, and when it is sent again."""

import shlex
import subprocess

import pytest

from tests.launch import scripts
from tests.launch.test_refusals import JOB, QUEUED

# Each call of gcloud takes the next word of the file with answers: an exit code
# for ssh, a state for describe. Other calls succeed.
GCLOUD = """
echo "$*" >> calls
case "$*" in
  *" ssh "*) kind=codes ;;
  *" describe "*) kind=states ;;
  *) exit 0 ;;
esac
answer=$(head -n 1 $kind)
sed -i '1{$!d}' $kind
[[ $kind == codes ]] && exit "$answer"
[[ $answer == MISSING ]] && exit 1
echo "$answer"
"""


def run(tmp_path, name, *argv, codes, states="ACTIVE", **values):
  """The result and the calls of gcloud."""
  folder = tmp_path / "work"
  folder.mkdir()
  body = f"cd {shlex.quote(str(folder))}\n{GCLOUD}"
  scripts.fake(tmp_path / "bin", gcloud=body)
  for kind, words in (("codes", codes), ("states", states)):
    (folder / kind).write_text("\n".join(str(words).split()) + "\n")
  env = scripts.environment(tmp_path / "bin", RETRY_SECONDS=0, **values)
  result = scripts.run(name, *argv, env=env)
  return result, (folder / "calls").read_text().splitlines()


@pytest.mark.parametrize(
  ("codes", "code", "starts"),
  [
    ("0", 0, 1),
    ("2", 2, 1),
    ("75 75 75 75 0", 0, 5),
    ("1 2", 2, 2),
    ("1 1 1 0", 1, 3),
    # A stop that was saved ends a row of failures.
    ("1 1 75 1 255 0", 0, 6),
  ],
)
def test_a_slice_starts_again_until_it_is_done(tmp_path, codes, code, starts):
  result, calls = run(tmp_path, "tpu_pod.sh", "n", "z", *JOB, codes=codes)
  assert result.returncode == code, result.stderr
  assert len(calls) == starts
  assert all("tpus tpu-vm ssh n --zone=z --worker=all" in c for c in calls)


def test_the_command_survives_the_worker_s_shell(tmp_path):
  note = '--config.note=it\'s a "b" $c'
  argv = ("n", "z", "configs/digits.py", tmp_path / "w", note)
  _, [call] = run(tmp_path, "tpu_pod.sh", *argv, codes="0")
  command = call.partition("--command=")[2]
  shown = tmp_path / "shown"
  scripts.fake(
    tmp_path / "bin",
    pip="exit 0",
    ddit=f'printf "%s\\n" "$@" > {shown}; echo out; exit 75',
  )
  (tmp_path / "ddit_jax").mkdir()
  scripts.fake(tmp_path / "bin", worker=command)
  env = scripts.environment(tmp_path / "bin", HOME=tmp_path)
  worker = subprocess.run(
    [tmp_path / "bin" / "worker"], env=env, capture_output=True, text=True
  )
  assert (worker.returncode, worker.stdout) == (75, "out\n")
  assert shown.read_text().splitlines() == [
    "train",
    "--distributed",
    "--stop_code=75",
    "--config=configs/digits.py",
    f"--workdir={tmp_path / 'w'}",
    note,
  ]
  [log] = (tmp_path / "w.logs").iterdir()
  assert log.read_text() == "out\n"


def verbs(calls):
  return [call.split()[3] for call in calls]


def test_slices_are_asked_for_waited_for_and_asked_for_again(tmp_path):
  result, calls = run(
    tmp_path,
    "tpu_queued.sh",
    "n",
    *JOB,
    codes="255 0",
    # Missing, queued, taken away while it runs, gone, then there again.
    states="MISSING WAITING_FOR_RESOURCES ACTIVE SUSPENDED SUSPENDED MISSING "
    "ACTIVE",
    **QUEUED | {"SLICES": 2, "SPOT": 1, "MAX_FAILURES": 1},
  )
  assert result.returncode == 0, result.stderr
  assert [v for v in verbs(calls) if v != "describe"] == [
    "create",
    "ssh",
    "delete",
    "create",
    "ssh",
  ]
  create = next(call for call in calls if " create " in call)
  for flag in (
    "create n --project=p --zone=z",
    "--accelerator-type=v5p-128 --runtime-version=v2",
    "--node-count=2 --node-prefix=n --spot",
  ):
    assert flag in create
  assert "--node=all --worker=all" in next(c for c in calls if " ssh " in c)


def test_a_request_that_fails_is_not_repeated_for_ever(tmp_path):
  result, calls = run(
    tmp_path, "tpu_queued.sh", "n", *JOB, codes="0", states="FAILED", **QUEUED
  )
  assert result.returncode == 1
  assert "failure 3, code 1; given up" in result.stderr
  assert "ssh" not in verbs(calls)


def test_bad_input_on_queued_slices_is_final(tmp_path):
  result, calls = run(tmp_path, "tpu_queued.sh", "n", *JOB, codes="2", **QUEUED)
  assert result.returncode == 2
  assert verbs(calls).count("ssh") == 1
