"""Export: the source's own tensors again, and models that PyTorch loads."""

import json
import shutil

import diffusers
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import safetensors.torch
import torch
import transformers

from ddit_jax.checkpoint.manifest import (
  CheckpointError,
  verify_manifest,
  write_manifest,
)
from ddit_jax.conversion import export as export_module
from ddit_jax.conversion.export import (
  ExportOptions,
  export,
  export_bytes,
  plan_export,
)
from ddit_jax.conversion.record import read_record
from ddit_jax.errors import InputError
from ddit_jax.models.module import Network
from tests.conversion import checkpoints
from tests.conversion.checkpoints import float32, stored_arrays


def run(checkpoint, destination, format, **fields):
  options = ExportOptions(format=format, is_verified=True, **fields)
  networks = plan_export(checkpoint, options)
  return export(checkpoint, networks, destination, options)


@pytest.fixture(scope="module")
def exported(tmp_path_factory, converted):
  """Every import, exported again."""
  root = tmp_path_factory.mktemp("exported")
  for name, format in (("a_sd3", "a"), ("b_sd3", "a"), ("c", "c")):
    run(converted / name, root / name, format)
  run(converted / "a_ddit", root / "a_ddit", "ddit_folder")
  return root


def tensor_files(folder):
  return {
    path.relative_to(folder).as_posix(): safetensors.torch.load_file(path)
    for path in sorted(folder.rglob("*.safetensors"))
  }


def check_equal(got, expected):
  assert got.keys() == expected.keys()
  for name, tensor in expected.items():
    assert got[name].dtype == tensor.dtype, name
    assert torch.equal(got[name].view(torch.uint8), tensor.view(torch.uint8)), (
      name
    )


@pytest.mark.parametrize("name", ["a_sd3", "c"])
def test_round_trip_is_bit_equal_file_by_file(
  exported, name, sd3_folder, ddit_folder
):
  source = {"a_sd3": sd3_folder, "c": ddit_folder}[name]
  expected = tensor_files(source)
  found = tensor_files(exported / name)
  assert found.keys() == expected.keys()
  for file in expected:
    check_equal(found[file], expected[file])
  for config in sorted(source.glob("*/config.json")):
    other = exported / name / config.relative_to(source)
    assert json.loads(other.read_text()) == json.loads(config.read_text())
  for index in sorted(source.rglob("*.index.json")):
    other = exported / name / index.relative_to(source)
    both = (json.loads(p.read_text())["weight_map"] for p in (other, index))
    assert next(both) == next(both)


def merged(folder, component):
  return checkpoints.read_folder(folder / component)


COMPONENTS = ["transformer", "vae", "text_encoder", "text_encoder_2"]


@pytest.mark.parametrize("component", [*COMPONENTS, "text_encoder_3"])
def test_single_file_to_diffusers_folder(exported, sd3_folder, component):
  """The same tensors as the folder from which the file was made."""
  check_equal(
    merged(exported / "b_sd3", component), merged(sd3_folder, component)
  )


def test_diffusers_reads_the_single_file_as_we_do(exported, single_file):
  """diffusers' own reader of Stability's names, against our export."""
  loader = diffusers.loaders.single_file_utils
  tensors = safetensors.torch.load_file(single_file)
  network = loader.convert_sd3_transformer_checkpoint_to_diffusers(
    {k: v for k, v in tensors.items() if "diffusion_model" in k}
  )
  check_equal(merged(exported / "b_sd3", "transformer"), network)
  config = json.loads((exported / "b_sd3/vae/config.json").read_text())
  vae = loader.convert_ldm_vae_checkpoint(tensors, config)
  check_equal(merged(exported / "b_sd3", "vae"), vae)


