"""Metrics of generated images."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float64, Int64, Shaped, UInt8

from ddit_jax.digits.datasets import generator
from ddit_jax.digits.judge import Judgement, judge_for
from ddit_jax.digits.metrics import (
  Metrics,
  check_lengths,
  held_out_rows,
  metric_record,
  other_items,
  rows_by,
)
from ddit_jax.digits.prompts import Prompt, scene_for
from ddit_jax.digits.rendering import render_all
from ddit_jax.digits.world import World, handwriting

_MIN_REAL_SCENES = 400  # for an oracle; fewer would make it noisy
_CONTROLS = ("blank", "noise", "other_prompt")


def generation_metrics(
  world: World, prompts: Sequence[Prompt], images: np.ndarray, *, seed: int
) -> tuple[Metrics, list[Judgement]]:
  """Judges generated images.

  "generation/<tag>" is GenEval's task score; "overall" is the mean of the
  tasks present, and "strict" the same where both classifications of every
  digit must agree. "digit_and_color" covers the prompts for one digit in a
  colour: all, those training never shows ("_heldout_pairs"), and the others
  ("_seen_pairs"); other tasks that have such prompts are split likewise.
  "soft_tifa" is the share of single claims that hold, a mean over the images
  of each task and then over tasks, and "soft_tifa/N" that of prompts with N
  claims (Soft-TIFA of GenEval 2, arXiv 2512.16853, where the checker is exact).

  The oracle is the score of real scenes of the same prompts in the test
  writers' handwriting. The prior baseline is the score of the given images
  when each is judged by another prompt. Records also have "controls": the
  scores of "blank" images, of uniform "noise", and of real scenes of an
  "other_prompt". Intervals come from a bootstrap over prompts.

  Args:
    world: the sizes.
    prompts: the prompt of each image; repeated if it has several images.
    images: uint8 [n, canvas, canvas, 3].
    seed: of the real scenes, shuffles, noise and bootstrap.

  Returns:
    The metrics, and the judgement of each image.

  Raises:
    ValueError: unequal lengths, fewer than two different prompts, or images
      of another size or type.
  """
  check_lengths(prompts, images, "images")
  judgements = _judgements(world, prompts, images, seed=seed)
  correct, strict, atoms = (
    {
      name: np.array([getattr(j, attribute) for j in found])
      for name, found in judgements.items()
    }
    for attribute in ("is_correct", "is_strictly_correct", "atoms")
  )
  selected = _selected(prompts, correct, strict, atoms)
  metrics = {
    f"generation/{name}": _record(scores, prompts, rows, seed=seed)
    for name, (scores, rows) in selected.items()
  }
  return metrics, judgements["given"]


def _selected(prompts: Sequence[Prompt], correct, strict, atoms):
  """Name of a metric -> (the scores it is made of, its rows)."""
  tags = [prompt.tag for prompt in prompts]
  everything = np.arange(len(prompts))
  selected = {tag: (correct, rows) for tag, rows in rows_by(tags).items()} | {
    "overall": (correct, everything),
    "strict": (strict, everything),
    "soft_tifa": (atoms, everything),
  }
  numbers = rows_by([len(prompt.atoms()) for prompt in prompts])
  for number, rows in sorted(numbers.items()):
    selected[f"soft_tifa/{number}"] = (atoms, rows)
  for tag, rows in rows_by(tags).items():
    name = "digit_and_color" if tag == "colors" else tag
    split = held_out_rows([prompts[row].is_held_out for row in rows])
    if len(split) > 2 or tag == "colors":
      for suffix, some in split.items():
        selected[f"{name}{suffix}"] = (correct, rows[some])
  return selected


def real_images(
  world: World, prompts: Sequence[Prompt], rng: np.random.Generator
) -> UInt8[np.ndarray, "prompts canvas canvas 3"]:
  """A real scene per prompt by the test writers."""
  writing = handwriting("test")
  scenes = [scene_for(p, world, rng, writing=writing) for p in prompts]
  return render_all(scenes, world, writing)


def _judgements(
  world: World, prompts: Sequence[Prompt], images: np.ndarray, *, seed: int
) -> dict[str, list[Judgement]]:
  """Judgements of the given images, the references and the controls.

  The real scenes repeat the prompts: judgement k * n + i of "real" is about
  prompt i, as is judgement i of the others.
  """
  judge = judge_for(world)
  # The purpose is part of the seed: its wording must not change.
  rng = generator(
    "scenes behind a ceiling", "test", size=len(prompts), seed=seed
  )
  repeats = -(-_MIN_REAL_SCENES // len(prompts))
  others = other_items([prompt.text for prompt in prompts], rng)
  given = judge.find(images)
  real = judge.find(real_images(world, list(prompts) * repeats, rng))
  noise = rng.integers(256, size=images.shape, dtype=np.uint8)
  findings = {
    "given": given,
    "shuffled": [given[other] for other in others],
    "real": real,
    "other_prompt": [real[other] for other in others],
    "blank": judge.find(np.zeros_like(images)),
    "noise": judge.find(noise),
  }
  return {
    name: [f.judge(prompts[i % len(prompts)]) for i, f in enumerate(found)]
    for name, found in findings.items()
  }


def _record(
  scores: Mapping[str, Shaped[np.ndarray, "..."]],
  prompts: Sequence[Prompt],
  rows: Int64[np.ndarray, " rows"],
  *,
  seed: int,
) -> dict:
  """The record of some of the prompts; their tasks count equally."""
  tags = np.array([prompts[row].tag for row in rows])
  mean = {
    name: _mean_of_tasks(
      values.reshape(-1, len(prompts)).mean(axis=0)[rows], tags
    )
    for name, values in scores.items()
  }
  record = metric_record(
    scores["given"][rows],
    oracle=mean["real"],
    prior_baseline=mean["shuffled"],
    groups=[prompts[row].text for row in rows],
    strata=tags,
    seed=seed,
  )
  return record | {"controls": {name: mean[name] for name in _CONTROLS}}


def _mean_of_tasks(
  values: Float64[np.ndarray, " rows"], tags: Shaped[np.ndarray, " rows"]
) -> float:
  return float(np.mean([values[tags == tag].mean() for tag in np.unique(tags)]))
