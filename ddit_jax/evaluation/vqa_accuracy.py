"""Agreement of an answer with the annotators, by the rules of each benchmark.

Sources: `vqav2` is vqaEval.py of GT-Vision-Lab/VQA at a013f00, `ddit_release`
scripts/vqa.py of the D-DiT release, `textvqa` the TextVQA evaluator that LLaVA
runs, `vizwiz` and `vizwiz_first_release` the two releases of the VizWiz API.
They disagree by many points on the same answers: always say which one a number
is from.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence

from ddit_jax.evaluation import answer_forms

Rule = Callable[[str, Sequence[str], Sequence[Hashable]], float]
_MATCHES_FOR_FULL_SCORE = 3


def vqav2(
  prediction: str,
  answers: Sequence[str],
  identities: Sequence[Hashable] | None = None,
) -> float:
  """Agreement of one prediction with the annotators, in [0, 1].

  Each annotator is left out in turn; the prediction earns min(1, matches / 3)
  among the others, and the question the mean. With ten annotators 1, 2, 3
  and 4 matches give 0.3, 0.6, 0.9 and 1. If all annotators agree, nothing is
  normalised: "Yes" against ten times "yes" earns 0 (published behaviour,
  kept).

  Args:
    prediction: the answer to score, as generated.
    answers: the annotators' answers, usually ten.
    identities: ids that distinguish annotations (the answer_id).
      Annotations equal in both are left out together, as the official scorer
      does; without this argument all annotations are distinct.

  Raises:
    ValueError: for no answers, or identities of another length.
  """
  predicted = answer_forms.single_line(prediction)
  written = [answer_forms.single_line(answer) for answer in answers]
  if len(set(written)) > 1:
    predicted = answer_forms.vqa(predicted)
    written = [answer_forms.vqa(answer) for answer in written]
  return _leaving_one_out(predicted, written, identities)


def ddit_release(
  prediction: str,
  answers: Sequence[str],
  identities: Sequence[Hashable] | None = None,
) -> float:
  """As `vqav2`, but everything is normalised, and the prediction twice."""
  form = answer_forms.ddit_release
  written = [form(answer) for answer in answers]
  return _leaving_one_out(form(form(prediction)), written, identities)


def textvqa(
  prediction: str,
  answers: Sequence[str],
  identities: Sequence[Hashable] | None = None,
) -> float:
  """In the form of EvalAI, unanimous or not; `identities` do not matter."""
  del identities
  written = [answer_forms.evalai(answer) for answer in answers]
  return _leaving_one_out(answer_forms.evalai(prediction), written, None)


def vizwiz(
  prediction: str,
  answers: Sequence[str],
  identities: Sequence[Hashable] | None = None,
) -> float:
  """The later release: only the prediction is normalised, never the answers.

  So no prediction can match an annotator's "Yes", "two" or "coca-cola".
  """
  del identities
  written = [answer_forms.single_line(answer) for answer in answers]
  return _leaving_one_out(answer_forms.vizwiz(prediction), written, None)


def vizwiz_first_release(
  prediction: str,
  answers: Sequence[str],
  identities: Sequence[Hashable] | None = None,
) -> float:
  """The first release leaves nobody out: min(1, matches / 3) of all."""
  del identities
  predicted = answer_forms.vizwiz(prediction)
  written = [answer_forms.single_line(answer) for answer in answers]
  matches = written.count(predicted)
  # It averages ten equal scores.
  return mean([_earned(matches)] * len(written))


def mean(values: Iterable[float], *, scale: float = 1) -> float:
  """scale x sum / count, added in order and without compensation.

  Python 3.12 changed `sum`, and with it the last digit of published scores.

  Raises:
    ValueError: for no values.
  """
  total, count = 0.0, 0
  for value in values:
    total += value
    count += 1
  if not count:
    raise ValueError("the mean of no scores is undefined: give at least one")
  return scale * total / count


def _leaving_one_out(
  predicted: str,
  written: Sequence[str],
  identities: Sequence[Hashable] | None,
) -> float:
  if not written:
    raise ValueError("a question needs at least one annotator's answer, got 0")
  if identities is None:
    identities = range(len(written))
  if len(identities) != len(written):
    raise ValueError(
      f"{len(identities)} identities for {len(written)} answers: give one each"
    )
  annotations = list(zip(written, identities, strict=True))
  copies = Counter(annotations)
  matches = written.count(predicted)
  return mean(
    _earned(matches - copies[one] if one[0] == predicted else matches)
    for one in annotations
  )


def _earned(matches: int) -> float:
  return min(1.0, matches / _MATCHES_FOR_FULL_SCORE)
