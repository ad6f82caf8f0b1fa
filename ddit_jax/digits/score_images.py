"""Generated images into metrics, GenEval's and ours, with their controls."""

from collections.abc import Mapping, Sequence

import numpy as np

from ddit_jax.digits import scenes, streams, writers
from ddit_jax.digits.checker import Verdict, checker_for, judge
from ddit_jax.digits.metric_record import (
  Metrics,
  check_lengths,
  held_out_cells,
  metric_record,
  other_items,
  rows_by,
)
from ddit_jax.digits.prompts import Prompt, scene_for
from ddit_jax.digits.worlds import World

_MIN_REAL_SCENES = 400  # behind a ceiling; fewer would blur it
_GIVEN, _SHUFFLED, _REAL = "given", "shuffled", "real"
_CONTROLS = ("blank", "noise", "other_prompt")


def generation_metrics(
  world: World, prompts: Sequence[Prompt], images: np.ndarray, *, seed: int
) -> tuple[Metrics, list[Verdict]]:
  """Judges generated images.

  "generation/<tag>" is GenEval's task score; "overall" is the mean of the
  tasks present and "strict" the same where both readings of every digit must
  agree. "digit_and_color" are the prompts for one digit in a colour: all,
  those training never showed ("_heldout_pairs"), and the others
  ("_seen_pairs").

  The ceiling is what real scenes of the same prompts score, drawn with the
  test writers' glyphs. The baseline is what the given images score if each is
  judged by another prompt. Records also have "controls": the scores of
  "blank" images, of uniform "noise", and of real scenes of an
  "other_prompt". Intervals come from a bootstrap over prompts.

  Args:
    world: the sizes.
    prompts: the prompt of each image; repeated if it has several images.
    images: uint8 [n, S, S, 3].
    seed: of the real scenes, shuffles, noise and bootstrap.

  Returns:
    The metrics, and the verdict on each image.

  Raises:
    ValueError: for unequal lengths, fewer than two different prompts, or
      images of another size or type.
  """
  check_lengths(prompts, images, "images")
  verdicts = _verdicts_with_controls(world, prompts, images, seed=seed)
  correct = {
    name: np.array([v.is_correct for v in found])
    for name, found in verdicts.items()
  }
  strict = {
    name: np.array([v.is_strictly_correct for v in found])
    for name, found in verdicts.items()
  }
  everything = np.arange(len(prompts))
  tags = [prompt.tag for prompt in prompts]
  metrics = {
    f"generation/{tag}": _record(correct, prompts, rows, seed=seed)
    for tag, rows in rows_by(tags).items()
  }
  for name, scores in (("overall", correct), ("strict", strict)):
    metrics[f"generation/{name}"] = _record(
      scores, prompts, everything, seed=seed
    )
  colored = np.flatnonzero(np.array(tags) == "colors")
  cells = held_out_cells([prompts[row].is_held_out for row in colored])
  for suffix, rows in cells.items():
    metrics[f"generation/digit_and_color{suffix}"] = _record(
      correct, prompts, colored[rows], seed=seed
    )
  return metrics, verdicts[_GIVEN]


def real_images(
  world: World, prompts: Sequence[Prompt], rng: np.random.Generator
) -> np.ndarray:
  """One real scene a prompt by the test writers, uint8 [n, S, S, 3]."""
  writing = writers.handwriting("test")
  drawn = [scene_for(p, world, rng, writing=writing) for p in prompts]
  return scenes.render_all(drawn, world, writing)


def _verdicts_with_controls(
  world: World, prompts: Sequence[Prompt], images: np.ndarray, *, seed: int
) -> dict[str, list[Verdict]]:
  """Verdicts on the images and on all that frames them.

  Real scenes come in whole rounds over the prompts: verdict k * n + i of
  "real" is about prompt i, as verdict i of all the others.
  """
  checker = checker_for(world)
  rng = streams.generator(
    "scenes behind a ceiling", "test", size=len(prompts), seed=seed
  )
  rounds = -(-_MIN_REAL_SCENES // len(prompts))
  others = other_items([prompt.text for prompt in prompts], rng)
  given = checker.find(images)
  real = checker.find(real_images(world, list(prompts) * rounds, rng))
  noise = rng.integers(256, size=images.shape, dtype=np.uint8)
  findings = {
    _GIVEN: given,
    _SHUFFLED: [given[other] for other in others],
    _REAL: real,
    "other_prompt": [real[other] for other in others],
    "blank": checker.find(np.zeros_like(images)),
    "noise": checker.find(noise),
  }
  return {
    name: [judge(prompts[i % len(prompts)], f) for i, f in enumerate(found)]
    for name, found in findings.items()
  }


def _record(
  scores: Mapping[str, np.ndarray],
  prompts: Sequence[Prompt],
  rows: np.ndarray,
  *,
  seed: int,
) -> dict:
  """The record of some of the prompts; tasks among them count equally."""
  tags = np.array([prompts[row].tag for row in rows])
  mean = {
    name: _mean_of_tasks(
      values.reshape(-1, len(prompts)).mean(axis=0)[rows], tags
    )
    for name, values in scores.items()
  }
  record = metric_record(
    scores[_GIVEN][rows],
    ceiling=mean[_REAL],
    baseline=mean[_SHUFFLED],
    groups=[prompts[row].text for row in rows],
    strata=tags,
    seed=seed,
  )
  return record | {"controls": {name: mean[name] for name in _CONTROLS}}


def _mean_of_tasks(values: np.ndarray, tags: np.ndarray) -> float:
  return float(np.mean([values[tags == tag].mean() for tag in np.unique(tags)]))
