"""The test bench: eight virtual devices and every check JAX can make.

Shapes in signatures are checked by jaxtyping's import hook, so this file must
run before anything imports the package or starts JAX.

What takes long is made once; a new test takes from it what it can:
- finished runs: `trained`, with the settings of `tests.tiny_run`, on one
  device, and `adapted` from it. All processes of a test run share their folders
  (`tiny_run.made_once`).
- the programs of runs and pipelines: those of equal models, losses and shapes
  are traced and compiled once in a process (`tests.shared_programs`), so prefer
  the settings of `tests.tiny_run` as they are.
- compiled programs: in one folder of JAX's compilation cache.
- verbs: call `ddit_jax.cli.main.main`. A process of its own imports for 5 s
  and is for what only a process shows: signals, exit codes, output.
"""

import gc
import importlib.util
import os
import pathlib
import shutil
import signal
import tempfile

from tests import devices

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = devices.xla_flags(8)
# Compiling is most of the tests' time, and small programs run well without
# optimisation: 72 s against 122 s in tests/models.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "True"
# Programs that take longer than this to compile are shared by all processes.
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
import jax
import jaxtyping
import pytest
from absl import flags

from tests import typechecker

# Checks the types and shapes of every module of the package that is imported
# from here on.
typechecker.leave_trees_unchecked()
jaxtyping.install_import_hook(
  [f"ddit_jax.{folder}" for folder in typechecker.FOLDERS],
  f"{typechecker.__name__}.check",
)
jax.config.update("jax_debug_key_reuse", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
# Not jax_numpy_dtype_promotion="strict": JAX's own attention and Flax's norms
# multiply bfloat16 by float32.

# Python would search for cycles after every 700 new objects: 0.4 to 0.7 of the
# 5 s of CPU in which JAX traces and lowers a small training step.
gc.set_threshold(100_000, 20, 20)

# Some libraries read absl flags at import; pytest never parses them.
flags.FLAGS.mark_as_parsed()

# The first process makes the folder of compiled programs; its children, xdist's
# workers among them, find it in their environment.
_MADE_CACHE = "JAX_COMPILATION_CACHE_DIR" not in os.environ
if _MADE_CACHE:
  _FOLDER = tempfile.mkdtemp(prefix="ddit_jax_compiled_")
  os.environ["JAX_COMPILATION_CACHE_DIR"] = _FOLDER
  jax.config.update("jax_compilation_cache_dir", _FOLDER)


def pytest_collection_finish():
  """Leaves what was imported out of the search for cycles."""
  gc.collect()
  gc.freeze()


def pytest_unconfigure(config):
  """Removes the compiled programs."""
  if _MADE_CACHE:
    shutil.rmtree(_FOLDER, ignore_errors=True)


def pytest_collection_modifyitems(items):
  """Moves the costly folders to the front, so that all workers end alike."""
  costly = ("train", "models", "experiment", "pipelines")
  items.sort(key=lambda item: item.path.parent.name not in costly)


@pytest.fixture(autouse=True)
def keeps_compiled_programs():
  """Undoes what a verb's --compilation_cache did to this process."""
  names = ("jax_enable_compilation_cache", "jax_compilation_cache_dir")
  before = {name: getattr(jax.config, name) for name in names}
  yield
  for name, value in before.items():
    if getattr(jax.config, name) != value:
      jax.config.update(name, value)


@pytest.fixture
def full_optimisation():
  """Compiles as users do, where a tolerance needs it."""
  jax.config.update("jax_disable_most_optimizations", False)
  yield
  jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def unchecked_shapes():
  """Turns the checks off, to see the errors that users get without them."""
  jaxtyping.config.update("jaxtyping_disable", True)
  yield
  jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def on_one_device(monkeypatch):
  """Training sees the first device only."""
  from tests import tiny_run

  tiny_run.use_first_device(monkeypatch)


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> pathlib.Path:
  """The workdir of an undisturbed run on one device. Not to be changed."""
  from ddit_jax.experiment import trainer
  from tests import tiny_run

  def train(workdir):
    with pytest.MonkeyPatch.context() as monkeypatch:
      tiny_run.use_first_device(monkeypatch)
      assert trainer.train(tiny_run.settings(), str(workdir))

  return tiny_run.made_once(tmp_path_factory, "trained", train)


@pytest.fixture(scope="session")
def adapted(trained, tmp_path_factory) -> pathlib.Path:
  """A stage of adapters on `trained`. Not to be changed."""
  from ddit_jax.experiment import trainer
  from tests import tiny_run

  def train(job):
    base = pathlib.Path("checkpoints", "4")
    shutil.copytree(trained / base, job / "first" / base)
    settings = tiny_run.adapter_settings("stage:first")
    with pytest.MonkeyPatch.context() as monkeypatch:
      tiny_run.use_first_device(monkeypatch)
      assert trainer.train(settings, str(job / "run"))

  return tiny_run.made_once(tmp_path_factory, "adapted", train) / "run"


# Shells let background jobs, and all that those start, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

HAS_TORCH = importlib.util.find_spec("torch") is not None
NEED_TORCH = [
  "encoders",
  "conversion",
  "parity",
  "models/test_against_diffusers.py",
  "models/test_module.py",
]
collect_ignore = [] if HAS_TORCH else NEED_TORCH


def pytest_report_header(config):
  """Says aloud what is left out without PyTorch."""
  if not HAS_TORCH:
    return (
      f"not collected, PyTorch is absent: {', '.join(NEED_TORCH)}; "
      "make parity-test installs it and runs them"
    )
