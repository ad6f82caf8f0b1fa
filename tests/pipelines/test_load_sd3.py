"""Converted plain SD3 becomes a pipeline, or one line that says what lacks."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from PIL import Image

from ddit_jax.checkpoint.manifest import write_manifest
from ddit_jax.conversion.record import CheckpointRecord, write_record
from ddit_jax.errors import InputError
from ddit_jax.pipelines import evaluate, generating
from ddit_jax.pipelines.load import holds_sd3, load, refuse_sd3
from tests import tiny_run
from tests.pipelines import sd3_files


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
  """Do not change."""
  return sd3_files.write(tmp_path_factory.mktemp("sd3") / "sd3")


@pytest.fixture
def copy(converted, tmp_path):
  return shutil.copytree(converted, tmp_path / "copy")


def without(folder, *parts, notes=()):
  """What the converter writes if a source lacks parts."""
  for part in parts:
    shutil.rmtree(folder / part)
  left = {n: c for n, c in sd3_files.CONFIGS.items() if (folder / n).is_dir()}
  write_record(folder, CheckpointRecord(target="sd3", configs=left))
  (folder / "report.json").write_text(json.dumps({"notes": list(notes)}))
  write_manifest(folder)
  return str(folder)


def test_all_weights_are_there_and_lie_on_all_devices(converted):
  pipeline = load(str(converted))
  assert pipeline.image_size == 16 and pipeline.sample.image.shift == 3.0
  assert pipeline.variables.keys() == sd3_files.CONFIGS.keys()
  for name, collections in pipeline.variables.items():
    for kind, tree in collections.items():
      with ocp.PyTreeCheckpointer() as checkpointer:
        stored = checkpointer.restore((converted / name / kind).absolute())
      jax.tree.map(np.testing.assert_array_equal, tree, stored)
  kernels = jax.tree.leaves(pipeline.variables["clip_l"])
  assert any(not leaf.is_fully_replicated for leaf in kernels)


def test_weights_can_be_held_in_bfloat16(converted):
  pipeline = load(str(converted), dtype="bfloat16")
  for name, part in pipeline.variables.items():
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(part["params"])}
    assert dtypes == {jnp.dtype("bfloat16")}, name


def test_t5_can_be_held_in_int8(converted):
  pipeline = load(str(converted), has_int8_text_encoder=True)
  for name, part in pipeline.variables.items():
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(part["params"])}
    assert (jnp.dtype("int8") in dtypes) == (name == "text_encoder"), name


def test_the_schedulers_shift_is_the_default(copy):
  sd3_files.write_scheduler(copy, shift=2.0)
  write_manifest(copy)
  pipeline = load(str(copy))
  assert pipeline.sample.image.shift == 2.0


def test_missing_parts_are_named_with_the_converters_reason(copy):
  note = "clip_l is not converted: incomplete or of an unknown kind (no bias)"
  path = without(copy, "clip_l", "tokenizer_clip_g", notes=["x", note])
  with pytest.raises(InputError) as caught:
    load(path)
  assert str(caught.value) == (
    f"{path} cannot run as SD3: {note}; tokenizer_clip_g is not there. "
    "Convert a source that has clip_l, tokenizer_clip_g"
  )


@pytest.mark.parametrize("part", ["vae", "clip_g", "tokenizer_clip_l"])
def test_each_part_but_t5_is_needed(copy, part):
  path = without(copy, part)
  with pytest.raises(InputError, match=f"SD3: {part} is not there"):
    load(path)


def test_t5_may_be_missing_but_not_its_tokenizer_alone(copy, caplog):
  path = without(copy, "tokenizer")
  with pytest.raises(InputError, match="tokenizer is not there"):
    load(path)
  pipeline = load(without(copy, "text_encoder"))
  assert "has no T5: SD3 reads CLIP alone" in caplog.text
  assert pipeline.tokenizers.keys() == {"clip_l", "clip_g"}
  assert pipeline.model.text_encoder is None


def test_a_tokenizer_of_another_checkpoint_is_refused(copy):
  for name in ("vocab.json", "merges.txt"):
    path = copy / "tokenizer_clip_l" / name
    text = path.read_text()
    if name == "vocab.json":
      ids = json.loads(text)
      end = ids.pop("<|endoftext|>")
      text = json.dumps(ids | {"dd": end, "<|endoftext|>": end + 1})
    else:
      text += "d d\n"
    path.write_text(text)
  config = copy / "tokenizer_clip_l" / "tokenizer_config.json"
  fields = json.loads(config.read_text())
  fields.pop("added_tokens_decoder")
  config.write_text(json.dumps(fields))
  write_manifest(copy)
  message = "clip_l has 521 token embeddings but its tokenizer 522 ids"
  with pytest.raises(InputError, match=message):
    load(str(copy))


def test_a_damaged_tokenizer_is_refused(copy):
  (copy / "tokenizer_clip_g" / "merges.txt").write_text("#version: 0.2\n")
  with pytest.raises(InputError, match=r"merges\.txt is truncated"):
    load(str(copy))
  write_manifest(copy)
  with pytest.raises(InputError, match="its merges are cut off"):
    load(str(copy))


def test_it_is_told_from_other_checkpoints(converted, trained, tmp_path):
  assert holds_sd3(converted) and holds_sd3(str(converted))
  assert not holds_sd3(trained) and not holds_sd3(tmp_path / "nowhere")
  refuse_sd3(trained, "anything")
  with pytest.raises(InputError, match=r"\(--task=t2i\): this needs"):
    refuse_sd3(converted, "this")


def generate(folder, out, task, row):
  options = {"weights": "ema", "step": None, "options": generating.Options()}
  return generating.generate(str(folder), task, [row], out=str(out), **options)


def test_ddit_sample_draws_with_it(converted, tmp_path):
  assert generate(converted, tmp_path, "t2i", {"prompt": "a red cat"}) == 0
  assert Image.open(tmp_path / "00000.png").size == (16, 16)


def test_text_tasks_are_refused_before_anything_is_read(converted, tmp_path):
  row = {"image": "nowhere.png", "question": "what is it?"}
  for task in ("caption", "vqa"):
    message = f"--task={task} needs a text head"
    with pytest.raises(InputError, match=message):
      generate(converted, tmp_path, task, row)
  with pytest.raises(InputError, match="ddit evaluate needs a text head"):
    evaluate.evaluate(
      tiny_run.settings(),
      str(converted),
      out=str(tmp_path / "out"),
      weights="ema",
      step=None,
    )
