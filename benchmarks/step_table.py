"""The step of every config: work, ideal time, plan and measured speed.

  python benchmarks/step_table.py
  python benchmarks/step_table.py --measured=runs/digits --on="two CPU cores"

writes docs/steps/README.md from the configs' shapes, from the plans in
docs/plans and from docs/steps/measured.json, to which the second command first
adds a run: the medians of its logged speed. Nothing is compiled.
"""

import argparse
import dataclasses
import json
import pathlib
import statistics

import jax

from ddit_jax.config.load import load_config
from ddit_jax.experiment.config import Config
from ddit_jax.monitor.metric_writer import read_scalars
from ddit_jax.pipelines.plan import make_plan
from ddit_jax.planning.topology import open_topology

_ROOT = pathlib.Path(__file__).parents[1]
PAGE = _ROOT / "docs" / "steps" / "README.md"
_MEASURED = PAGE.parent / "measured.json"
_PLANS = _ROOT / "docs" / "plans"
_PARTS = ("network", "text_encoder", "image_encoder", "vae")
_RATES = ("images_per_second", "model_tflops_per_second")
# In the order of the page; jobs have the rows of their stages.
VARIANTS = {
  "digits": ("cpu", "gpu"),
  "own_images": ("cpu", "gpu", "cpu_prepared", "gpu_prepared"),
  "easy_vqa": ("cpu", "gpu"),
  "ddit_sd3": ("stage1", "stage2", "stage2_highres", "stage3"),
  "ablations": (
    *(f"steps_{steps}" for steps in (4, 8, 16, 32, 64, 128)),
    *(f"generation_{amount}" for amount in ("0", "7m", "20m")),
    "weighting_velocity",
    "weighting_sigma_squared",
    "divisor_all_positions",
    "divisor_target_positions",
    "text_only",
  ),
  "future_work": ("text_beside", "long_prompts"),
  "end_to_end": ("text", "joint", "joint_filtered"),
  "sd3_baseline": ("stage1", "stage2", "stage2_highres"),
  "feature_captioner": ("sd3_frozen", "sd3_trained", "clip", "ddit_features"),
  "post_training": ("nft", "vrpo", "espo", "image_pairs", "text_pairs"),
}
_HEAD = """\
# The step of every config

`python benchmarks/step_table.py` writes this page. Parameters are those of the
trained network; a batch is images + texts. TFLOP are the model's in one step
([scale.md](../scale.md)): of the network, T5, a captioner's frozen features and
the autoencoder. Ideal is the time of all but the last, the network forward and
backward and the others forward, at the peak of one H100, 989 TFLOP/s. Planned
are steps of [plans](../plans/README.md) that have times (quick: estimated by a
roofline), measured those of runs, whose images/s count both tasks' examples.
Post-training draws its batches and cannot be planned. Variants of a config with
equal steps share a row; "-" is not known.

"""
_COLUMNS = (
  "config",
  "parameters",
  "batch",
  "TFLOP: network",
  "T5",
  "features",
  "VAE",
  "ideal, H100 ms",
  "planned",
  "measured",
)
_UNKNOWN = "-"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
  """A training step, as far as its shapes tell.

  Attributes:
    config: name of the config, "digits:cpu".
    num_parameters: of the trained network; None if the step cannot be planned.
    batch: examples of the image loss and of the text loss.
    flops: part -> model FLOPs.
    ideal_seconds: of one H100.
  """

  config: str
  num_parameters: int | None
  batch: tuple[int, int]
  flops: dict[str, int]
  ideal_seconds: float | None


def step_of(name: str, variant: str) -> Step:
  """The step of a variant of a config."""
  path = _ROOT / "configs" / f"{name}.py"
  config = load_config(Config, f"{path}:{variant}", {})
  tasks = config.data.tasks().values()
  numbers, flops, ideal = None, {}, None
  if not config.post_training.parts:
    plan = make_plan(config, open_topology("h100:1x1"))
    numbers, flops = plan.num_parameters, plan.model_flops
    ideal = plan.ideal_seconds
  return Step(
    config=f"{name}:{variant}",
    num_parameters=numbers,
    batch=tuple(task.batch_size for task in tasks),
    flops=flops,
    ideal_seconds=ideal,
  )


