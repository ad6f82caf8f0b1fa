"""One metric as it is stored: the value, how sure it is, and what frames it."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from ddit_jax.digits import datasets, grammar, scenes
from ddit_jax.digits import world as writers
from ddit_jax.digits.datasets import (
  CAPTION,
  CaptionItem,
  ImageToTextPool,
  QuestionItem,
)
from ddit_jax.digits.grammar import Facts
from ddit_jax.digits.judge import Verdict, checker_for, judge
from ddit_jax.digits.prompts import Prompt, scene_for
from ddit_jax.digits.world import World
from ddit_jax.evaluation import bootstrap, yes_no
from ddit_jax.evaluation.fact_scores import fact_scores
from ddit_jax.evaluation.vqa_accuracy import normalise, question_accuracy

Metrics = dict[str, dict[str, Any]]  # name -> record


def metric_record(
  values: Sequence[float] | np.ndarray,
  *,
  ceiling: float,
  baseline: float,
  weights: Sequence[float] | np.ndarray | None = None,
  groups: Sequence[Hashable] | None = None,
  strata: Sequence[Hashable] | None = None,
  seed: int = 0,
) -> dict[str, Any]:
  """The mean of `values` beside its ceiling and its baseline, for JSON.

  Args:
    values: one score an item, in [0, 1].
    ceiling: what perfect output would score here.
    baseline: what output that ignores its input scores.
    weights: of the items, see bootstrap.mean_interval.
    groups: of the items, see there.
    strata: of the items, see there.
    seed: of the bootstrap.

  Returns:
    "value", "n" (items), "interval" ([low, high], 95 %), "ceiling" and
    "baseline"; all but n lie in [0, 1].

  Raises:
    ValueError: as bootstrap.mean_interval.
  """
  estimate = bootstrap.mean_interval(
    values, weights=weights, groups=groups, strata=strata, seed=seed
  )
  return {
    "value": estimate.value,
    "n": estimate.n,
    "interval": [estimate.low, estimate.high],
    "ceiling": float(ceiling),
    "baseline": float(baseline),
  }


def other_items(
  labels: Sequence[Hashable], rng: np.random.Generator
) -> np.ndarray:
  """For each item the index of another, drawn among those labelled otherwise.

  Judging an item by another's output shows what the same outputs score
  without regard to their inputs. Returns int64 [n].

  Raises:
    ValueError: if all labels are equal.
  """
  if len(set(labels)) < 2:
    raise ValueError(
      f"all {len(labels)} items ask for the same, so none can serve as "
      "another's baseline: score at least two different ones together"
    )
  others = rng.integers(len(labels), size=len(labels))
  for item, label in enumerate(labels):
    while labels[others[item]] == label:
      others[item] = rng.integers(len(labels))
  return others


def rows_by(labels: Sequence[Hashable]) -> dict[Hashable, np.ndarray]:
  """The rows of each label, in order of first appearance."""
  rows: dict[Hashable, list[int]] = {}
  for row, label in enumerate(labels):
    rows.setdefault(label, []).append(row)
  return {label: np.array(found) for label, found in rows.items()}


def held_out_cells(is_held_out: Sequence[bool]) -> dict[str, np.ndarray]:
  """Rows of all items, of the held-out and of the seen ones, by name suffix.

  A cell without rows is left out: there is nothing to report.
  """
  flags = np.asarray(is_held_out, bool)
  cells = {
    "": np.arange(len(flags)),
    "_heldout_pairs": np.flatnonzero(flags),
    "_seen_pairs": np.flatnonzero(~flags),
  }
  return {suffix: rows for suffix, rows in cells.items() if len(rows)}


def check_lengths(items: Sequence, outputs: Sequence, name: str) -> None:
  """Raises ValueError unless there is one output an item, and at least one."""
  if not len(items) or len(items) != len(outputs):
    raise ValueError(
      f"{len(items)} items for {len(outputs)} {name}: give one each, and at "
      "least one"
    )


_POPE_SCORES = ("accuracy", "precision", "recall", "f1", "yes_ratio")


def answer_metrics(
  items: Sequence[QuestionItem],
  answers: Sequence[str],
  *,
  blind: Mapping[str, str],
  seed: int = 0,
) -> Metrics:
  """Scores generated answers.

  "vqa/<kind>" is the share of answers equal to the canonical one, both in
  VQA v2's normal form. "vqa/accuracy" and "vqa/accuracy/<answer_type>" are
  VQA v2's agreement with ten annotators. The ceiling is what the canonical
  answer scores: 1 by kind, and its agreement with the annotators.

  Args:
    items: the questions.
    answers: one generated answer a question.
    blind: for each kind of question, the answer of a model that sees no image
      (see `most_frequent_answers`); what it scores is the baseline.
    seed: of the bootstrap.

  Raises:
    ValueError: for unequal lengths, no items, or a kind without blind answer.
  """
  check_lengths(items, answers, "answers")
  kinds = [item.question.kind for item in items]
  if missing := sorted(set(kinds) - set(blind)):
    raise ValueError(
      f"no blind answer for questions of kind {missing}: the training pool "
      "has none of them, so neither can a model be asked"
    )
  given = {
    "value": answers,
    "baseline": [blind[kind] for kind in kinds],
    "ceiling": [item.question.answer for item in items],
  }
  exact = {k: _is_canonical(v, items) for k, v in given.items()}
  agreed = {k: _agreement(v, items) for k, v in given.items()}
  metrics = {"vqa/accuracy": _record(agreed, np.arange(len(items)), seed=seed)}
  answer_types = [item.question.answer_type for item in items]
  for answer_type, rows in rows_by(answer_types).items():
    metrics[f"vqa/accuracy/{answer_type}"] = _record(agreed, rows, seed=seed)
  for kind, rows in rows_by(kinds).items():
    metrics[f"vqa/{kind}"] = _record(exact, rows, seed=seed)
  return metrics


def most_frequent_answers(pool: ImageToTextPool) -> dict[str, str]:
  """The answer that training gave most often to each kind of question.

  Of equally frequent answers the first in the alphabet.
  """
  counts: dict[str, Counter] = defaultdict(Counter)
  for kind, text in zip(pool.kinds, pool.texts, strict=True):
    if kind != CAPTION:
      counts[kind][text] += 1
  return {
    kind: min(found, key=lambda text: (-found[text], text))
    for kind, found in counts.items()
  }


def pope_metrics(
  items_by_split: Mapping[str, Sequence[QuestionItem]],
  answers_by_split: Mapping[str, Sequence[str]],
  *,
  seed: int = 0,
) -> Metrics:
  """POPE's scores of each split, and the means over the splits.

  "pope/<split>/<score>" and "pope/<score>" for accuracy, precision, recall,
  f1 and yes_ratio (the share of "yes"); a score whose denominator is zero is
  0. The ceiling is what the right answers score and the baseline what "yes"
  to everything does. Intervals come from a bootstrap over images.

  Args:
    items_by_split: from exam_sets.pope_items.
    answers_by_split: a generated answer for each of those questions.
    seed: of the bootstrap.

  Raises:
    ValueError: if the splits or the numbers of answers differ.
  """
  if not items_by_split or set(items_by_split) != set(answers_by_split):
    raise ValueError(
      f"questions of splits {sorted(items_by_split)} but answers of "
      f"{sorted(answers_by_split)}: answer every split, and at least one"
    )
  for split, items in items_by_split.items():
    check_lengths(items, answers_by_split[split], f"{split} answers")
  metrics = {}
  for split, items in items_by_split.items():
    only = {split: items}, {split: answers_by_split[split]}
    for score in _POPE_SCORES:
      metrics[f"pope/{split}/{score}"] = _pope_record(score, *only, seed=seed)
  for score in _POPE_SCORES:
    metrics[f"pope/{score}"] = _pope_record(
      score, items_by_split, answers_by_split, seed=seed
    )
  return metrics


def _pope_record(
  score: str,
  items_by_split: Mapping[str, Sequence[QuestionItem]],
  answers_by_split: Mapping[str, Sequence[str]],
  *,
  seed: int,
) -> dict:
  """The record of one score, the mean over the splits."""
  labels, said, strata, groups = [], [], [], []
  ceilings, baselines = [], []
  for split, items in items_by_split.items():
    right = [item.question.answer for item in items]
    labels += right
    said += [yes_no.parse_yes_no(text) for text in answers_by_split[split]]
    strata += [split] * len(items)
    groups += [item.scene for item in items]
    ceilings.append(getattr(yes_no.yes_no_scores(right, right), score))
    all_yes = ["yes"] * len(items)
    baselines.append(getattr(yes_no.yes_no_scores(right, all_yes), score))
  values, weights = _as_weighted_mean(
    score, np.array(labels) == "yes", np.array(said) == "yes"
  )
  return metric_record(
    values,
    weights=weights,
    ceiling=np.mean(ceilings),
    baseline=np.mean(baselines),
    groups=groups,
    strata=strata,
    seed=seed,
  )


def _as_weighted_mean(
  score: str, is_yes: np.ndarray, says_yes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Values and weights whose weighted mean is the score.

  Precision, for example, is the mean of "is right" over what says yes; F1 the
  mean over both sides of 2 hits / (says yes + is yes).
  """
  is_hit = is_yes & says_yes
  everything = np.ones(len(is_yes))
  return {
    "accuracy": (is_yes == says_yes, everything),
    "precision": (is_hit, says_yes.astype(float)),
    "recall": (is_hit, is_yes.astype(float)),
    "f1": (is_hit, says_yes.astype(float) + is_yes),
    "yes_ratio": (says_yes, everything),
  }[score]


