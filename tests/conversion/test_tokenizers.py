"""Which tokenizers are copied, and how many rows the text head gets."""

import json
import shutil

import pytest
import safetensors.torch
import torch
import transformers
from tokenizers import Tokenizer, models

from ddit_jax.checkpoint.manifest import verify_manifest
from ddit_jax.conversion.convert import ConvertOptions, convert, plan_import
from ddit_jax.conversion.export import ExportOptions, export, plan_export
from ddit_jax.conversion.formats import open_checkpoint
from ddit_jax.conversion.plan import plan_conversion
from ddit_jax.conversion.tokenizers import (
  SD3_TOKENIZERS,
  check_head,
  tokenizer_folders,
  tokenizer_size,
)
from ddit_jax.data.prompt_tokenizers import clip_tokenizer
from ddit_jax.data.tokenizers import pretrained_tokenizer
from ddit_jax.errors import InputError
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
  options = ExportOptions(format="a")
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
  assert plan.tokenizers == {
    ours: whole / theirs for ours, theirs in SD3_TOKENIZERS.items()
  }
  # A folder of T5's alone is that.
  checkpoints.save_tokenizer(tmp_path / "t5")
  assert len(notes_of(single_file, tokenizer=tmp_path / "t5")) == 2


def test_what_is_given_goes_before_the_source(whole, tmp_path):
  source = open_checkpoint(whole)
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


def plan(path, **options):
  return plan_conversion(open_checkpoint(path), **options)


def test_text_head_size_without_tokenizer(single_file):
  found = plan(single_file)
  # T5's table has 16 rows, and nothing else tells.
  assert found.networks[0].config.vocab_size == 16
  assert any("embedding table has 16 rows" in note for note in found.notes)
  named = plan(single_file, vocab_size=12)
  assert named.networks[0].config.vocab_size == 12


def test_wanted_rows_that_cannot_be(single_file, ddit_folder):
  for size in (0, -5):
    with pytest.raises(
      InputError, match=f"={size} is not a valid number of rows"
    ):
      plan(single_file, vocab_size=size)
  for path, target in ((ddit_folder, "ddit"), (single_file, "sd3")):
    with pytest.raises(InputError, match="leave it out"):
      plan(path, target=target, vocab_size=9)


def test_text_head_size_of_t5_xxl_alone(tmp_path, sd3_folder):
  path = tmp_path / "x.safetensors"
  checkpoints.save_single_file(path, sd3_folder, has_encoders=False)
  with pytest.raises(InputError, match="neither a tokenizer nor T5"):
    plan(path)
  tensors = safetensors.torch.load_file(path)
  name = "model.diffusion_model.context_embedder.weight"
  tensors[name] = torch.zeros(checkpoints.WIDTH, 4096, dtype=torch.float16)
  safetensors.torch.save_file(tensors, path)
  assert plan(path).networks[0].config.vocab_size == 32100


def test_tokenizer_of_another_checkpoint(tmp_path, single_file, ddit_folder):
  checkpoints.save_tokenizer(tmp_path / "other", num_words=30)
  found = plan(single_file, tokenizer=tmp_path / "other")
  assert found.networks[0].config.vocab_size == 34
  assert found.tokenizers["tokenizer"] == tmp_path / "other"
  with pytest.raises(InputError, match=r"20 rows but .* has 34 ids"):
    plan(single_file, tokenizer=tmp_path / "other", vocab_size=20)
  with pytest.raises(InputError, match=r"9 rows but .* has 34 ids"):
    plan(ddit_folder, tokenizer=tmp_path / "other")


def test_tokenizer_of_the_source_tells(sd3_folder):
  found = plan(sd3_folder)
  assert found.networks[0].config.vocab_size == checkpoints.VOCABULARY
  assert not any("rows because" in note for note in found.notes)


def test_padded_table_of_t5(tmp_path, single_file):
  tensors = safetensors.torch.load_file(single_file)
  t5 = "text_encoders.t5xxl.transformer."
  for name in ("shared.weight", "encoder.embed_tokens.weight"):
    tensors[t5 + name] = torch.zeros(32128, 32, dtype=torch.float16)
  path = tmp_path / "x.safetensors"
  safetensors.torch.save_file(tensors, path)
  assert plan(path).networks[0].config.vocab_size == 32100


def test_no_tokenizer_is_no_contradiction(tmp_path):
  check_head(5, None)
  checkpoints.save_tokenizer(tmp_path / "t", num_words=1)
  check_head(5, tmp_path / "t")
  with pytest.raises(InputError, match=r"6 rows but .* 5 ids"):
    check_head(6, tmp_path / "t")


def test_size_counts_special_tokens(tmp_path):
  checkpoints.save_tokenizer(tmp_path / "t", num_words=7)
  assert tokenizer_size(tmp_path / "t") == 7 + 4


def test_mask_must_be_the_last_id(tmp_path):
  vocabulary = {"</s>": 0, "<extra_id_0>": 1, "word": 2}
  backend = Tokenizer(models.WordLevel(vocabulary, unk_token="</s>"))
  tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend)
  tokenizer.save_pretrained(tmp_path / "t")
  with pytest.raises(
    InputError, match=r"<extra_id_0> has id 1 but must be the"
  ):
    tokenizer_size(tmp_path / "t")


def test_folder_without_tokenizer(tmp_path):
  with pytest.raises(InputError, match=r"needs tokenizer.json or spiece.model"):
    tokenizer_size(tmp_path)


def test_unreadable_folder(tmp_path):
  (tmp_path / "tokenizer.json").write_text("{")
  with pytest.raises(InputError, match="damaged tokenizer"):
    tokenizer_size(tmp_path)


def with_own_code(folder, trace):
  """Makes a tokenizer's folder name classes of its own, which leave a trace."""
  (folder / "evil.py").write_text(
    "import transformers\n"
    f"open({str(trace)!r}, 'w').close()\n"
    "class Tok(transformers.PreTrainedTokenizerFast): pass\n"
    "class Conf(transformers.PretrainedConfig): model_type = 'evil'\n"
  )
  classes = {"AutoConfig": "evil.Conf", "AutoTokenizer": ["evil.Tok"] * 2}
  for name in ("tokenizer_config.json", "config.json"):
    path = folder / name
    fields = json.loads(path.read_bytes()) if path.exists() else {}
    fields |= {"auto_map": classes, "tokenizer_class": "Tok"}
    path.write_text(json.dumps(fields | {"model_type": "evil"}))


def test_no_code_of_a_tokenizer_runs_and_nothing_asks(
  whole, tmp_path, monkeypatch
):
  def ask(*_):
    raise AssertionError("a question on the terminal")

  monkeypatch.setattr("builtins.input", ask)
  trace = tmp_path / "trace"
  for name in SD3_TOKENIZERS.values():
    with_own_code(whole / name, trace)
  options = ConvertOptions()
  plan = plan_import(whole, options)
  ours = tmp_path / "ours"
  convert(plan, ours, options)
  assert plan.networks[0].config.vocab_size == checkpoints.VOCABULARY
  pretrained_tokenizer("t5", ours / "tokenizer")
  clip_tokenizer(whole / "tokenizer")
  assert not trace.exists()
