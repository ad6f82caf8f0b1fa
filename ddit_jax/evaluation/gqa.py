"""GQA's metrics.

Source: eval.py v1.1 of GQA. Answers are compared as they are: case, full stops
and blanks count. Questions are the mappings of the official file.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ddit_jax.evaluation.vqa_accuracy import mean

Questions = Mapping[str, Mapping[str, Any]]
# Kinds of "Common" questions (what both objects share) have these answers.
_COMMON = ("color", "material", "shape")
_NOT_A_STEP = ("exist", "query: name", "choose name")


def is_right(question: Mapping[str, Any], prediction: str) -> bool:
  """Whether the prediction is the answer, letter for letter."""
  return prediction == question["answer"]


def balanced(questions: Questions) -> dict[str, Mapping[str, Any]]:
  """The questions that count."""
  return {key: one for key, one in questions.items() if one["isBalanced"]}


def accuracies(
  questions: Questions, predictions: Mapping[str, str]
) -> dict[str, Any]:
  """Accuracy in per cent: overall, binary and open, and by kinds of questions.

  Binary is every structural type but "query". A kind without questions is
  absent. The number of steps counts the functional program's operations but
  for those that ask for existence or a name.
  """
  asked = balanced(questions)
  right = {key: is_right(one, predictions[key]) for key, one in asked.items()}
  figures: dict[str, Any] = {"accuracy": _percent(right.values())}
  for name, is_open in (("binary", False), ("open", True)):
    of_kind = [
      right[key]
      for key, one in asked.items()
      if (one["types"]["structural"] == "query") == is_open
    ]
    # The official script calls the mean of nothing 0.
    figures[name] = _percent(of_kind) if of_kind else 0.0
  for name, kind_of in _KINDS.items():
    of_kind = defaultdict(list)
    for key, one in asked.items():
      of_kind[str(kind_of(one))].append(right[key])
    figures[f"accuracy_by_{name}"] = {
      k: _percent(v) for k, v in of_kind.items()
    }
    figures[f"questions_by_{name}"] = {k: len(v) for k, v in of_kind.items()}
  return figures


def consistency(questions: Questions, predictions: Mapping[str, str]) -> float:
  """Per cent of entailed questions that are right where the question is.

  For each balanced question that is right and entails others: the accuracy of
  those, averaged; then the mean over such questions, 0 if there are none.

  Raises:
    KeyError: an entailed question has no prediction.
  """
  means = []
  for key, one in balanced(questions).items():
    entailed = [other for other in one["entailed"] if other != key]
    if entailed and is_right(one, predictions[key]):
      means.append(
        mean(
          is_right(questions[other], predictions[other]) for other in entailed
        )
      )
  return 100 * mean(means) if means else 0.0


def choice_shares(
  questions: Questions,
  predictions: Mapping[str, str],
  choices: Mapping[str, Mapping[str, Sequence[str]]],
) -> dict[str, float]:
  """Per cent of predictions among the valid and among the plausible answers."""
  shares = {}
  for name, field in (("validity", "valid"), ("plausibility", "plausible")):
    shares[name] = _percent(
      predictions[key]
      in (
        _COMMON if "Common" in one["types"]["detailed"] else choices[key][field]
      )
      for key, one in balanced(questions).items()
    )
  return shares


def distribution(questions: Questions, predictions: Mapping[str, str]) -> float:
  """Chi-square of predicted against true answers, a hundredth; lower is better.

  Within each global group the sum over its true answers of (predicted - true)^2
  / true; then the mean over groups, weighted by their questions. Questions
  without a group are left out; 0 if all are.
  """
  true, predicted = defaultdict(Counter), defaultdict(Counter)
  for key, one in balanced(questions).items():
    if (group := one["groups"]["global"]) is not None:
      true[group][one["answer"]] += 1
      predicted[group][predictions[key]] += 1
  weighted, total = 0.0, 0
  for group, counts in true.items():
    distance = 0.0
    for answer, count in counts.items():
      distance += float(predicted[group][answer] - count) ** 2 / count
    weighted += distance * counts.total()
    total += counts.total()
  return weighted / total / 100 if total else 0.0


def _steps(question: Mapping[str, Any]) -> int:
  operations = [
    f"{one['operation']}: {one['argument']}" for one in question["semantic"]
  ]
  return sum(
    not any(name in operation for name in _NOT_A_STEP)
    for operation in operations
  )


_KINDS: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
  "structural_type": lambda one: one["types"]["structural"],
  "semantic_type": lambda one: one["types"]["semantic"],
  "steps": _steps,
  "words": lambda one: len(one["question"].split()),
}


def _percent(values) -> float:
  return mean(values) * 100
