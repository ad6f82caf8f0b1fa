"""Tiny golden sets: PyTorch checkpoints and arrays, and ways to harm them."""

import copy
import hashlib
import json
import pathlib

import diffusers
import numpy as np
import torch
import transformers
from parity.golden_set import ArrayEntry, Case, GoldenSet

from tests.conversion import checkpoints

CONSTANTS = {
  "scheduler_shift": 2.0,
  "cfg": 2.5,
  "text_loss_weight": 0.3,
  "loglinear_eps": 0.01,
}
CONTEXT, POOLED, CHANNELS = 32, 192, 16
VOCABULARY = checkpoints.VOCABULARY
MASK_ID = VOCABULARY - 1
END_ID = 1


def case_of(name: str, inputs: dict, outputs: dict) -> Case:
  """A case in memory; `outputs` are shapes."""
  arrays = {key: np.asarray(array) for key, array in inputs.items()}
  arrays |= {key: np.zeros(shape, "f4") for key, shape in outputs.items()}
  entries = {
    key: ArrayEntry(
      case=name,
      name=key,
      shape=array.shape,
      dtype=array.dtype.name,
      role="output" if key in outputs else "input",
    )
    for key, array in arrays.items()
  }
  return Case(name=name, entries=entries, arrays=arrays)


def golden_of(**extra) -> GoldenSet:
  """A set in memory, without cases."""
  return GoldenSet(
    folder=pathlib.Path("nowhere"),
    constants=CONSTANTS,
    extra=extra,
    entries={},
    files={},
  )


def write_set(folder: pathlib.Path) -> None:
  """Checkpoints of all layouts, and four cases computed by PyTorch."""
  sd3 = folder / "ckpt/sd3_diffusers"
  single = folder / "ckpt/sd3_single_file"
  checkpoints.save_sd3_folder(sd3)
  single.mkdir()
  checkpoints.save_single_file(single / "tiny.safetensors", sd3)
  checkpoints.save_ddit_folder(folder / "ckpt/ddit", sd3)
  scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=2.0)
  scheduler.save_pretrained(folder / "ckpt/ddit/scheduler")
  with torch.no_grad():
    cases = {
      "b_t5": t5_arrays(sd3),
      "c_vae": vae_arrays(sd3),
      "d_text_loss": time_arrays(),
      "i_sd3_original": sd3_arrays(sd3),
    }
  write_cases(folder, cases)


def draws(seed: int):
  """(shape) -> standard normal float32 numbers."""
  generator = np.random.default_rng(seed)
  return lambda *shape: generator.standard_normal(shape).astype(np.float32)


def t5_arrays(sd3: pathlib.Path) -> dict:
  """Features by transformers, buckets by its attention."""
  model = transformers.T5EncoderModel.from_pretrained(
    sd3 / "text_encoder_3", dtype=torch.float32
  )
  ids = np.random.default_rng(1).integers(0, 16, (2, 7)).astype(np.int32)
  offsets = np.arange(-150, 151, dtype=np.int32)
  attention = model.encoder.block[0].layer[0].SelfAttention
  return {
    "0/ids": (ids, "input"),
    "0/enc1_hidden": (model(torch.tensor(ids)).last_hidden_state, "output"),
    "relative_position": (offsets, "input"),
    "bucket": (
      attention._relative_position_bucket(torch.tensor(offsets)).int(),
      "output",
    ),
  }


def vae_arrays(sd3: pathlib.Path) -> dict:
  """Both ways through diffusers' autoencoder."""
  model = diffusers.AutoencoderKL.from_pretrained(
    sd3 / "vae", torch_dtype=torch.float32
  )
  draw = draws(2)
  image, noise, z = draw(1, 3, 8, 12), draw(1, 16, 2, 3), draw(1, 16, 2, 3)
  posterior = model.encode(torch.tensor(np.tanh(image))).latent_dist
  shift, scale = model.config.shift_factor, model.config.scaling_factor
  drawn = posterior.mean + posterior.std * torch.tensor(noise)
  arrays = {
    "mean": posterior.mean,
    "logvar": posterior.logvar,
    "latent_mode": (posterior.mean - shift) * scale,
    "latent_sample": (drawn - shift) * scale,
    "decoded": model.decode(torch.tensor(z) / scale + shift).sample,
  }
  inputs = {"image": np.tanh(image), "eps": noise, "z": z}
  return {f"vae1_0/{k}": (v, "input") for k, v in inputs.items()} | {
    f"vae1_0/{k}": (v, "output") for k, v in arrays.items()
  }


def time_arrays() -> dict:
  """Antithetic times by their formula."""
  u = np.array([0.1, 0.9, 0.4], np.float32)
  strata = (u + np.arange(3)) / 3
  times = (1 - 1e-3) * (strata % 1) + 1e-3
  return {
    "sample_t/u": (u, "input"),
    "sample_t/t": (times.astype(np.float32), "output"),
  }