def page(steps: list[Step], plans: list[dict], runs: list[dict]) -> str:
  """The page of some steps.

  Args:
    steps: in order.
    plans: of `ddit plan --json`.
    runs: of measured.json.
  """
  rows: dict[tuple, list[str]] = {}
  for step in steps:
    name, _, variant = step.config.partition(":")
    cells = tuple(_cells(step, plans, runs))
    rows.setdefault((name, *cells), []).append(variant)
  lines = [
    "| " + " | ".join(_COLUMNS) + " |",
    "| --- |" + " ---: |" * (len(_COLUMNS) - 3) + " --- | --- |",
  ]
  for (name, *cells), variants in rows.items():
    lines.append("| " + " | ".join([_named(name, variants), *cells]) + " |")
  return _HEAD + "\n".join(lines) + "\n"


def _cells(step: Step, plans: list[dict], runs: list[dict]) -> list[str]:
  flops = [step.flops.get(part) for part in _PARTS]
  numbers, ideal = step.num_parameters, step.ideal_seconds
  return [
    _UNKNOWN if numbers is None else f"{numbers / 1e6:,.1f} M",
    " + ".join(f"{count:,}" for count in step.batch),
    *(_UNKNOWN if n is None else _digits(n / 1e12) for n in flops),
    _UNKNOWN if ideal is None else _digits(ideal * 1e3),
    _joined(_planned(plan) for plan in plans if _is_of(plan, step)),
    _joined(_measured(run) for run in runs if run["config"] == step.config),
  ]


def _is_of(plan: dict, step: Step) -> bool:
  is_training = plan["step"] == "train" and plan["step_seconds"] is not None
  return is_training and plan["config"] == step.config


def _planned(plan: dict) -> str:
  seconds, mfu = plan["step_seconds"], plan["mfu"]
  rates, slices = plan["images_per_second"], plan["num_slices"]
  return (
    (f"{slices} x " if slices > 1 else "")
    + (f"{plan['topology']} (quick)" if plan["is_quick"] else plan["topology"])
    + f": {_span(seconds, 1e3)} ms, MFU {_span(mfu, 100)} %, "
    f"{_span(rates, 1)} images/s"
  )


def _measured(run: dict) -> str:
  images, tflops = (run[name] for name in _RATES)
  return (
    f"{run['on']}: {_digits(images)} images/s, {_digits(tflops * 1e3)} GFLOP/s"
  )


def _named(name: str, variants: list[str]) -> str:
  return f"`{name}`: " + ", ".join(f"`{variant}`" for variant in variants)


def _joined(texts) -> str:
  return "; ".join(texts) or _UNKNOWN


def _digits(value: float) -> str:
  """Three digits: "1,400", "0.0258"."""
  return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _span(ends: list[float], unit: float) -> str:
  return " to ".join(dict.fromkeys(f"{end * unit:,.0f}" for end in ends))


def measured_run(workdir: pathlib.Path, machine: str) -> dict:
  """Medians of what a run logged, as an entry of measured.json.

  Raises:
    SystemExit: it logged no speed.
  """
  config = json.loads((workdir / "config.json").read_text())["name"]
  scalars = read_scalars(workdir / "scalars.jsonl")
  found: dict[str, object] = {"config": config, "on": machine}
  for name in _RATES:
    logged = [row[f"speed/{name}"] for row in scalars if f"speed/{name}" in row]
    if not logged:
      raise SystemExit(f"{workdir} has logged no speed/{name}")
    found[name] = statistics.median(logged)
  return found


def read_pages() -> tuple[list[dict], list[dict]]:
  """The plans, without the sweeps' lists of them, and the measured runs."""
  found = [json.loads(x.read_text()) for x in sorted(_PLANS.glob("*.json"))]
  plans = [plan for plan in found if isinstance(plan, dict)]
  return plans, json.loads(_MEASURED.read_text())


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--measured", type=pathlib.Path, help="a run's workdir")
  parser.add_argument("--on", default="", help="the machine of that run")
  arguments = parser.parse_args()
  jax.config.update("jax_platforms", "cpu")
  plans, runs = read_pages()
  if arguments.measured:
    new = measured_run(arguments.measured, arguments.on)
    same = ("config", "on")
    runs = [x for x in runs if [x[k] for k in same] != [new[k] for k in same]]
    runs.append(new)
    _MEASURED.write_text(json.dumps(runs, indent=2) + "\n")
  steps = [step_of(n, v) for n, some in VARIANTS.items() for v in some]
  PAGE.write_text(page(steps, plans, runs))


if __name__ == "__main__":
  main()
