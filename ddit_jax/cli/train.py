"""`ddit train`."""

from absl import flags

from ddit_jax.cli.verb_flags import Verb, require
from ddit_jax.config.load import load_job
from ddit_jax.errors import InputError

DESCRIPTION = """
Trains one network on two tasks at once: drawing images from text, and writing
text about images. Starts fresh in an empty --workdir, or goes on exactly where
an earlier run in it stopped. Ctrl-C or SIGTERM saves a checkpoint and exits 0.

  ddit train --config=configs/digits.py --workdir=runs/digits

A config of several stages (configs/ddit_sd3.py:all) trains one after the other,
each in a folder of its name; the same command goes on with the right one.

The workdir receives checkpoints/, scalars.jsonl, TensorBoard files and
config.json.
"""


def define(values: flags.FlagValues) -> None:
  flags.DEFINE_string(
    "config", None, "config file, FILE.py[:variant]", flag_values=values
  )
  flags.DEFINE_string(
    "workdir", None, "folder the run lives in", flag_values=values
  )
  flags.DEFINE_bool(
    "distributed",
    False,
    "join the other processes of a cluster job before starting",
    flag_values=values,
  )


def run(values: flags.FlagValues, overrides: dict[str, str]) -> int:
  require(values, "config", "workdir")
  from ddit_jax.experiment.config import Config

  job = load_job(Config, values.config, overrides)
  from ddit_jax.experiment import stages, trainer

  if values.distributed:
    join_cluster()
  if isinstance(job, dict):
    return stages.train_stages(job, values.workdir)
  return trainer.train(job, values.workdir)


def join_cluster() -> None:
  """Joins the other processes of a cluster job; InputError without one."""
  import jax

  try:
    jax.distributed.initialize()
  except (ValueError, RuntimeError) as error:
    raise InputError(
      f"--distributed found no cluster job to join ({error}): leave it out on "
      "one machine, or start through the cluster's launcher"
    ) from error


VERB = Verb(
  name="train",
  summary="train a network, or resume the run in a folder",
  description=DESCRIPTION,
  define=define,
  run=run,
)
