"""A workdir's lock, what may change in it, full disks; result folders."""

import dataclasses
import errno
import json
import logging
import os
import shutil
import subprocess
import sys

import pytest

from ddit_jax.checkpoint.store import checkpoints_in
from ddit_jax.config.load import from_dict
from ddit_jax.errors import InputError
from ddit_jax.experiment.config import Config
from ddit_jax.experiment.workdir import (
  CHANGEABLE,
  RunFolder,
  explaining_stops,
  output_folder,
)
from tests import tiny_run


def test_the_folder_is_made_and_locked_until_it_is_left(tmp_path):
  path = tmp_path / "a" / "b"
  with RunFolder(path):
    with pytest.raises(InputError) as caught:
      RunFolder(path)
    assert str(caught.value) == (
      f"another process is training in {path}: wait for it or choose another "
      "--workdir"
    )
  with RunFolder(path):
    pass


def test_a_killed_process_leaves_no_lock(tmp_path):
  program = (
    "import os, signal; from ddit_jax.experiment.workdir import RunFolder\n"
    f"folder = RunFolder({str(tmp_path)!r})\n"
    "os.kill(os.getpid(), signal.SIGKILL)"
  )
  done = subprocess.run([sys.executable, "-c", program])
  assert done.returncode == -9 and (tmp_path / ".lock").exists()
  with RunFolder(tmp_path):
    pass


def test_a_folder_below_a_file_cannot_be_written(tmp_path):
  (tmp_path / "file").touch()
  for path in (tmp_path / "file", tmp_path / "file" / "run"):
    with pytest.raises(InputError, match="cannot be written"):
      RunFolder(path)
    with (
      pytest.raises(InputError, match=f"--out={path} cannot be written"),
      output_folder(path),
    ):
      pass


def test_a_folder_for_results_is_made_and_left_empty(tmp_path):
  with output_folder(str(tmp_path / "a" / "b")) as folder:
    assert folder == tmp_path / "a" / "b"
  assert list(folder.iterdir()) == []
  with output_folder(tmp_path):  # it may hold something already
    pass


@pytest.mark.parametrize("place", [RunFolder, output_folder])
def test_what_is_refused_leaves_nothing_behind(tmp_path, place):
  with pytest.raises(InputError), place(tmp_path / "a" / "b") as folder:
    getattr(folder, "checkpoints", tmp_path).mkdir(exist_ok=True)
    raise InputError("no")
  assert list(tmp_path.iterdir()) == []
  with pytest.raises(InputError), place(tmp_path / "a" / "b"):
    (tmp_path / "a" / "b" / "result").touch()
    raise InputError("no")
  assert (tmp_path / "a" / "b" / "result").exists()


def test_results_have_one_writer_at_a_time(tmp_path):
  with output_folder(tmp_path / "out") as folder:
    (folder / "result").touch()
    with (
      pytest.raises(InputError, match="another process is writing into"),
      output_folder(folder),
    ):
      pass
  with output_folder(folder):
    pass
  assert [path.name for path in folder.iterdir()] == ["result"]


def test_results_that_a_full_disk_does_not_take_are_one_line(tmp_path):
  error = OSError(28, "No space left on device", "results.jsonl")
  with pytest.raises(InputError, match=r"stopped by .* space .*results"):
    with output_folder(tmp_path / "out"):
      raise error
  assert list(tmp_path.iterdir()) == []
  with pytest.raises(BrokenPipeError), output_folder(tmp_path):
    raise BrokenPipeError


def test_a_workdir_that_disappears_hides_no_error(tmp_path):
  with pytest.raises(InputError, match=r"^no$"), RunFolder(tmp_path / "run"):
    shutil.rmtree(tmp_path / "run")
    raise InputError("no")


def test_a_lock_is_a_regular_file_of_the_workdir(tmp_path):
  mine = tmp_path / "mine"
  mine.write_text("precious")
  run = tmp_path / "run"
  run.mkdir()
  (run / ".lock").symlink_to(mine)
  with pytest.raises(InputError, match="lock is not a regular file"):
    RunFolder(run)
  assert mine.read_text() == "precious"
  (run / ".lock").unlink()
  os.mkfifo(run / ".lock")
  with pytest.raises(InputError, match="lock is not a regular file"):
    RunFolder(run)


def test_a_workdir_may_be_written_in_any_way(tmp_path, monkeypatch):
  (tmp_path / "disk" / "a").mkdir(parents=True)
  (tmp_path / "link").symlink_to(tmp_path / "disk" / "a")
  monkeypatch.chdir(tmp_path / "disk")
  for path in ("../run", "a/../../run", f"{tmp_path}/run", "../link/../../run"):
    with RunFolder(path) as folder:
      assert folder.path == tmp_path / "run"
  with RunFolder("../link") as folder:
    # The stages of a job lie beside the name that is given.
    config = tiny_run.settings(init_from="stage:first")
    assert config.start_of(folder.path) == str(tmp_path / "first")


