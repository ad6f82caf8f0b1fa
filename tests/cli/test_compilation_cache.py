"""Which folder keeps compiled programs."""

import jax
import pytest

from ddit_jax.cli import compilation_cache
from ddit_jax.cli.flags import Verb
from ddit_jax.errors import InputError

VERB = Verb(
  name="v",
  summary="",
  description="",
  flags=compilation_cache.FLAGS,
  run=lambda values, overrides: 0,
)
NAMES = ("jax_compilation_cache_dir", "jax_enable_compilation_cache")


@pytest.fixture
def folder_after():
  """Flags -> where programs are kept then; None if they are not."""
  before = {name: getattr(jax.config, name) for name in NAMES}

  def use(*argv, variable=None):
    jax.config.update("jax_compilation_cache_dir", variable)
    compilation_cache.use(VERB.parse(list(argv)))
    is_on = jax.config.jax_enable_compilation_cache
    return jax.config.jax_compilation_cache_dir if is_on else None

  yield use
  for name, value in before.items():
    jax.config.update(name, value)


@pytest.fixture
def amd(monkeypatch, tmp_path):
  processor = "vendor_id : AuthenticAMD\nflags : avx2"
  monkeypatch.setattr(compilation_cache, "_processor", lambda: processor)
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_by_default_it_lies_in_the_users_cache_folder(
  amd, folder_after, tmp_path, monkeypatch
):
  first = folder_after()
  assert first.startswith(f"{tmp_path}/ddit_jax/compiled-")
  assert folder_after() == first
  # A program for one processor may crash another one.
  other = "vendor_id : AuthenticAMD\nflags : avx512f"
  monkeypatch.setattr(compilation_cache, "_processor", lambda: other)
  assert folder_after() != first


@pytest.mark.usefixtures("amd")
def test_jaxs_own_variable_is_respected_and_the_flag_goes_first(
  folder_after, tmp_path
):
  assert folder_after(variable="/elsewhere") == "/elsewhere"
  named = tmp_path / "a" / "b"
  flag = f"--compilation_cache={named}"
  assert folder_after(flag, variable="/elsewhere") == str(named)
  # A call that is refused later leaves no folder behind.
  assert not named.parent.exists()
  assert folder_after("--compilation_cache=off", variable="/elsewhere") is None


@pytest.mark.usefixtures("amd")
def test_a_folder_that_cannot_be_written(folder_after, tmp_path, monkeypatch):
  (tmp_path / "file").touch()
  with pytest.raises(InputError, match=r"cannot be written .*or off"):
    folder_after(f"--compilation_cache={tmp_path}/file/folder")
  # Nobody asked for the one in the home.
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
  assert folder_after() is None


def test_programs_that_xla_would_refuse_are_not_kept(folder_after, monkeypatch):
  processor = "vendor_id : GenuineIntel"
  monkeypatch.setattr(compilation_cache, "_processor", lambda: processor)
  assert folder_after() is None
  assert folder_after(variable="/elsewhere") == "/elsewhere"
