"""Metrics of generated captions and answers."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float64

from ddit_jax.digits import caption_judge, grammar, questions
from ddit_jax.digits.datasets import CAPTION, ImageToTextPool
from ddit_jax.digits.evaluation_sets import CaptionItem, QuestionItem
from ddit_jax.digits.grammar import Facts
from ddit_jax.digits.metrics import (
  Metrics,
  check_lengths,
  held_out_rows,
  metric_record,
  other_items,
  rows_by,
)
from ddit_jax.digits.world import World
from ddit_jax.evaluation import answer_forms, vqa_accuracy
from ddit_jax.evaluation.fact_scores import fact_scores
from ddit_jax.evaluation.yes_no import parse_yes_no, yes_no_scores

_POPE_SCORES = ("accuracy", "precision", "recall", "f1", "yes_ratio")


def caption_metrics(
  items: Sequence[CaptionItem], captions: Sequence[str], *, seed: int
) -> Metrics:
  """Scores generated captions.

  "caption/digit" is correct if exactly the scene's digits are named,
  "caption/color" if exactly its colours are, "caption/digit_and_color" if
  every digit is named with its colour and nothing else is. "_heldout_pairs"
  and "_seen_pairs" are the scenes with and without a composition that training
  never shows. "caption/fact_precision", "_recall" and "_f1" count the facts
  of `grammar.scene_facts` over all captions.

  The oracle is 1: the grammar can state every fact of a scene, as training
  captions do. The prior baseline is the score of the same captions when each
  is scored on another scene. Intervals come from a bootstrap over scenes.

  Args:
    items: the scenes.
    captions: one generated caption per scene.
    seed: of the shuffle and the bootstrap.

  Raises:
    ValueError: unequal lengths, or fewer than two different scenes.
  """
  check_lengths(items, captions, "captions")
  true = [grammar.scene_facts(item.scene) for item in items]
  stated = [grammar.caption_facts(caption) for caption in captions]
  others = other_items(
    [item.scene for item in items], np.random.default_rng(seed)
  )
  shuffled = [stated[other] for other in others]
  correct, prior = _correct_parts(stated, true), _correct_parts(shuffled, true)
  all_rows = {"": np.arange(len(items))}
  split_rows = held_out_rows([item.is_held_out for item in items])
  metrics = {
    f"caption/{name}{suffix}": metric_record(
      hits[rows],
      oracle=1.0,
      prior_baseline=prior[name][rows].mean(),
      seed=seed,
    )
    for name, hits in correct.items()
    for suffix, rows in (
      split_rows if name == "digit_and_color" else all_rows
    ).items()
  }
  return metrics | _fact_metrics(stated, shuffled, true, seed=seed)


def answer_metrics(
  items: Sequence[QuestionItem],
  answers: Sequence[str],
  *,
  prior_answers: Mapping[str, str],
  seed: int = 0,
) -> Metrics:
  """Scores generated answers.

  "vqa/<kind>" is the fraction of answers equal to the canonical one, both in
  VQA v2's normal form. "vqa/accuracy" and "vqa/accuracy/<answer_type>" are
  VQA v2's agreement with ten annotators, the latter also for the scenes with
  ("_heldout_pairs") and without ("_seen_pairs") a composition that training
  never shows. The oracle is the score of the
  canonical answer: 1 by kind, and its agreement with the annotators.

  Args:
    items: the questions.
    answers: one generated answer per question.
    prior_answers: for each kind of question, the answer of a model that sees
      no image (see `most_frequent_answers`); its score is the prior baseline.
    seed: of the bootstrap.

  Raises:
    ValueError: unequal lengths, no items, or a kind without prior answer.
  """
  check_lengths(items, answers, "answers")
  kinds = [item.question.kind for item in items]
  if missing := sorted(set(kinds) - set(prior_answers)):
    raise ValueError(
      f"no prior answer for questions of kind {missing}: the training pool "
      "has none of them, so a model cannot be asked them"
    )
  given = {
    "value": answers,
    "prior_baseline": [prior_answers[kind] for kind in kinds],
    "oracle": [item.question.answer for item in items],
  }
  exact = {k: _scores(_is_canonical, v, items) for k, v in given.items()}
  agreed = {k: _scores(_agreement, v, items) for k, v in given.items()}
  answer_types = [item.question.answer_type for item in items]
  cells = held_out_rows([item.is_held_out for item in items])
  selected = {
    f"accuracy{suffix}": (agreed, rows) for suffix, rows in cells.items()
  }
  for answer_type, rows in rows_by(answer_types).items():
    selected[f"accuracy/{answer_type}"] = (agreed, rows)
  for kind, rows in rows_by(kinds).items():
    selected[kind] = (exact, rows)
  return {
    f"vqa/{name}": metric_record(
      scores["value"][rows],
      oracle=scores["oracle"][rows].mean(),
      prior_baseline=scores["prior_baseline"][rows].mean(),
      seed=seed,
    )
    for name, (scores, rows) in selected.items()
  }


def judged_metrics(
  items: Sequence[CaptionItem],
  captions: Sequence[str],
  world: World,
  *,
  seed: int,
) -> Metrics:
  """Scores answers that are read off the captions (paper Table 4).

  One question of each kind is asked about each scene, and `caption_judge`
  answers it from the caption alone. "judged/<kind>" and "judged/accuracy" are
  fractions of canonical answers. The oracle is the score of complete captions,
  the prior baseline that of each caption on another scene. Intervals come from
  a bootstrap over scenes.

  Args:
    items: the scenes.
    captions: one generated caption per scene.
    world: of the scenes.
    seed: of the questions, the shuffle and the bootstrap.

  Raises:
    ValueError: unequal lengths, or fewer than two different scenes.
  """
  check_lengths(items, captions, "captions")
  rng = np.random.default_rng(seed)
  others = other_items([item.scene for item in items], rng)
  asked = [
    (row, question)
    for row, item in enumerate(items)
    for question in questions.questions(item.scene, world, rng)
  ]
  whole = [grammar.references(item.scene, seed=0, count=1)[0] for item in items]
  shuffled = [captions[other] for other in others]

  def scores(texts: Sequence[str]) -> Bool[np.ndarray, " asked"]:
    return np.array(
      [caption_judge.answer(q.text, texts[row]) == q.answer for row, q in asked]
    )

  given, oracle, prior = map(scores, (captions, whole, shuffled))
  selected = {"accuracy": np.arange(len(asked))}
  selected |= rows_by([question.kind for _, question in asked])
  return {
    f"judged/{name}": metric_record(
      given[rows],
      oracle=oracle[rows].mean(),
      prior_baseline=prior[rows].mean(),
      groups=[items[asked[row][0]].scene for row in rows],
      seed=seed,
    )
    for name, rows in selected.items()
  }


def most_frequent_answers(pool: ImageToTextPool) -> dict[str, str]:
  """The most frequent training answer to each kind of question.

  Ties go to the first answer in alphabetical order.
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
  items_by_set: Mapping[str, Sequence[QuestionItem]],
  answers_by_set: Mapping[str, Sequence[str]],
  *,
  seed: int = 0,
) -> Metrics:
  """POPE's scores of each set, and the means over the sets.

  "pope/<set>/<score>" and "pope/<score>" for accuracy, precision, recall, f1
  and yes_ratio (the fraction of "yes"); a score whose denominator is zero is
  0. The oracle is the score of the correct answers and the prior baseline that
  of "yes" to everything. Intervals come from a bootstrap over images.

  Args:
    items_by_set: from `evaluation_sets.pope_items`.
    answers_by_set: a generated answer for each of those questions.
    seed: of the bootstrap.

  Raises:
    ValueError: the sets or their lengths differ.
  """
  if not items_by_set or set(items_by_set) != set(answers_by_set):
    raise ValueError(
      f"questions of the sets {sorted(items_by_set)} but answers of "
      f"{sorted(answers_by_set)}: answer every set, and at least one"
    )
  for name, items in items_by_set.items():
    check_lengths(items, answers_by_set[name], f"{name} answers")
  metrics = {}
  for name, items in items_by_set.items():
    only = {name: items}, {name: answers_by_set[name]}
    for score in _POPE_SCORES:
      metrics[f"pope/{name}/{score}"] = _pope_record(score, *only, seed=seed)
  for score in _POPE_SCORES:
    metrics[f"pope/{score}"] = _pope_record(
      score, items_by_set, answers_by_set, seed=seed
    )
  return metrics


