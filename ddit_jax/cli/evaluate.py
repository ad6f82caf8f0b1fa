"""`ddit evaluate`."""

from absl import flags

from ddit_jax.cli.verb_flags import Verb, require
from ddit_jax.config.load import load

DESCRIPTION = """
Examines a checkpoint on handwriting it has never seen, in all three tasks, and
sets every score beside its oracle on real scenes, a prior baseline and
controls, with bootstrap intervals.

  ddit evaluate --checkpoint=runs/digits --config=configs/digits.py \\
    --out=runs/digits/evaluation

The folder --out receives metrics.json, the drawings, captions and answers, and
report.html, one file that opens offline.
"""


def define(values: flags.FlagValues) -> None:
  def text(name, default, help_text):
    flags.DEFINE_string(name, default, help_text, flag_values=values)

  text("checkpoint", None, "folder of a run, or its checkpoints")
  text("config", None, "config file, FILE.py[:variant]")
  text("out", None, "folder for metrics, samples and the report")
  text("weights", "ema", "ema (averaged parameters) or params")
  flags.DEFINE_integer(
    "step", None, "checkpoint's step; the newest if unset", flag_values=values
  )


def run(values: flags.FlagValues, overrides: dict[str, str]) -> int:
  require(values, "checkpoint", "config", "out")
  from ddit_jax.experiment.config import Config

  settings = load(Config, values.config, overrides)
  from ddit_jax.pipelines import evaluate

  return evaluate.evaluate(
    settings,
    values.checkpoint,
    out=values.out,
    weights=values.weights,
    step=values.step,
  )


VERB = Verb(
  name="evaluate",
  summary="score a checkpoint on all three tasks and write a report",
  description=DESCRIPTION,
  define=define,
  run=run,
)