def test_checkpoints_are_found_from_the_workdir_or_their_own_folder(tmp_path):
  expected = tmp_path / "checkpoints"
  assert checkpoints_in(tmp_path) == checkpoints_in(expected) == expected
  with RunFolder(tmp_path) as folder:
    assert folder.checkpoints == expected


def test_the_settings_are_written_for_people_and_programs(tmp_path):
  settings = from_dict(Config, {"name": "mine", "seed": 3})
  with RunFolder(tmp_path) as folder:
    folder.write_config(settings)
  saved = json.loads((tmp_path / "config.json").read_text())
  assert from_dict(Config, saved) == settings


def changed(**sections) -> Config:
  return from_dict(Config, sections)


@pytest.mark.parametrize(
  "sections",
  [
    {"name": "another"},
    {"mesh": {"replica": 2}},
    {"train": {"num_steps": 7, "checkpoint_every": 3}},
    {"sample": {"image": {"guidance_scale": 1.0}}},
    {"evaluate": {"split": "validation"}},
  ],
)
def test_what_does_not_alter_the_training_may_change(tmp_path, sections):
  assert set(sections) <= set(CHANGEABLE)
  with RunFolder(tmp_path) as folder:
    folder.check_same_run(changed(**sections), Config(), 5)


@pytest.mark.parametrize(
  ("sections", "message"),
  [
    ({"seed": 1}, r"\(seed was 0 and is 1\)"),
    (
      {"data": {"world": "scenes_32"}},
      r"\(data.world was 'one_digit' and is 'scenes_32'\)",
    ),
    ({"optimizer": {"beta1": 0.5}}, r"\(optimizer.beta1 was 0.9 and is 0.5\)"),
    (
      {
        "data": {
          "text_to_image": {"batch_size": 32, "mixture": {"0": {"a": 2.0}}}
        }
      },
      r"\(data.text_to_image.mixture.0 was None and is {'a': 2.0}\)",
    ),
    ({"seed": 1, "loss": {"text_weight": 3}}, r"and is 3.0 and 1 more\)"),
  ],
)
def test_what_alters_the_training_may_not_change(tmp_path, sections, message):
  with RunFolder(tmp_path) as folder, pytest.raises(InputError, match=message):
    folder.check_same_run(changed(**sections), Config(), 5)


def test_named_keys_and_sections_may_change(tmp_path, caplog):
  saved = with_mixture({"0": {"a": 1.0}})
  edited = with_mixture({"0": {"a": 1.0, "b": 2.0}})
  sources = {n: {"kind": "image_folder", "path": f"new/{n}"} for n in "ab"}
  edited = dataclasses.replace(
    edited,
    seed=3,
    data=dataclasses.replace(edited.data, sources=sources),
    optimizer=dataclasses.replace(edited.optimizer, learning_rate=0.5),
  )
  keys = "seed, optimizer,data.sources.a.path,data.image_to_text.mixture,"
  with RunFolder(tmp_path) as folder:

    def check(keys):
      config = dataclasses.replace(edited, resume_changes=keys)
      folder.check_same_run(config, saved, 5)

    with pytest.raises(InputError) as caught:
      check(keys)
    assert str(caught.value) == (
      f"{tmp_path} holds a run with other settings (data.sources.b.path was "
      "'b' and is 'new/b'): restore them, accept them with "
      "--config.resume_changes=seed,optimizer,data.sources.a.path,"
      "data.image_to_text.mixture,data.sources.b.path, or choose another "
      "--workdir"
    )
    assert caplog.messages == []
    with caplog.at_level(logging.WARNING):
      check(keys + "data.sources.b")
    assert "from step 5 on, seed was 0 and is 3" in caplog.messages
    assert len(caplog.messages) == 5
    with pytest.raises(InputError, match=r"\(seed was 0 .*data,seed, or"):
      check("optimizer,data")


@pytest.mark.parametrize(
  ("keys", "message"),
  [
    ("optimizer.learning_rte", "rte': did you mean 'optimizer.learning_rate'"),
    ("data.tokenizer", "takes from its checkpoint: start another run with"),
  ],
)
def test_other_names_of_keys_are_refused(tmp_path, keys, message):
  config = dataclasses.replace(Config(), resume_changes=keys)
  with RunFolder(tmp_path) as folder, pytest.raises(InputError, match=message):
    folder.check_same_run(config, Config(), 5)


def test_every_section_is_either_changeable_or_not_by_decision():
  fields = {field.name for field in dataclasses.fields(Config)}
  assert fields - set(CHANGEABLE) == {
    *("schema_version", "seed", "init_from", "init_weights"),
    *("model", "data", "loss", "optimizer", "lora"),
    *("post_training", "captioner"),
  }


