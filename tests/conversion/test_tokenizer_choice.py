"""Tokenizers of SD3: which are copied, and what is said of the others."""

import json
import shutil

import pytest

from ddit_jax.checkpoint.manifest import verify_manifest
from ddit_jax.conversion.convert import ConvertOptions, convert, plan_import
from ddit_jax.conversion.export import ExportOptions, export, plan_export
from ddit_jax.conversion.layouts import open_source
from ddit_jax.conversion.tokenizer_choice import (
  SD3_TOKENIZERS,
  tokenizer_folders,
)
from tests import clip_tokenizer_files
from tests.conversion import checkpoints


def write_clip(folder):
  for name, pad in clip_tokenizer_files.PADS.items():
    clip_tokenizer_files.write(folder / name, pad)


@pytest.fixture
def whole(sd3_folder, tmp_path):
  """A source with all three tokenizers."""
  folder = shutil.copytree(sd3_folder, tmp_path / "whole")
  write_clip(folder)
  return folder


def test_names():
  assert SD3_TOKENIZERS == {
    "tokenizer": "tokenizer_3",
    "tokenizer_clip_l": "tokenizer",
    "tokenizer_clip_g": "tokenizer_2",
  }


def test_all_three_are_copied_listed_and_exported(whole, tmp_path):
  options = ConvertOptions(target="sd3")
  plan = plan_import(whole, options)
  assert plan.notes == ()
  ours = tmp_path / "ours"
  convert(plan, ours, options)
  verify_manifest(ours)
  listed = json.loads((ours / "manifest.json").read_text())["files"]
  for name, theirs in SD3_TOKENIZERS.items():
    files = sorted(path.name for path in (whole / theirs).iterdir())
    assert sorted(p.name for p in (ours / name).iterdir()) == files
    assert {f"{name}/{file}" for file in files} <= listed.keys()
  merges = ours / "tokenizer_clip_l" / "merges.txt"
  assert merges.read_bytes() == (whole / "tokenizer/merges.txt").read_bytes()
  back = tmp_path / "back"
  options = ExportOptions(layout="a")
  export(ours, plan_export(ours, options), back, options)
  config = "tokenizer_2/tokenizer_config.json"
  assert (back / config).read_bytes() == (whole / config).read_bytes()
  index = json.loads((back / "model_index.json").read_text())
  assert index["tokenizer_2"] == ["transformers", "CLIPTokenizer"]


def notes_of(path, **options):
  options = {"target": "sd3"} | options
  notes = plan_import(path, ConvertOptions(**options)).notes
  return [note for note in notes if note.startswith("tokenizer")]


def test_what_is_missing_or_incomplete_is_noted(whole, sd3_folder):
  assert notes_of(sd3_folder) == [
    "tokenizer_clip_l is not in the source: to sample SD3 give "
    "--tokenizer=FOLDER with its tokenizer/",
    "tokenizer_clip_g is not in the source: to sample SD3 give "
    "--tokenizer=FOLDER with its tokenizer_2/",
  ]
  # D-DiT reads none of them.
  assert notes_of(sd3_folder, target="ddit") == []
  (whole / "tokenizer_2" / "merges.txt").unlink()
  [note] = notes_of(whole)
  assert note.startswith("tokenizer_clip_g is incomplete: ")
  assert note.endswith(
    "has neither tokenizer.json nor vocab.json with merges.txt"
  )
  (whole / "tokenizer_2" / "tokenizer.json").write_text("{}")
  assert notes_of(whole) == []


def test_the_single_file_gets_them_from_a_folder(single_file, whole, tmp_path):
  assert len(notes_of(single_file)) == 3
  assert notes_of(single_file, tokenizer=whole) == []
  plan = plan_import(single_file, ConvertOptions(target="sd3", tokenizer=whole))
  assert plan.tokenizer == whole / "tokenizer_3"
  assert plan.tokenizers == {
    ours: whole / theirs for ours, theirs in SD3_TOKENIZERS.items()
  }
  # A folder of T5's alone is that.
  checkpoints.save_tokenizer(tmp_path / "t5")
  assert len(notes_of(single_file, tokenizer=tmp_path / "t5")) == 2


def test_what_is_given_goes_before_the_source(whole, tmp_path):
  source = open_source(whole)
  given = tmp_path / "given"
  write_clip(given)
  # Without a tokenizer_3 it is taken for a folder of T5's.
  assert tokenizer_folders(source, given)["tokenizer"] == given
  checkpoints.save_tokenizer(given / "tokenizer_3")
  shutil.rmtree(given / "tokenizer")
  assert tokenizer_folders(source, given) == {
    "tokenizer": given / "tokenizer_3",
    "tokenizer_clip_l": whole / "tokenizer",
    "tokenizer_clip_g": given / "tokenizer_2",
  }
