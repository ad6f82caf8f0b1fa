"""Answers in the form that the evaluation servers and scorers take.

Source: LLaVA's conversion scripts (haotian-liu/LLaVA at c121f04).
"""

from collections.abc import Iterable, Mapping

from ddit_jax.evaluation.answer_forms import evalai


def vqav2_upload(
  question_ids: Iterable[int], answer_of: Mapping[int, str]
) -> list[dict]:
  """The server's list for VQA v2: every question, "" where there is no answer.

  Answers are in EvalAI's form.
  """
  return [
    {"question_id": key, "answer": evalai(answer_of.get(key, ""))}
    for key in question_ids
  ]


def vizwiz_upload(answers: Iterable[tuple[str, str]]) -> list[dict]:
  """The server's list for VizWiz from (image, answer), in EvalAI's form."""
  return [
    {"image": image, "answer": evalai(answer)} for image, answer in answers
  ]


def gqa_predictions(answers: Iterable[tuple[str, str]]) -> list[dict]:
  """GQA's list from (question id, answer): no dots at the end, lower case.

  "street ." keeps its blank, and with it is wrong.
  """
  return [
    {"questionId": key, "prediction": answer.rstrip(".").lower()}
    for key, answer in answers
  ]