def with_mixture(mixture) -> Config:
  stream = {"batch_size": 8, "mixture": mixture}
  sources = {name: {"kind": "image_folder", "path": name} for name in "ab"}
  always = {"batch_size": 8, "mixture": {"0": {"a": 1.0}}}
  data = {"sources": sources, "text_to_image": always, "image_to_text": stream}
  return from_dict(Config, {"data": data})


def test_a_mixture_of_sources_may_change_in_the_future_only(tmp_path):
  saved = with_mixture({"0": {"a": 1.0}})
  edited = with_mixture({"0": {"a": 1.0}, "5": {"a": 1.0, "b": 2.0}})
  with RunFolder(tmp_path) as folder:
    folder.check_same_run(edited, saved, 5)
    message = r"data.image_to_text.mixture: the weights from step 5 are .*'b'"
    with pytest.raises(InputError, match=message):
      folder.check_same_run(edited, saved, 6)


class Store:
  """A store with one finished checkpoint, or none."""

  def __init__(self, step):
    self._step = step

  def wait(self):
    """Nothing is under way."""

  def latest_step(self):
    return self._step


def chained(error):
  try:
    try:
      raise error
    except Exception as inner:
      raise RuntimeError("saving step 5 failed") from inner
  except RuntimeError as outer:
    return outer


FULL = OSError(errno.ENOSPC, "No space left on device")
# As TensorStore words it: no OSError, no errno.
TENSORSTORE = ValueError(
  "OUT_OF_RANGE: Failed to write [source locations='x.cc:1', "
  f"os_error_code='{errno.EFBIG}']"
)


@pytest.mark.parametrize(
  ("error", "words"),
  [
    (FULL, "No space left on device"),
    (chained(FULL), "No space left on device"),
    (TENSORSTORE, "File too large"),
    (chained(TENSORSTORE), "File too large"),
  ],
)
@pytest.mark.parametrize(
  ("step", "left"),
  [(None, "no checkpoint was finished"), (4, "of step 4 is intact")],
)
def test_a_full_disk_is_one_line(tmp_path, error, words, step, left):
  with (
    RunFolder(tmp_path) as folder,
    pytest.raises(InputError) as caught,
    explaining_stops(Store(step), folder),
  ):
    raise error
  line = str(caught.value)
  assert words in line and left in line and "\n" not in line


@pytest.mark.parametrize(
  "error",
  [
    OSError(errno.EIO, "Input/output error"),
    ValueError("a shape does not fit"),
    ValueError(f"os_error_code='{errno.EIO}'"),
  ],
)
def test_other_errors_stay_as_they_are(tmp_path, error):
  with (
    RunFolder(tmp_path) as folder,
    pytest.raises(type(error)) as caught,
    explaining_stops(Store(4), folder),
  ):
    raise error
  assert caught.value is error


@pytest.mark.parametrize("is_made_anew", [False, True])
def test_a_workdir_that_disappears_is_one_line(tmp_path, is_made_anew):
  path = tmp_path / "run"
  with RunFolder(path) as folder:
    folder.check_is_there()
    path.rename(tmp_path / "moved")
    if is_made_anew:
      path.mkdir()
    message = f"the workdir {path} was removed or renamed while"
    with (
      pytest.raises(InputError, match=message),
      explaining_stops(Store(4), folder),
    ):
      raise FileNotFoundError("checkpoints")


SAVING = """
import resource, sys
from ddit_jax.cli import main
from ddit_jax.checkpoint.store import CheckpointStore
from ddit_jax.experiment.workdir import RunFolder, explaining_stops

def save_three(_):
  import jax.numpy as jnp
  with (
    RunFolder(sys.argv[1]) as folder,
    folder.open_store(9) as store,
    explaining_stops(store, folder),
  ):
    for step in (1, 2, 3):
      if step == 2:
        store.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
      arrays = {f"w{i}": jnp.arange(65536.0) * i for i in range(4)}
      store.save(step, {"params": arrays}, data_position={}, files={},
                 config={"schema_version": 3})
    store.wait()

main._dispatch = save_three
sys.exit(main.main([]))
"""


def test_a_disk_that_fills_up_during_a_save_is_one_line(tmp_path):
  done = subprocess.run(
    [sys.executable, "-c", SAVING, str(tmp_path)],
    capture_output=True,
    text=True,
    cwd=tiny_run.ROOT,
    env=os.environ | {"XLA_FLAGS": ""},
  )
  assert done.returncode == 2
  assert done.stderr == (
    "ddit: the workdir is no longer writable (File too large); the checkpoint "
    "of step 1 is intact: free some space and give the same command again\n"
  )