def sd3_arrays(sd3: pathlib.Path) -> dict:
  """Velocities, and a guided trajectory of diffusers' scheduler."""
  model = diffusers.SD3Transformer2DModel.from_pretrained(
    sd3 / "transformer", torch_dtype=torch.float32
  )
  draw = draws(3)
  arrays = {}
  for run, shape in (("0", (2, CHANNELS, 4, 8)), ("1", (1, CHANNELS, 12, 2))):
    inputs = {
      "latents": draw(*shape),
      "context": draw(shape[0], 5, CONTEXT),
      "pooled": draw(shape[0], POOLED),
      "timestep": np.array([700.0, 3.25][: shape[0]], np.float32),
    }
    arrays |= {f"{run}/{k}": (v, "input") for k, v in inputs.items()}
    arrays[f"{run}/velocity"] = (velocity(model, **inputs), "output")
    arrays[f"{run}/velocity_no_pooled"] = (
      velocity(without_pooled(model), **inputs),
      "output",
    )
  start = draw(2, CHANNELS, 4, 4)
  context, pooled = draw(3, 5, CONTEXT), draw(3, POOLED)
  latents, negative = torch.tensor(start), [0, 0]
  scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=2.0)
  scheduler.set_timesteps(3)
  for timestep in scheduler.timesteps:
    pair = [
      velocity(
        model,
        latents=latents,
        context=context[rows],
        pooled=pooled[rows],
        timestep=np.full(2, timestep.item(), np.float32),
      )
      for rows in (negative, [1, 2])
    ]
    guided = pair[0] + CONSTANTS["cfg"] * (pair[1] - pair[0])
    latents = scheduler.step(guided, timestep, latents).prev_sample
  return arrays | {
    "sample/init_latents": (start, "input"),
    "sample/context": (context, "input"),
    "sample/pooled": (pooled, "input"),
    "sample/final_3": (latents, "output"),
  }


def without_pooled(model):
  """The same network with the pooled vector's branch silenced."""
  silent = copy.deepcopy(model)
  for parameter in silent.time_text_embed.text_embedder.linear_2.parameters():
    parameter.zero_()
  return silent


def velocity(model, *, latents, context, pooled, timestep) -> torch.Tensor:
  """diffusers' velocity."""
  return model(
    hidden_states=torch.as_tensor(latents),
    encoder_hidden_states=torch.as_tensor(context),
    pooled_projections=torch.as_tensor(pooled),
    timestep=torch.as_tensor(timestep),
  ).sample


def write_cases(folder: pathlib.Path, cases: dict[str, dict]) -> None:
  """npz files and the manifest; a case maps names to (array, role)."""
  (folder / "cases").mkdir()
  entries = []
  for case, arrays in cases.items():
    stored = {name: np.asarray(array) for name, (array, _) in arrays.items()}
    np.savez(folder / "cases" / f"{case}.npz", **stored)
    for name, (_, role) in arrays.items():
      entries.append(entry_of(case, name, stored[name], role))
  manifest = {
    "format_version": 1,
    "constants": CONSTANTS,
    "extra": {},
    "cases": {c: {"title": c, "file": f"cases/{c}.npz"} for c in cases},
    "arrays": entries,
  }
  write_manifest(folder, manifest)


def entry_of(case: str, name: str, array: np.ndarray, role: str) -> dict:
  """What the manifest says of an array."""
  entry = {"case": case, "name": name, "role": role, "desc": "..."}
  entry |= {"shape": list(array.shape), "dtype": array.dtype.name}
  if array.dtype == np.float32:
    numbers = array.astype(np.float64)
    size = max(numbers.size, 1)
    entry["rms"] = float(np.sqrt(np.square(numbers).sum() / size))
    entry["max_abs"] = float(np.abs(numbers).max(initial=0.0))
  if role == "output":
    is_float = array.dtype == np.float32
    entry |= {"atol": 1e-4 * is_float, "rtol": 1e-4 * is_float}
  return entry


def write_manifest(folder: pathlib.Path, manifest: dict) -> None:
  """The manifest with fresh hashes of all files."""
  paths = sorted(p for p in folder.rglob("*") if p.is_file())
  manifest["files"] = [
    {
      "path": path.relative_to(folder).as_posix(),
      "bytes": path.stat().st_size,
      "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    for path in paths
    if path.name != "manifest.json"
  ]
  (folder / "manifest.json").write_text(json.dumps(manifest))


def read_manifest(folder: pathlib.Path) -> dict:
  """The manifest as a table."""
  return json.loads((folder / "manifest.json").read_text())


def edit_array(folder: pathlib.Path, case: str, name: str, change) -> None:
  """Replaces an array by `change` of it and hashes the file anew."""
  path = folder / "cases" / f"{case}.npz"
  with np.load(path) as stored:
    arrays = {key: stored[key] for key in stored.files}
  arrays[name] = change(arrays[name])
  np.savez(path, **arrays)
  write_manifest(folder, read_manifest(folder))
