"""Our side of the cases of answers."""

import pathlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from ddit_jax.evaluation import answer_forms, mme, vqa_accuracy
from ddit_jax.evaluation.yes_no import parse_yes_no
from ddit_jax.scoring import gqa, pope, records, submissions, vqa
from ddit_jax.scoring.benchmarks import score_files
from ddit_jax.scoring.scored import ItemScores, Scored
from scorers.compare import EXACT, ROUNDING, Comparison, unread
from scorers.folder import Folder

_DECIMALS = 2
_FORMS = {
  "vqa_punct": answer_forms.without_marks,
  "vqa": answer_forms.vqa,
  "vizwiz": answer_forms.vizwiz,
  "evalai": answer_forms.evalai,
  "ddit": answer_forms.ddit_release,
  "ddit_twice": lambda text: answer_forms.ddit_release(
    answer_forms.ddit_release(text)
  ),
}


def normalise(folder: Folder) -> Iterator[Comparison]:
  """Strings and their forms."""
  body = folder.json("answers.json")
  yield from unread("answers.json", body, "cases")
  for number, case in enumerate(body["cases"]):
    text = answer_forms.single_line(case["input"])
    yield Comparison(
      name=f"answers.json/{number} {case['input']!r:.40}",
      expected={key: one for key, one in case.items() if key != "input"},
      got={name: form(text) for name, form in _FORMS.items()},
    )


def vqav2(folder: Folder) -> Iterator[Comparison]:
  """VQA v2, and the other scorers and servers of the same files."""
  annotations = folder.one("*annotations.json")
  results = folder.one("*results.json")
  questions = folder.one("*questions.json")
  if folder.has("expected.json"):
    yield from _official_vqav2(folder, results, annotations)
  for name, score in _OTHERS_ON_VQAV2.items():
    if folder.has(name):
      yield Comparison(
        name=name,
        expected=folder.json(name),
        got=score(results, annotations),
        tolerance=ROUNDING,
      )
  if folder.has("expected_llava_upload.json"):
    asked = records.read_list_in(
      questions, "questions", {"question_id": records.ID}
    )
    yield Comparison(
      name="expected_llava_upload.json",
      expected=folder.json("expected_llava_upload.json"),
      got=submissions.vqav2_upload(
        [one["question_id"] for one in asked], vqa.read_results(results)[0]
      ),
    )


def _official_vqav2(
  folder: Folder, results: pathlib.Path, annotations: pathlib.Path
) -> Iterator[Comparison]:
  expected = folder.json("expected.json")
  unrounded = expected.pop("accuracy_n15", None)
  annotated = vqa.read_annotations(annotations)
  scored = score_files("vqav2", results, [annotations])
  yield Comparison(
    name="expected.json",
    expected=expected,
    got=_by_question(scored, annotated),
  )
  if unrounded is not None:
    answer_of, _ = vqa.read_results(results)
    scored = vqa.score_vqa(
      annotated, answer_of, vqa_accuracy.vqav2, decimals=15
    )
    yield Comparison(
      name="expected.json/accuracy_n15",
      expected=unrounded,
      got=_accuracy(scored.figures),
      tolerance=ROUNDING,
    )


def _ddit_release(
  results: pathlib.Path, annotations: pathlib.Path
) -> dict[str, Any]:
  scored = score_files("vqav2_ddit_release", results, [annotations])
  return {
    "mean": scored.figures["accuracy"],
    "per_question_rounded": _items(scored.items["accuracy"]),
  }


def _textvqa(
  results: pathlib.Path, annotations: pathlib.Path
) -> dict[str, Any]:
  scored = score_files("textvqa", results, [annotations])
  per_question = _items(scored.items["accuracy"])
  return {
    "accuracy": scored.figures["accuracy"] / 100,
    "per_question": {k: score / 100 for k, score in per_question.items()},
  }


_OTHERS_ON_VQAV2 = {
  "expected_ddit_release.json": _ddit_release,
  "expected_textvqa_evaluator.json": _textvqa,
}


def okvqa(folder: Folder) -> Iterator[Comparison]:
  """OK-VQA against either field."""
  folder.all("*questions.json")
  annotations = folder.one("*annotations.json")
  scored = score_files("okvqa", folder.one("*results.json"), [annotations])
  got = {}
  for field, suffix in (("answer", ""), ("raw_answer", "_raw_answer")):
    one = _of_suffix(scored, suffix)
    got[field] = _by_question(
      one, vqa.read_annotations(annotations, answer=field)
    )
  yield Comparison(
    name="expected.json", expected=folder.json("expected.json"), got=got
  )