@pytest.mark.parametrize("name", ["a_sd3", "b_sd3"])
def test_exported_sd3_computes_the_same_in_diffusers(exported, converted, name):
  rng = np.random.default_rng(0)
  shapes = ((1, 6, 8, 16), (1, 4, 32), (1, 192))
  latents, text, pooled = (
    rng.normal(size=s).astype(np.float32) for s in shapes
  )
  folder = exported / name / "transformer"
  model = diffusers.SD3Transformer2DModel.from_pretrained(
    folder, torch_dtype=torch.float32
  )
  with torch.no_grad():
    expected = model(
      hidden_states=torch.tensor(latents.transpose(0, 3, 1, 2)),
      encoder_hidden_states=torch.tensor(text),
      pooled_projections=torch.tensor(pooled),
      timestep=torch.tensor([420.0]),
      return_dict=False,
    )[0]
  network = Network(read_record(converted / name).configs["network"])
  variables = float32(stored_arrays(converted / name, "network"))
  inputs = map(jnp.asarray, (latents, text, np.float32([0.42]), pooled))
  found = network.apply(variables, *inputs).velocity
  # Measured 2e-6 at outputs up to 1.2.
  np.testing.assert_allclose(
    found, expected.numpy().transpose(0, 2, 3, 1), atol=5e-5
  )


def test_pytorch_loads_every_part(exported):
  folder = exported / "b_sd3"
  classes = {
    "vae": diffusers.AutoencoderKL,
    "text_encoder": transformers.CLIPTextModelWithProjection,
    "text_encoder_2": transformers.CLIPTextModelWithProjection,
    "text_encoder_3": transformers.T5EncoderModel,
  }
  for name, cls in classes.items():
    model = cls.from_pretrained(folder / name, torch_dtype=torch.float16)
    loaded = model.state_dict()
    for tensor_name, tensor in merged(folder, name).items():
      assert torch.equal(loaded[tensor_name], tensor), tensor_name
  scheduler = diffusers.FlowMatchEulerDiscreteScheduler.from_pretrained(
    folder / "scheduler"
  )
  assert scheduler.config.shift == 3.0


def test_pipeline_index(exported):
  index = json.loads((exported / "a_sd3/model_index.json").read_text())
  assert index["_class_name"] == "StableDiffusion3Pipeline"
  assert index["text_encoder_3"] == ["transformers", "T5EncoderModel"]
  assert index["tokenizer"] == [None, None]
  index = json.loads((exported / "c/model_index.json").read_text())
  assert index["transformer"][1] == "SD3JointModelFlexible"


def test_ddit_from_sd3_has_the_released_names(exported, ddit_folder):
  found = merged(exported / "a_ddit", "transformer")
  released = merged(ddit_folder, "transformer")
  assert {k: v.shape for k, v in found.items()} == {
    k: v.shape for k, v in released.items()
  }
  config = json.loads((exported / "a_ddit/transformer/config.json").read_text())
  assert config["_class_name"] == "SD3JointModelFlexible"
  assert config["vocab_size"] == checkpoints.VOCABULARY
  verify_manifest(exported / "a_ddit")


def test_dtype_of_the_export(tmp_path, converted):
  outcome = run(converted / "a_sd3", tmp_path / "out", "a", dtype="bfloat16")
  expected = merged(tmp_path / "out", "vae")
  assert {t.dtype for t in expected.values()} == {torch.bfloat16}
  for name in ("text_encoder_3", "text_encoder"):
    config = json.loads((tmp_path / "out" / name / "config.json").read_text())
    assert config.get("dtype", config.get("torch_dtype")) == "bfloat16"
  assert any("float16 to bfloat16" in line for line in outcome.lines)


def test_parameters_of_a_trained_run(tmp_path, converted):
  checkpoint = converted / "c"
  trained = float32(stored_arrays(checkpoint, "network")["params"])
  trained["text_head"]["project"]["bias"] += 1.5
  with ocp.PyTreeCheckpointer() as writer:
    writer.save(tmp_path / "step" / "params", trained)
  run(
    checkpoint,
    tmp_path / "out",
    "c",
    network_params=tmp_path / "step" / "params",
  )
  found = merged(tmp_path / "out", "transformer")
  np.testing.assert_array_equal(
    found["text_proj_out.bias"], trained["text_head"]["project"]["bias"]
  )
  assert found["text_proj_out.bias"].dtype == torch.float32
  # The position table is stored, not trained: it stays the checkpoint's.
  assert found["pos_embed.pos_embed"].dtype == torch.bfloat16


