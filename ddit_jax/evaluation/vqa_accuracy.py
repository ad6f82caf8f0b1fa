"""VQA v2 accuracy: answer normalisation and agreement with ten annotators.

Source: vqaEval.py of GT-Vision-Lab/VQA at a013f00, including its quirks; other
copies (EvalAI, VizWiz, the D-DiT release) normalise differently and their
scores must not be mixed with these.
"""

import re
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_DIGIT_COMMA_DIGIT = re.compile(r"\d,\d")
_PERIOD_WITHOUT_DIGIT = re.compile(r"\.(?!\d)")
# The published call passes the flag re.UNICODE (32) as the count.
_MAX_PERIODS = 32
_ARTICLES = frozenset({"a", "an", "the"})
_NUMBERS = {"none": "0"} | {
  word: str(number)
  for number, word in enumerate(
    "zero one two three four five six seven eight nine ten".split()
  )
}
# Words that are also accepted without their apostrophe. Input is lower-cased
# before the look-up, so the published keys with a capital ("Im", "Ive",
# "Id've", "I'dve") can never match and are omitted.
_APOSTROPHE_WORDS = """
ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't
he'd he's how'd how'll how's isn't it'd it'll ma'am mightn't might've mustn't
must've needn't not've o'clock oughtn't shan't should've shouldn't somebody'll
somebody's someone'd someone'll someone's something'd something'll that's
there'd there're there's they'd they'll they're they've 'twas wasn't we've
weren't what'll what're what's what've when's where'd where's where've who'd
who'll who's who've why'll why're why's won't would've wouldn't y'all you'd
you'll you're you've
""".split()
_OTHER_CONTRACTIONS = {
  "couldn'tve": "couldn't've",
  "couldnt've": "couldn't've",
  "hadnt've": "hadn't've",
  "hadn'tve": "hadn't've",
  "hed've": "he'd've",
  "he'dve": "he'd've",
  "itd've": "it'd've",
  "it'dve": "it'd've",
  "mightnt've": "mightn't've",
  "mightn'tve": "mightn't've",
  "ow's'at": "'ow's'at",
  "'ow'sat": "'ow's'at",
  "shed've": "she'd've",
  "she'dve": "she'd've",
  "shouldnt've": "shouldn't've",
  "shouldn'tve": "shouldn't've",
  "somebody'd": "somebodyd",
  "somebodyd've": "somebody'd've",
  "somebody'dve": "somebody'd've",
  "someoned've": "someone'd've",
  "someone'dve": "someone'd've",
  "somethingd've": "something'd've",
  "something'dve": "something'd've",
  "thered've": "there'd've",
  "there'dve": "there'd've",
  "theyd've": "they'd've",
  "they'dve": "they'd've",
  "wed've": "we'd've",
  "we'dve": "we'd've",
  "whod've": "who'd've",
  "who'dve": "who'd've",
  "wouldnt've": "wouldn't've",
  "wouldn'tve": "wouldn't've",
  "yall'll": "y'all'll",
  "y'allll": "y'all'll",
  "yall'd've": "y'all'd've",
  "y'alld've": "y'all'd've",
  "y'all'dve": "y'all'd've",
  "youd've": "you'd've",
  "you'dve": "you'd've",
}
_CONTRACTIONS = {
  word.replace("'", ""): word for word in _APOSTROPHE_WORDS
} | _OTHER_CONTRACTIONS


def normalise(answer: str) -> str:
  """The form in which the official scorer compares two answers.

  In order: punctuation, full stops, lower case, number words to digits,
  articles dropped, apostrophes restored, single blanks.
  """
  text = _without_periods(_without_punctuation(_single_line(answer)))
  words = [_NUMBERS.get(word, word) for word in text.lower().split()]
  kept = [word for word in words if word not in _ARTICLES]
  return " ".join(_CONTRACTIONS.get(word, word) for word in kept)