def vizwiz(folder: Folder) -> Iterator[Comparison]:
  """VizWiz by both releases, and the server's file."""
  annotations, results = folder.one("val.json"), folder.one("*results.json")
  scored = score_files("vizwiz", results, [annotations])
  entries = records.read_any(annotations)
  got: dict[str, Any] = {}
  for name, suffix in (
    ("first_release", "_first_release"),
    ("later_release", ""),
  ):
    one = _of_suffix(scored, suffix)
    per_item = _rounded(one.items["accuracy"])
    by_type = defaultdict(dict)
    for entry in entries:
      by_type[entry["answer_type"]][entry["image"]] = per_item[entry["image"]]
    got[name] = {
      "accuracy": _accuracy(one.figures),
      "evalQA": per_item,
      "evalAnsType": dict(by_type),
      "unanswerability": {
        "average_precision": scored.figures.get(
          "unanswerable_average_precision"
        ),
        "f1_score": scored.figures.get("unanswerable_f1"),
      },
    }
  answers = {one["image"]: one["answer"] for one in records.read_any(results)}
  got["llava_upload"] = submissions.vizwiz_upload(
    (entry["image"], answers[entry["image"]]) for entry in entries
  )
  yield Comparison(
    name="expected.json", expected=folder.json("expected.json"), got=got
  )


def gqa_cases(folder: Folder) -> Iterator[Comparison]:
  """GQA with and without consistency, and after LLaVA's conversion."""
  questions = gqa.read_questions(folder.one("*_questions.json"))
  choices = gqa.read_choices(folder.one("*_choices.json"))
  predictions = folder.one("*_predictions.json", but="expected")
  answer_of = {
    one["questionId"]: one["prediction"]
    for one in records.read_any(predictions)
  }
  llava = records.read_lines(
    folder.one("llava_answers.jsonl"),
    {"question_id": records.ID, "text": records.TEXT},
  )
  converted = submissions.gqa_predictions(
    (one["question_id"], one["text"]) for one in llava
  )
  after = {one["questionId"]: one["prediction"] for one in converted}
  got = {}
  for name, answers, has_consistency in (
    ("without_consistency", answer_of, False),
    ("with_consistency", answer_of, True),
    ("llava_converted", after, False),
  ):
    scored = gqa.score_gqa(questions, answers, choices)
    got[name] = _gqa_output(scored.figures, has_consistency=has_consistency)
  yield Comparison(
    name="expected.json",
    expected=folder.json("expected.json"),
    got=got,
    tolerance=ROUNDING,
  )
  if folder.has("expected_llava_predictions.json"):
    yield Comparison(
      name="expected_llava_predictions.json",
      expected=folder.json("expected_llava_predictions.json"),
      got=converted,
    )


def pope_cases(folder: Folder) -> Iterator[Comparison]:
  """POPE's splits, LLaVA's single file, and a division by zero."""
  labels = folder.path / "coco"
  folder.all("coco/*.json")
  folder.all("answers_*.jsonl")
  expected = folder.json("expected.json")
  got = _pope_output(score_files("pope", folder.path, [labels]))
  for split in pope.POPE_SPLITS:
    answers = records.read_lines(
      folder.one(f"answers_{split}.jsonl"), {"answer": records.TEXT}
    )
    got[split]["parsed"] = [parse_yes_no(one["answer"]) for one in answers]
  if folder.has("degenerate/*"):
    scored = score_files(
      "pope",
      folder.one("degenerate/answers.jsonl"),
      [folder.one("degenerate/labels.json")],
    )
    counts = _pope_output(scored)["all"]
    got["degenerate"] = {
      "printed": [
        "TP\tFP\tTN\tFN\t",
        "\t".join(str(counts[key]) for key in ("TP", "FP", "TN", "FN")),
      ]
    }
    if any("divided by zero" in note for note in scored.notes):
      got["degenerate"]["raises"] = "ZeroDivisionError"
  yield Comparison(
    name="expected.json", expected=expected, got=got, tolerance=ROUNDING
  )
  if folder.has("llava_answers.jsonl"):
    scored = score_files(
      "pope",
      folder.one("llava_answers.jsonl"),
      [labels, folder.one("llava_pope_test.jsonl")],
    )
    ours = _pope_output(scored)
    for split in pope.POPE_SPLITS:
      yield Comparison(
        name=f"expected.json, from llava_answers.jsonl/{split}",
        expected={k: v for k, v in expected[split].items() if k != "parsed"},
        got=ours[split],
        tolerance=ROUNDING,
      )


