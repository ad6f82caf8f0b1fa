"""`ddit lora`."""

from absl import flags

from ddit_jax.cli.verb_flags import Verb, require
from ddit_jax.errors import InputError, suggest

WEIGHTS = ("ema", "params")

DESCRIPTION = """
Takes the adapters out of a run that was trained with lora.rank set: as one
file that diffusers and PEFT load, or merged into the network.

  ddit lora --checkpoint=runs/lora --out=adapter.safetensors
  ddit lora --checkpoint=runs/lora --merge --out=runs/merged

A merged folder is a checkpoint: ddit sample and init_from take it, and
tools/convert_sd3_weights.py exports its weights with --params.
"""


def define(values: flags.FlagValues) -> None:
  def text(name, default, help_text):
    flags.DEFINE_string(name, default, help_text, flag_values=values)

  text("checkpoint", None, "folder of a run with adapters, or its checkpoints")
  text("out", None, "new FILE.safetensors, or with --merge a new folder")
  text("weights", "ema", "ema (averaged adapters) or params")
  flags.DEFINE_bool(
    "merge",
    False,
    "write the network with the adapters merged into it",
    flag_values=values,
  )
  flags.DEFINE_integer(
    "step", None, "checkpoint's step; the newest if unset", flag_values=values
  )


def run(values: flags.FlagValues, overrides: dict[str, str]) -> int:
  del overrides
  require(values, "checkpoint", "out")
  if values.weights not in WEIGHTS:
    raise InputError(
      f"unknown weights {values.weights!r}: {suggest(values.weights, WEIGHTS)}"
    )
  from ddit_jax.pipelines import lora_export

  export = lora_export.export_adapter
  if values.merge:
    export = lora_export.export_merged
  return export(
    values.checkpoint, values.out, weights=values.weights, step=values.step
  )


VERB = Verb(
  name="lora",
  summary="take a run's adapters out as a file, or merge them",
  description=DESCRIPTION,
  define=define,
  run=run,
  takes_config=False,
)