def _is_canonical(
  answers: Sequence[str], items: Sequence[QuestionItem]
) -> np.ndarray:
  """Where the answer is the right one, float [n] of 0 and 1."""
  return np.array(
    [
      float(normalise(answer) == normalise(item.question.answer))
      for answer, item in zip(answers, items, strict=True)
    ]
  )


def _agreement(
  answers: Sequence[str], items: Sequence[QuestionItem]
) -> np.ndarray:
  """VQA v2's accuracy of each answer, float [n]."""
  return np.array(
    [
      question_accuracy(answer, item.annotators)
      for answer, item in zip(answers, items, strict=True)
    ]
  )


def _record(
  scores: Mapping[str, np.ndarray], rows: np.ndarray, *, seed: int
) -> dict:
  return metric_record(
    scores["value"][rows],
    ceiling=scores["ceiling"][rows].mean(),
    baseline=scores["baseline"][rows].mean(),
    seed=seed,
  )


def caption_metrics(
  items: Sequence[CaptionItem], captions: Sequence[str], *, seed: int
) -> Metrics:
  """Scores generated captions.

  "caption/digit" is right if just the digits of the scene are named,
  "caption/color" if just its colours are, "caption/digit_and_color" if every
  digit is named with its colour and nothing else is. "_heldout_pairs" and
  "_seen_pairs" are the scenes with and without a composition that training
  never showed. "caption/fact_precision", "_recall" and "_f1" count the facts
  of grammar.scene_facts over all captions.

  The ceiling is 1: the grammar has a caption that states every fact of its
  scene, and training captions do. The baseline are the same captions, each
  scored on another scene. Intervals come from a bootstrap over scenes.

  Args:
    items: the scenes.
    captions: one generated caption a scene.
    seed: of the shuffle and the bootstrap.

  Raises:
    ValueError: for unequal lengths or fewer than two different scenes.
  """
  check_lengths(items, captions, "captions")
  true = [grammar.scene_facts(item.scene) for item in items]
  stated = [grammar.caption_facts(caption) for caption in captions]
  others = other_items(
    [item.scene for item in items], np.random.default_rng(seed)
  )
  shuffled = [stated[other] for other in others]
  right, blind_right = (
    {
      "digit": _equal(given, true, _digits),
      "color": _equal(given, true, _colors),
      "digit_and_color": _equal(given, true, _digits)
      & _equal(given, true, _pairs),
    }
    for given in (stated, shuffled)
  )
  all_items = {"": np.arange(len(items))}
  cells = held_out_cells([item.is_held_out for item in items])
  metrics = {
    f"caption/{name}{suffix}": metric_record(
      hits[rows],
      ceiling=1.0,
      baseline=blind_right[name][rows].mean(),
      seed=seed,
    )
    for name, hits in right.items()
    for suffix, rows in (
      cells if name == "digit_and_color" else all_items
    ).items()
  }
  return metrics | _fact_metrics(stated, shuffled, true, seed=seed)