def mme_cases(folder: Folder) -> Iterator[Comparison]:
  """MME's totals, and how answers are read."""
  if folder.has("results/*.txt"):
    folder.all("results/*.txt")
    figures = score_files("mme", folder.path / "results", []).figures
    yield Comparison(
      name="expected.json",
      expected=folder.json("expected.json"),
      got={
        total.capitalize(): {
          "subtasks": {
            name: figures["subtasks"][name]
            for name in names
            if name in figures["subtasks"]
          },
          "total": figures.get(total),
        }
        for total, names in mme.TOTALS.items()
      },
      tolerance=ROUNDING,
    )
  if folder.has("parse.json"):
    body = folder.json("parse.json")
    yield from unread("parse.json", body, "cases")
    for number, case in enumerate(body["cases"]):
      yield Comparison(
        name=f"parse.json/{number} {case['answer']!r:.40}",
        expected={k: v for k, v in case.items() if k != "answer"},
        got={"parsed": mme.parse(case["answer"])},
        tolerance=EXACT,
      )


def _accuracy(figures: Mapping[str, Any]) -> dict[str, Any]:
  names = {
    "overall": "accuracy",
    "perQuestionType": "accuracy_by_question_type",
    "perAnswerType": "accuracy_by_answer_type",
  }
  return {
    name: figures[ours] for name, ours in names.items() if ours in figures
  }


def _items(items: ItemScores) -> dict[str, float]:
  return dict(zip(items.ids, items.scores, strict=True))


def _rounded(items: ItemScores) -> dict[str, float]:
  return {key: round(score, _DECIMALS) for key, score in _items(items).items()}


def _by_question(scored: Scored, annotations) -> dict[str, Any]:
  """The output of the official VQA scorer."""
  per_item = _rounded(scored.items["accuracy"])
  by_type: dict[str, dict] = {"question_type": {}, "answer_type": {}}
  for one in annotations:
    for name, kind in one.types.items():
      table = by_type[name].setdefault(kind, {})
      table[str(one.question_id)] = per_item[str(one.question_id)]
  return {
    "accuracy": _accuracy(scored.figures),
    "evalQA": per_item,
    "evalQuesType": by_type["question_type"],
    "evalAnsType": by_type["answer_type"],
  }


def _of_suffix(scored: Scored, suffix: str) -> Scored:
  """The figures and items whose names end in a suffix, without it."""
  others = ("_raw_answer", "_first_release")

  def chosen(table: Mapping[str, Any]) -> dict[str, Any]:
    return {
      name.removesuffix(suffix): value
      for name, value in table.items()
      if name.endswith(suffix) and (suffix or not name.endswith(others))
    }

  return Scored(figures=chosen(scored.figures), items=chosen(scored.items))


def _gqa_output(
  figures: Mapping[str, Any], *, has_consistency: bool
) -> dict[str, Any]:
  """The output of eval.py; what was not asked for is 0 there."""
  names = ("binary", "open", "accuracy", "validity", "plausibility")
  kinds = {
    "accuracyPerStructuralType": "structural_type",
    "accuracyPerSemanticType": "semantic_type",
    "accuracyPerSteps": "steps",
    "accuracyPerLength": "words",
  }
  consistency = figures.get("consistency") if has_consistency else 0
  return {
    "metrics": {name: figures[name] for name in names}
    | {
      "distribution": figures["distribution"],
      "consistency": consistency,
      "grounding": 0,
    },
    "detailed": {
      name: {
        kind: [accuracy, figures[f"questions_by_{ours}"][kind]]
        for kind, accuracy in figures[f"accuracy_by_{ours}"].items()
      }
      for name, ours in kinds.items()
    },
  }


def _pope_output(scored: Scored) -> dict[str, Any]:
  names = {
    "TP": "true_positives",
    "FP": "false_positives",
    "TN": "true_negatives",
    "FN": "false_negatives",
    "acc": "accuracy",
    "precision": "precision",
    "recall": "recall",
    "f1": "f1",
    "yes_ratio": "yes_ratio",
  }
  return {
    split: {name: figures[ours] for name, ours in names.items()}
    for split, figures in scored.figures.items()
    if isinstance(figures, Mapping)
  } | {"mean_acc": scored.figures["accuracy"], "mean_f1": scored.figures["f1"]}
