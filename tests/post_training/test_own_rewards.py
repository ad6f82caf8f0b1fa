"""One's own rewards, as docs/post_training.md writes them."""

import json
import pathlib
import re
import shlex
import sys

import numpy as np
import pytest

from ddit_jax.cli.main import main
from ddit_jax.config.load import load_config, split_overrides
from ddit_jax.errors import InputError
from ddit_jax.experiment.config import Config
from ddit_jax.pipelines.load import load
from ddit_jax.post_training.rewards import IMAGE_REWARDS, Outputs, open_reward
from tests import tiny_run

ROOT = pathlib.Path(__file__).parents[2]
SECTION = (ROOT / "docs" / "post_training.md").read_text()
SECTION = SECTION.partition("### Your own")[2].partition("\n## ")[0]
PROGRAM, LINES = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)
COMMANDS = re.findall(r"^ddit .*", SECTION.replace("\\\n", " "), re.MULTILINE)
IMAGES = np.zeros((2, 4, 4, 3), np.uint8)
IMAGES[0, ..., 0] = 255
DRAWN = Outputs(
  prompts=["a"] * 2, images=IMAGES, texts=[""] * 2, references=["a"] * 2
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """The current folder, with the documented module and our configs."""
  (tmp_path / "my_rewards.py").write_text(PROGRAM)
  (tmp_path / "configs").symlink_to(ROOT / "configs")
  monkeypatch.chdir(tmp_path)
  # As the program `ddit`, which does not look there of itself.
  assert not {"", ".", str(tmp_path)} & set(sys.path)
  paths, modules = list(sys.path), set(sys.modules)
  yield tmp_path
  assert sys.path == paths
  for name in set(sys.modules) - modules:
    if name.startswith("my_"):
      del sys.modules[name]


def part_of(command):
  _, _, *argv = shlex.split(command)
  (config, _), overrides = split_overrides(argv)
  config = load_config(Config, config.partition("=")[2], overrides)
  return config.post_training.text_to_image


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("number", [0, 1])
def test_a_documented_command_opens_the_documented_reward(number):
  rewards = part_of(COMMANDS[number]).open()
  assert rewards["my_rewards:redness"](DRAWN) == [1, 0]


def test_the_documented_lines_are_those_of_the_command(folder):
  (folder / "red.py").write_text(
    "from configs.post_training import get_config as base\n"
    "def get_config():\n"
    "  config = base()\n"
    + "".join(f"  {line}\n" for line in LINES.splitlines())
    + "  return config\n"
  )
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(ROOT)
    config = load_config(Config, "red.py", {})
  part = config.post_training.text_to_image
  for name in ("rewards", "reward_weights"):
    assert getattr(part, name) == getattr(part_of(COMMANDS[0]), name)


def test_a_module_may_lie_in_a_folder_and_import_its_neighbours(folder):
  (folder / "my_package").mkdir()
  (folder / "my_package" / "more.py").write_text("from my_rewards import *\n")
  assert open_reward("my_package.more:redness", IMAGE_REWARDS)(DRAWN) == [1, 0]


def test_no_file_takes_the_place_of_an_installed_module(folder):
  """Not even in the import of a module of the folder."""
  for name in ("json", "my_later"):
    (folder / f"{name}.py").write_text("raise SystemExit")
  (folder / "my_own.py").write_text("import json\nread = json.loads\n")
  assert open_reward("json:loads", IMAGE_REWARDS) is json.loads
  assert open_reward("my_own:read", IMAGE_REWARDS) is json.loads
  # What is imported later does not come from the folder.
  with pytest.raises(ModuleNotFoundError):
    import my_later  # noqa: F401


def test_a_module_that_is_not_there_is_refused_with_the_folder(folder):
  with pytest.raises(InputError, match=re.escape(str(folder))) as caught:
    open_reward("my_reward:redness", IMAGE_REWARDS)
  assert "No module named 'my_reward'" in str(caught.value)


@pytest.mark.slow
def test_a_run_is_rewarded_by_it_and_its_checkpoint_does_not_run_it(
  folder, trained, on_one_device, capsys
):
  (folder / "runs").mkdir()
  (folder / "runs" / "digits").symlink_to(trained)
  _, *argv = shlex.split(COMMANDS[1])
  small = tiny_run.OVERRIDES | {
    "data.text_to_image.batch_size": 2,
    "data.image_to_text.batch_size": 0,
    "post_training.text_to_image.group_size": 2,
    "post_training.text_to_image.sampling.num_inference_steps": 2,
    "train.num_steps": 1,
  }
  argv += [f"--config.{name}={value}" for name, value in small.items()]
  assert main(argv) == 0, capsys.readouterr().err
  log = (folder / "runs" / "reddest" / "scalars.jsonl").read_text()
  assert "reward/text_to_image/my_rewards.redness" in log
  (folder / "my_rewards.py").write_text("raise SystemExit")
  del sys.modules["my_rewards"]
  assert len(load("runs/reddest").text_to_image(["a red seven"])) == 1