def _fact_metrics(
  stated: Sequence[Facts],
  shuffled: Sequence[Facts],
  true: Sequence[Facts],
  *,
  seed: int,
) -> Metrics:
  """Precision, recall and F1 as weighted means, so that they have intervals.

  Each is a ratio of sums over captions: a mean of the captions' own ratios,
  weighted by their denominators.
  """
  matched = np.array([len(s & t) for s, t in zip(stated, true, strict=True)])
  num_stated = np.array([len(facts) for facts in stated])
  num_true = np.array([len(facts) for facts in true])
  baseline = fact_scores(shuffled, true)["total"]
  ratios = {
    "precision": (matched, num_stated, baseline.precision),
    "recall": (matched, num_true, baseline.recall),
    "f1": (2 * matched, num_stated + num_true, baseline.f1),
  }
  return {
    f"caption/fact_{name}": metric_record(
      np.divide(top, bottom, out=np.zeros(len(top)), where=bottom > 0),
      weights=bottom,
      ceiling=1.0,
      baseline=blind,
      seed=seed,
    )
    for name, (top, bottom, blind) in ratios.items()
  }


def _equal(stated: Sequence[Facts], true: Sequence[Facts], part) -> np.ndarray:
  """Where the stated part of the facts is the true one, bool [n]."""
  pairs = zip(stated, true, strict=True)
  return np.array([part(s) == part(t) for s, t in pairs])


def _digits(facts: Facts) -> set[int]:
  return {fact[1] for fact in facts if fact[0] == "digit"}


def _colors(facts: Facts) -> set[int]:
  return {fact[2] for fact in facts if fact[0] == "pair"}


def _pairs(facts: Facts) -> set[tuple[int, int]]:
  return {fact[1:] for fact in facts if fact[0] == "pair"}


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
    f"generation/{tag}": _record_of_score_images(
      correct, prompts, rows, seed=seed
    )
    for tag, rows in rows_by(tags).items()
  }
  for name, scores in (("overall", correct), ("strict", strict)):
    metrics[f"generation/{name}"] = _record_of_score_images(
      scores, prompts, everything, seed=seed
    )
  colored = np.flatnonzero(np.array(tags) == "colors")
  cells = held_out_cells([prompts[row].is_held_out for row in colored])
  for suffix, rows in cells.items():
    metrics[f"generation/digit_and_color{suffix}"] = _record_of_score_images(
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
  rng = datasets.generator(
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


def _record_of_score_images(
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


__all__ = [
  "answer_metrics",
  "caption_metrics",
  "generation_metrics",
  "most_frequent_answers",
  "pope_metrics",
]
