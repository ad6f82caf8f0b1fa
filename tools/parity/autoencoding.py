"""Case c: the autoencoders of D-DiT (0) and of SD3 (1), both ways."""

import re

import numpy as np

from parity.axes import channels_first, channels_last
from parity.checkpoints import Checkpoints, Part
from parity.comparison import Readings
from parity.golden_set import Case, GoldenSet, GoldenSetError

_RUN = re.compile(r"vae([01])_\d+")


def outputs(
  golden: GoldenSet, case: Case, checkpoints: Checkpoints
) -> dict[str, Readings]:
  """Our side of every array of the case."""
  del golden  # Shift and scale are the autoencoder's own.
  results: dict[str, Readings] = {}
  for run in case.groups("image"):
    match = _RUN.fullmatch(run)
    if match is None:
      raise GoldenSetError(f"case {case.name}: {run} is no vae0_N or vae1_N")
    if match[1] == "0":
      sources = {"ddit": checkpoints.get("ddit")}
    else:
      sources = checkpoints.sd3()
    by_source = {
      name: _one_run(case, run, loaded["vae"])
      for name, loaded in sources.items()
    }
    for key in ("mean", "logvar", "latent_mode", "latent_sample", "decoded"):
      results[f"{run}/{key}"] = {
        name: arrays[key] for name, arrays in by_source.items()
      }
  return results


def _one_run(case: Case, run: str, vae: Part) -> dict[str, np.ndarray]:
  image, noise, latents = (
    channels_last(case[f"{run}/{name}"]) for name in ("image", "eps", "z")
  )
  posterior = vae.encode(image)
  to_network = vae.config.to_network
  results = {
    "mean": posterior.mean,
    "logvar": posterior.logvar,
    "latent_mode": to_network(posterior.mean),
    "latent_sample": to_network(posterior.at(noise)),
    "decoded": vae.decode(latents),
  }
  return {name: channels_first(array) for name, array in results.items()}