def _pope_record(
  score: str,
  items_by_set: Mapping[str, Sequence[QuestionItem]],
  answers_by_set: Mapping[str, Sequence[str]],
  *,
  seed: int,
) -> dict:
  """The record of one score, the mean over the sets."""
  labels, said, strata, groups = [], [], [], []
  oracles, baselines = [], []
  for name, items in items_by_set.items():
    correct = [item.question.answer for item in items]
    labels += correct
    said += [parse_yes_no(text) for text in answers_by_set[name]]
    strata += [name] * len(items)
    groups += [item.scene for item in items]
    oracles.append(getattr(yes_no_scores(correct, correct), score))
    all_yes = ["yes"] * len(items)
    baselines.append(getattr(yes_no_scores(correct, all_yes), score))
  values, weights = _as_weighted_mean(
    score, np.array(labels) == "yes", np.array(said) == "yes"
  )
  return metric_record(
    values,
    weights=weights,
    oracle=np.mean(oracles),
    prior_baseline=np.mean(baselines),
    groups=groups,
    strata=strata,
    seed=seed,
  )


def _as_weighted_mean(
  score: str,
  is_yes: Bool[np.ndarray, " answers"],
  says_yes: Bool[np.ndarray, " answers"],
) -> tuple[Bool[np.ndarray, " answers"], Float64[np.ndarray, " answers"]]:
  """Values and weights whose weighted mean is the score.

  Precision, for example, is the mean of "is correct" over the answers "yes";
  F1 is the mean of 2 hits / (says yes + is yes).
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


def _scores(
  score: Callable[[str, QuestionItem], float],
  answers: Sequence[str],
  items: Sequence[QuestionItem],
) -> Float64[np.ndarray, " items"]:
  return np.array([score(*pair) for pair in zip(answers, items, strict=True)])


def _is_canonical(answer: str, item: QuestionItem) -> float:
  return float(
    answer_forms.vqa(answer) == answer_forms.vqa(item.question.answer)
  )


def _agreement(answer: str, item: QuestionItem) -> float:
  return vqa_accuracy.vqav2(answer, item.annotators)


def _correct_parts(
  stated: Sequence[Facts], true: Sequence[Facts]
) -> dict[str, Bool[np.ndarray, " captions"]]:
  """For each part of a caption, where the stated facts are the true ones."""

  def is_equal(
    part: Callable[[Facts], set],
  ) -> Bool[np.ndarray, " captions"]:
    pairs = zip(stated, true, strict=True)
    return np.array([part(s) == part(t) for s, t in pairs])

  digits = is_equal(lambda facts: {f[1] for f in facts if f[0] == "digit"})
  colors = is_equal(lambda facts: {f[2] for f in facts if f[0] == "pair"})
  pairs = is_equal(lambda facts: {f[1:] for f in facts if f[0] == "pair"})
  return {"digit": digits, "color": colors, "digit_and_color": digits & pairs}


def _fact_metrics(
  stated: Sequence[Facts],
  shuffled: Sequence[Facts],
  true: Sequence[Facts],
  *,
  seed: int,
) -> Metrics:
  """Precision, recall and F1, each a ratio of sums over captions.

  As a mean of the captions' own ratios, weighted by their denominators, it
  has a bootstrap interval.
  """
  matched = np.array([len(s & t) for s, t in zip(stated, true, strict=True)])
  num_stated = np.array([len(facts) for facts in stated])
  num_true = np.array([len(facts) for facts in true])
  prior = fact_scores(shuffled, true)["total"]
  ratios = {
    "precision": (matched, num_stated, prior.precision),
    "recall": (matched, num_true, prior.recall),
    "f1": (2 * matched, num_stated + num_true, prior.f1),
  }
  return {
    f"caption/fact_{name}": metric_record(
      np.divide(top, bottom, out=np.zeros(len(top)), where=bottom > 0),
      weights=bottom,
      oracle=1.0,
      prior_baseline=prior_baseline,
      seed=seed,
    )
    for name, (top, bottom, prior_baseline) in ratios.items()
  }
