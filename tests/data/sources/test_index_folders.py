"""An index lies beside its data, or where it can be written."""

import os

import pytest

from ddit_jax.data.sources.paths import index_folder


def test_beside_the_data_where_that_can_be_written(tmp_path):
  assert index_folder(tmp_path, None, cache="x") == tmp_path


def test_else_in_the_cache(tmp_path, monkeypatch):
  monkeypatch.setattr(os, "access", lambda path, mode: False)
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  chosen = index_folder(tmp_path, None, cache="x")
  assert chosen == tmp_path / "cache" / "ddit_jax" / "x" and chosen.is_dir()
  monkeypatch.delenv("XDG_CACHE_HOME")
  monkeypatch.setenv("HOME", str(tmp_path / "home"))
  chosen = index_folder(tmp_path, None, cache="x")
  assert chosen == tmp_path / "home" / ".cache" / "ddit_jax" / "x"


def test_the_wanted_one_is_made(tmp_path):
  wanted = tmp_path / "a" / "b"
  assert index_folder(tmp_path, str(wanted), cache="x") == wanted
  assert wanted.is_dir()


def test_what_is_no_path_is_refused(tmp_path):
  with pytest.raises(ValueError, match="index_folder must be a folder, not 7"):
    index_folder(tmp_path, 7, cache="x")
