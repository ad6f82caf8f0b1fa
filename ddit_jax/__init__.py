"""D-DiT, the Dual Diffusion Transformer, in JAX.

Read the folders in this order: `config` (what a run is configured by),
`digits` (the embedded data) and `data` (records to batches), `models` (the
MM-DiT), `diffusion` (the mathematics of both diffusions), `losses`, `train`,
`sharding`, `checkpoint`, `sampling`, `evaluation`, `monitor` and `report`, then
`experiment` and `pipelines`, which put them together for the verbs of `cli`.

`ddit_jax.load(path)` gives a checkpoint as an object with one method a task.
"""

import typing

if typing.TYPE_CHECKING:
  from ddit_jax.pipelines.load import load
  from ddit_jax.pipelines.pipeline import Pipeline

__all__ = ["Pipeline", "load"]


def __getattr__(name: str):
  # Imported on first use, so that `ddit --help` need not wait for jax.
  if name == "load":
    from ddit_jax.pipelines.load import load

    return load
  if name == "Pipeline":
    from ddit_jax.pipelines.pipeline import Pipeline

    return Pipeline
  raise AttributeError(f"module 'ddit_jax' has no attribute {name!r}")
