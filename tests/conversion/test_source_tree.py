"""Links and special files in a source."""

import os
import shutil

import pytest

from ddit_jax.conversion.convert import ConvertOptions, convert, plan_import
from ddit_jax.conversion.export import ExportOptions, export, plan_export
from ddit_jax.conversion.source_tree import check_source_tree
from ddit_jax.errors import InputError
from tests.conversion import checkpoints


@pytest.fixture
def source(ddit_folder, tmp_path):
  return shutil.copytree(ddit_folder, tmp_path / "source")


@pytest.fixture
def secret(tmp_path):
  path = tmp_path / "secret"
  path.write_text("a secret")
  return path


@pytest.mark.parametrize("place", ["tokenizer", "scheduler", "vae"])
def test_links_out_of_a_source_are_refused(source, secret, tmp_path, place):
  (source / place).mkdir(exist_ok=True)
  (source / place / "notes.txt").symlink_to(secret)
  with pytest.raises(InputError, match=r"notes.txt is a link to .*secret, out"):
    plan_import(source, ConvertOptions())


def test_so_are_links_of_folders_and_links_behind_links(source, tmp_path):
  outside = shutil.copytree(source / "vae", tmp_path / "outside")
  shutil.rmtree(source / "vae")
  (source / "vae").symlink_to(outside)
  with pytest.raises(
    InputError, match=r"vae is a link to .*outside, outside of"
  ):
    plan_import(source, ConvertOptions())
  (source / "vae").unlink()
  inside = shutil.copytree(outside, source / "other")
  (source / "vae").symlink_to("other")
  plan_import(source, ConvertOptions())
  (inside / "deep").symlink_to(outside)
  with pytest.raises(InputError, match=r"deep is a link to .*outside"):
    plan_import(source, ConvertOptions())


def test_a_link_named_by_the_user_is_followed(source, tmp_path):
  (tmp_path / "link").symlink_to(source)
  options = ConvertOptions()
  convert(plan_import(tmp_path / "link", options), tmp_path / "x", options)
  assert not (tmp_path / "x/tokenizer").is_symlink()


def test_a_snapshot_of_the_hub_links_to_its_blobs(source, secret, tmp_path):
  model = tmp_path / "models--x--y"
  snapshot = shutil.copytree(source, model / "snapshots" / "f00")
  (model / "blobs").mkdir()
  for number, path in enumerate(sorted(snapshot.rglob("*.*"))):
    if path.is_file():
      blob = model / "blobs" / str(number)
      path.rename(blob)
      path.symlink_to(os.path.relpath(blob, path.parent))
  options = ConvertOptions(tokenizer=snapshot / "tokenizer")
  destination = tmp_path / "x"
  convert(plan_import(snapshot, options), destination, options)
  for path in destination.rglob("*"):
    assert not path.is_symlink()
  config = destination / "tokenizer/tokenizer_config.json"
  assert (
    config.read_bytes()
    == (source / "tokenizer/tokenizer_config.json").read_bytes()
  )
  # Another model's blobs are outside.
  (snapshot / "tokenizer/other").symlink_to(secret)
  with pytest.raises(InputError, match="links out of a checkpoint"):
    plan_import(snapshot, ConvertOptions())


def test_a_tokenizer_folder_is_checked_too(single_file, secret, tmp_path):
  checkpoints.save_tokenizer(tmp_path / "t")
  (tmp_path / "t" / "notes").symlink_to(secret)
  with pytest.raises(InputError, match=r"notes is a link to"):
    plan_import(single_file, ConvertOptions(tokenizer=tmp_path / "t"))
  with pytest.raises(InputError, match=r"--tokenizer=.* is not a folder"):
    plan_import(single_file, ConvertOptions(tokenizer=secret))


def test_broken_and_circular_links(source):
  (source / "vae/a").symlink_to("nothing")
  with pytest.raises(InputError, match="nothing, which is missing"):
    plan_import(source, ConvertOptions())
  (source / "vae/a").unlink()
  (source / "vae/a").symlink_to("a")
  with pytest.raises(InputError, match=r"a is a link"):
    plan_import(source, ConvertOptions())


def test_pipes_are_refused_and_nobody_waits(source, tmp_path):
  os.mkfifo(source / "tokenizer" / "pipe")
  with pytest.raises(InputError, match="pipe is not a regular file"):
    plan_import(source, ConvertOptions())
  os.mkfifo(tmp_path / "x.safetensors")
  with pytest.raises(InputError, match=r"x.safetensors is not a regular file"):
    plan_import(tmp_path / "x.safetensors", ConvertOptions())


def test_what_is_not_read_is_not_checked(source, secret, tmp_path):
  (source / "samples").symlink_to(secret)
  plan_import(source, ConvertOptions())
  check_source_tree(tmp_path, ["absent"])


def test_nothing_is_written_into_what_is_copied(source, converted):
  options = ConvertOptions()
  inside = source / "tokenizer" / "x"
  with pytest.raises(InputError, match=r"x would lie inside .*tokenizer"):
    convert(plan_import(source, options), inside, options)
  assert not inside.exists()
  options = ExportOptions(format="c")
  plan = plan_export(converted / "c", options)
  with pytest.raises(InputError, match="would lie inside"):
    export(converted / "c", plan, converted / "c" / "x", options)
  assert not (converted / "c" / "x").exists()
