"""T2I-CompBench from the answers of its VQA model."""

import math
import pathlib
from collections import Counter
from collections.abc import Mapping, Sequence

from ddit_jax.errors import InputError
from ddit_jax.evaluation.t2i_compbench import image_score
from ddit_jax.evaluation.vqa_accuracy import mean
from ddit_jax.scoring import records
from ddit_jax.scoring.scored import ItemScores, Scored

_IMAGE = {"file": records.TEXT, "questions": (list,), "p_yes": (list,)}
_IMAGES_PER_PROMPT = 10


def t2i_compbench(
  predictions: pathlib.Path, references: Sequence[pathlib.Path]
) -> Scored:
  """The BLIP-VQA score of one set of prompts (colour, shape or texture).

  Args:
    predictions: {"images": [{file, questions, p_yes}]} with a question and
      P(yes) for each noun phrase, "" and null where there is none; or the
      vqa_result.json of the published script, [{question_id, answer}].
    references: none.
  """
  del references
  body = records.read_any(predictions)
  if isinstance(body, list):
    return _of_results(
      records.checked(
        body,
        {"question_id": records.ID, "answer": records.TEXT},
        where=f"{predictions}, entry",
      )
    )
  images = records.read_list_in(predictions, "images", _IMAGE)
  records.no_repeats(
    [one["file"] for one in images],
    what="files",
    official="the official script has one entry an image",
  )
  return _score_t2i_compbench(
    [
      (one["file"], _probabilities(one, f"{predictions}, {one['file']!r}"))
      for one in images
    ]
  )


def _score_t2i_compbench(
  images: Sequence[tuple[str, Sequence[float]]],
) -> Scored:
  """The mean of the images' scores, each rounded to four decimals.

  Args:
    images: (file name, P(yes) of each noun phrase); the prompt is the name up
      to its first underscore, as published.
  """
  prompts = [file.rpartition("/")[2].split("_")[0] for file, _ in images]
  scores = tuple(float(image_score(some)) for _, some in images)
  counts = set(Counter(prompts).values())
  notes = ()
  if counts != {_IMAGES_PER_PROMPT}:
    notes = (
      f"{min(counts)} to {max(counts)} images a prompt; published figures have "
      f"{_IMAGES_PER_PROMPT}",
    )
  return Scored(
    figures={"blip_vqa": mean(scores)},
    items={
      "blip_vqa": ItemScores(
        ids=tuple(file for file, _ in images),
        groups=tuple(prompts),
        scores=scores,
      )
    },
    notes=notes,
  )


def _of_results(results: Sequence[Mapping]) -> Scored:
  ids = [str(one["question_id"]) for one in results]
  records.no_repeats(
    ids, what="question_ids", official="the official script writes each once"
  )
  scores = tuple(
    _probability(one["answer"], f"question_id {one['question_id']!r}")
    for one in results
  )
  items = ItemScores(ids=tuple(ids), groups=tuple(ids), scores=scores)
  return Scored(
    figures={"blip_vqa": mean(scores)},
    items={"blip_vqa": items},
    notes=("the file names no prompts: intervals treat images as independent",),
  )


def _probabilities(image: Mapping, where: str) -> list[float]:
  questions, answers = image["questions"], image["p_yes"]
  if len(questions) != len(answers):
    raise InputError(
      f"{where}: {len(answers)} p_yes for {len(questions)} questions"
    )
  found = []
  for question, answer in zip(questions, answers, strict=True):
    # The official script asks nothing for a phrase that is not there.
    if question != "":
      found.append(_probability(answer, where))
    elif answer is not None:
      raise InputError(f'{where}: p_yes {answer!r:.40} for the question ""')
  return found


def _probability(value: object, where: str) -> float:
  try:
    number = float(value) if isinstance(value, str) else math.nan
  except ValueError:
    number = math.nan
  if not 0 <= number <= 1:
    raise InputError(
      f'{where}: P(yes) must be a text such as "0.1234", got {value!r:.40}'
    )
  return number