def question_accuracy(
  prediction: str,
  answers: Sequence[str],
  *,
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
  if not answers:
    raise ValueError("a question needs at least one annotator's answer, got 0")
  if identities is None:
    identities = range(len(answers))
  if len(identities) != len(answers):
    raise ValueError(
      f"{len(identities)} identities for {len(answers)} answers: give one each"
    )
  predicted = _single_line(prediction)
  written = [_single_line(answer) for answer in answers]
  if len(set(written)) > 1:
    predicted = normalise(predicted)
    written = [normalise(answer) for answer in written]
  annotations = list(zip(written, identities, strict=True))
  scores = [
    _agreement(predicted, [a for a in annotations if a != left_out])
    for left_out in annotations
  ]
  return sum(scores) / len(scores)


@dataclass(frozen=True, kw_only=True)
class CorpusAccuracy:
  """Accuracy of a result file in per cent, rounded like the official scorer.

  Attributes:
    overall: mean over all questions.
    by_question_type: mean over the questions of each official question type.
    by_answer_type: mean over "yes/no", "number" and "other".
    by_question: each question's accuracy, keyed by question id.
    repeated_results: results that a later one of the same id replaced.
  """

  overall: float
  by_question_type: dict[str, float]
  by_answer_type: dict[str, float]
  by_question: dict[int, float]
  repeated_results: int


def corpus_accuracy(
  annotations: Sequence[Mapping],
  results: Sequence[Mapping],
  *,
  decimals: int = 2,
) -> CorpusAccuracy:
  """Scores results against annotations in the format of the v2.0 files.

  Args:
    annotations: the "annotations" list: question_id, question_type,
      answer_type and answers (each with "answer", and "answer_id" or not).
    results: the result list: question_id and answer.
    decimals: of the rounded percentages; the official default is 2.

  Raises:
    ValueError: for no annotations, or when the two sets of ids differ.
  """
  answer_of = {result["question_id"]: result["answer"] for result in results}
  asked = {annotation["question_id"] for annotation in annotations}
  if not asked or asked != set(answer_of):
    raise ValueError(
      f"{len(asked)} annotated questions, {len(asked - set(answer_of))} "
      f"without a result, {len(set(answer_of) - asked)} results for other "
      "questions: score exactly the annotated questions"
    )
  scores = [
    _annotated_accuracy(answer_of[a["question_id"]], a) for a in annotations
  ]
  by_type = {}
  for field in ("question_type", "answer_type"):
    scores_of = defaultdict(list)
    for annotation, score in zip(annotations, scores, strict=True):
      scores_of[annotation[field]].append(score)
    by_type[field] = {k: _percent(v, decimals) for k, v in scores_of.items()}
  return CorpusAccuracy(
    overall=_percent(scores, decimals),
    by_question_type=by_type["question_type"],
    by_answer_type=by_type["answer_type"],
    by_question={
      annotation["question_id"]: round(100 * score, decimals)
      for annotation, score in zip(annotations, scores, strict=True)
    },
    repeated_results=len(results) - len(answer_of),
  )


def _annotated_accuracy(prediction: str, annotation: Mapping) -> float:
  answers = annotation["answers"]
  return question_accuracy(
    prediction,
    [answer["answer"] for answer in answers],
    identities=[
      tuple(sorted((k, v) for k, v in answer.items() if k != "answer"))
      for answer in answers
    ],
  )


def _agreement(predicted: str, others: Sequence[tuple[str, Hashable]]) -> float:
  matches = sum(answer == predicted for answer, _ in others)
  return min(1.0, matches / 3)


def _percent(scores: Sequence[float], decimals: int) -> float:
  return round(100 * sum(scores) / len(scores), decimals)


def _single_line(text: str) -> str:
  return text.replace("\n", " ").replace("\t", " ").strip()


def _without_punctuation(text: str) -> str:
  """Deletes or blanks each mark; every test uses the original text."""
  has_grouped_digits = _DIGIT_COMMA_DIGIT.search(text) is not None
  result = text
  for mark in _PUNCTUATION:
    touches_blank = f"{mark} " in text or f" {mark}" in text
    is_deleted = touches_blank or has_grouped_digits
    result = result.replace(mark, "" if is_deleted else " ")
  return result


def _without_periods(text: str) -> str:
  """Deletes up to 32 full stops that no digit follows ("5." but not ".5")."""
  return _PERIOD_WITHOUT_DIGIT.sub("", text, count=_MAX_PERIODS)
