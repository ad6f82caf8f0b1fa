"""VQA files to figures, on hand-worked questions."""

import json

import pytest

from ddit_jax.errors import InputError
from ddit_jax.scoring import vqa


def annotation(question_id, answers, answer_type, question_type="what"):
  return {
    "question_id": question_id,
    "image_id": question_id % 2,
    "question_type": question_type,
    "answer_type": answer_type,
    "answers": [
      {
        "answer": answer,
        "raw_answer": f"{answer}s",
        "answer_confidence": "yes",
        "answer_id": number,
      }
      for number, answer in enumerate(answers, 1)
    ],
  }


ANNOTATIONS = [
  annotation(1, ["7"] * 9 + ["1"], "number"),
  annotation(2, ["red"] * 8 + ["pink", "orange"], "other"),
  annotation(3, ["yes"] * 5 + ["no"] * 5, "yes/no", "is it"),
]
RESULTS = [
  {"question_id": 2, "answer": "blue"},
  {"question_id": 1, "answer": "seven"},
  {"question_id": 3, "answer": "no"},
  {"question_id": 2, "answer": "Pink!"},  # the later result counts
]


@pytest.fixture
def files(tmp_path):
  def write(annotations=ANNOTATIONS, results=RESULTS, name="annotations"):
    reference, prediction = tmp_path / "a.json", tmp_path / "r.json"
    reference.write_text(json.dumps({name: annotations}))
    prediction.write_text(json.dumps(results))
    return prediction, [reference]

  return write


def test_accuracy_is_rounded_overall_and_by_type(files):
  scored = vqa.vqav2(*files())
  assert scored.figures == {
    "accuracy": 76.67,
    "accuracy_by_question_type": {"what": 65, "is it": 100},
    "accuracy_by_answer_type": {"number": 100, "other": 30, "yes/no": 100},
  }
  items = scored.items["accuracy"]
  assert items.ids == ("1", "2", "3") and items.groups == ("1", "0", "1")
  assert items.scores == pytest.approx((100, 30, 100))


def test_a_repeated_result_counts_last_and_is_reported(files):
  assert vqa.vqav2(*files()).notes == (
    "1 predictions repeat a question_id: the last of each counts, as in the "
    "official scorer",
  )


def test_the_release_averages_rounded_values(files):
  # 2 of 10 agree with each of three answers of "third", 100 x 2/3 = 66.67.
  annotations = [annotation(9, ["1st"] * 3 + ["x"] * 7, "other")]
  for one in annotations[0]["answers"]:
    one["answer_id"] = 1  # so equal annotations vanish together
  prediction = [{"question_id": 9, "answer": "first"}]
  scored = vqa.vqav2_ddit_release(*files(annotations, prediction))
  # Leaving out a "1st" leaves none, leaving out an "x" three: 7 of 10.
  assert scored.figures["accuracy"] == 70
  assert "not the official" in scored.notes[-1]


def test_textvqa_reads_its_own_layout(files):
  entry = {"question_id": 5, "image_id": "ab", "answers": ["Nokia"] * 10}
  prediction = [{"question_id": 5, "answer": "nokia."}]
  scored = vqa.textvqa(*files([entry], prediction, name="data"))
  assert scored.figures == {"accuracy": 100}


def test_okvqa_scores_both_fields(files):
  results = [
    {"question_id": 1, "answer": "7"},
    {"question_id": 2, "answer": "reds"},
    {"question_id": 3, "answer": "maybe"},
  ]
  figures = vqa.okvqa(*files(results=results)).figures
  assert figures["accuracy"] == 33.33  # "7" against "7"
  assert figures["accuracy_raw_answer"] == 33.33  # "reds" against "reds"
  assert figures["accuracy_by_answer_type_raw_answer"] == {
    "number": 0,
    "other": 100,
    "yes/no": 0,
  }


@pytest.mark.parametrize(
  ("results", "message"),
  [
    (RESULTS[1:2], "2 of 3 questions have no prediction .2, 3.*assertion"),
    ([*RESULTS, {"question_id": 9, "answer": ""}], "for other questions .9"),
    ([{"question_id": 1}], 'entry 1 has no "answer"'),
    ([{"question_id": True, "answer": ""}], "whole number or a text, got True"),
    ([{"question_id": 1, "answer": 3}], '"answer" must be a text, got 3'),
    ([], "the list is empty"),
    ({"1": "x"}, "expected a list, got an object"),
    ([5], "expected an object, got 5"),
  ],
)
def test_bad_results_are_refused_with_their_reason(files, results, message):
  with pytest.raises(InputError, match=message):
    vqa.vqav2(*files(results=results))


@pytest.mark.parametrize("body", ["5", "true", "null", "[]", '"data"', "{}"])
def test_other_json_holds_no_annotations(files, body):
  predictions, (references,) = files()
  references.write_text(body)
  with pytest.raises(InputError, match='with the list "annotations"'):
    vqa.vqav2(predictions, [references])


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"answers": []}, "the list is empty"),
    ({"answers": [3]}, "expected an object, got 3"),
    ({"answers": [{"answer": None}]}, '"answer" must be a text, got None'),
    ({"answer_type": 3}, '"answer_type" must be a text'),
    ({"question_id": 2}, "annotated questions are repeated .2"),
  ],
)
def test_bad_annotations_are_refused_with_their_reason(files, change, message):
  annotations = [ANNOTATIONS[0] | change, ANNOTATIONS[1]]
  with pytest.raises(InputError, match=message):
    vqa.vqav2(*files(annotations))


def test_another_file_is_refused(files):
  with pytest.raises(InputError, match='the list "annotations"'):
    vqa.vqav2(*files(name="questions"))