def test_parameters_of_another_network(tmp_path, converted):
  with ocp.PyTreeCheckpointer() as writer:
    writer.save(tmp_path / "params", {"other": np.ones(3)})
  options = ExportOptions(format="c", network_params=tmp_path / "params")
  with pytest.raises(InputError, match="missing or unexpected"):
    plan_export(converted / "c", options)
  trained = stored_arrays(converted / "c", "network")["params"]
  trained["null_image"] = trained["null_image"][:3]
  with ocp.PyTreeCheckpointer() as writer:
    writer.save(tmp_path / "short", trained)
  options = ExportOptions(format="c", network_params=tmp_path / "short")
  with pytest.raises(InputError, match=r"null_image .* shape \(3, 128\)"):
    plan_export(converted / "c", options)


@pytest.mark.parametrize(
  ("name", "format", "message"),
  [
    ("a_sd3", "c", r"network of sd3, which .* use --export=a"),
    ("c", "a", r"network of ddit, which .* use --export=c"),
    ("c", "b", r"cannot be written as single_file"),
    ("c", "x", r"unknown format 'x'"),
  ],
)
def test_formats_that_cannot_hold_it(converted, name, format, message):
  with pytest.raises(InputError, match=message):
    plan_export(converted / name, ExportOptions(format=format))


def test_bad_options_and_sources(tmp_path, converted):
  with pytest.raises(InputError, match="unknown dtype 'int8'"):
    plan_export(converted / "c", ExportOptions(format="c", dtype="int8"))
  with pytest.raises(InputError, match="not a checkpoint"):
    plan_export(tmp_path, ExportOptions(format="c"))
  shutil.copytree(converted / "c", tmp_path / "copy")
  (tmp_path / "copy/network/params/null_image/zarr.json").unlink()
  with pytest.raises(CheckpointError, match=r"null_image/zarr.json is missing"):
    plan_export(tmp_path / "copy", ExportOptions(format="c"))


def test_verification_finds_a_wrong_write(tmp_path, converted, monkeypatch):
  write = export_module.write_folder

  def wrong(folder, tensors, read):
    def spoiled(tensor):
      array = read(tensor)
      if tensor.name == "text_proj_out.bias":
        array.view(np.uint16)[0] ^= 1
      return array

    write(folder, tensors, spoiled)

  monkeypatch.setattr(export_module, "write_folder", wrong)
  with pytest.raises(InputError, match=r"text_proj_out.bias differs"):
    run(converted / "c", tmp_path / "out", "c")
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
  ("changes", "num_files"),
  [
    # The source's files are used again if they hold everything and are named
    # as usual.
    ({}, 3),
    ({"shared.weight": "model.fp16.safetensors"}, 1),
    ({"shared.weight": None}, 1),
  ],
)
def test_files_of_the_source(tmp_path, converted, changes, num_files):
  checkpoint = shutil.copytree(converted / "a_sd3", tmp_path / "in")
  path = checkpoint / "source.json"
  source = json.loads(path.read_text())
  files = source["files"]["text_encoder"] | changes
  files = {k: v for k, v in files.items() if v is not None}
  source["files"]["text_encoder"] = files
  path.write_text(json.dumps(source))
  write_manifest(checkpoint)
  told = []
  options = ExportOptions(format="a")
  networks = plan_export(checkpoint, options)
  export(checkpoint, networks, tmp_path / "out", options, told.append)
  assert sum(told) == export_bytes(networks)
  written = list((tmp_path / "out/text_encoder_3").glob("*.safetensors"))
  assert len(written) == num_files
