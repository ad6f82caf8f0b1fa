"""Small folders of cases, with outputs that were worked out by hand."""

import json
import math
import pathlib
from typing import Any


def vqa_answers(*answers: str, with_ids: bool = True) -> list[dict]:
  return [
    {"answer": answer, "answer_confidence": "yes"}
    | ({"answer_id": number} if with_ids else {})
    for number, answer in enumerate(answers, 1)
  ]


def annotation(key: int, answers: list[dict], kind: str = "other") -> dict:
  return {
    "question_id": key,
    "image_id": key,
    "question_type": "what",
    "answer_type": kind,
    "answers": answers,
  }


def vqa_files(annotations: list[dict], results: dict[int, str]) -> dict:
  return {
    "annotations.json": {"annotations": annotations},
    "questions.json": {
      "questions": [{"question_id": one["question_id"]} for one in annotations]
    },
    "results.json": [
      {"question_id": key, "answer": answer} for key, answer in results.items()
    ],
  }


# Unanimous, so "Yes" is wrong officially; and one of ten.
VQAV2 = vqa_files(
  [
    annotation(1, vqa_answers(*["yes"] * 10), "yes/no"),
    annotation(2, vqa_answers("2", *["3"] * 9), "number"),
  ],
  {1: "Yes", 2: "two"},
)
# Nothing is equal but the answers: leaving out one "red" leaves out both.
WITHOUT_IDS = vqa_files(
  [annotation(1, vqa_answers("red", "red", *["tan"] * 8, with_ids=False))],
  {1: "red"},
)


def accuracy(overall: float, **types: dict) -> dict:
  return {"overall": overall} | types


OKVQA_ANSWERS = [
  one | {"raw_answer": "racing"} for one in vqa_answers(*["race"] * 10)
]
VIZWIZ = {
  "val.json": [
    {
      "image": "a.jpg",
      "answers": [{"answer": one} for one in ["red"] * 2 + ["tan"] * 8],
      "answer_type": "other",
      "answerable": 0,
    }
  ],
  "case_results.json": [{"image": "a.jpg", "answer": "Red", "answerable": 0.2}],
}


def vizwiz_output(score: float) -> dict:
  return {
    "accuracy": accuracy(score, perAnswerType={"other": score}),
    "evalQA": {"a.jpg": score},
    "evalAnsType": {"other": {"a.jpg": score}},
    "unanswerability": {"average_precision": 100.0, "f1_score": 100.0},
  }


GQA_QUESTION = {
  "question": "what is it?",
  "imageId": "7",
  "answer": "cat",
  "isBalanced": True,
  "types": {"structural": "query", "semantic": "obj", "detailed": "x"},
  "groups": {"global": "animal"},
  "semantic": [{"operation": "select", "argument": "thing"}],
  "entailed": ["1"],
}


def gqa_output(**metrics: float) -> dict:
  return {
    "metrics": {
      "accuracy": 100.0,
      "binary": 0,
      "open": 100.0,
      "validity": 100.0,
      "plausibility": 0.0,
      "consistency": 0,
      "distribution": 0.0,
      "grounding": 0,
    }
    | metrics,
    "detailed": {
      "accuracyPerStructuralType": {"query": [100.0, 1]},
      "accuracyPerSemanticType": {"obj": [100.0, 1]},
      "accuracyPerSteps": {"1": [100.0, 1]},
      "accuracyPerLength": {"3": [100.0, 1]},
    },
  }


SPLITS = ("random", "popular", "adversarial")
POPE_SPLIT = {
  "TP": 1,
  "FP": 0,
  "TN": 1,
  "FN": 0,
  "acc": 1.0,
  "precision": 1.0,
  "recall": 1.0,
  "f1": 1.0,
  "yes_ratio": 0.5,
}
POPE_LABELS = [
  {"image": "a", "text": "Is there a cat?", "label": "yes"},
  {"image": "a", "text": "Is there a dog?", "label": "no"},
]
MME_LINES = "a.jpg\tIs it?\tYes\tyes\na.jpg\tIs it?\tNo\tknown\n"
PERCEPTION = (
  "existence count position color posters celebrity scene landmark artwork OCR"
).split()
COGNITION = (
  "commonsense_reasoning numerical_calculation text_translation code_reasoning"
).split()


def caption_output(ids: list[str], cider: float, bleu: list[float]) -> dict:
  """Of captions that equal their only reference, "a cat N"."""
  tokens = [f"a cat {key}" for key in ids]
  return {
    "tokens": {
      "candidates": {k: [t] for k, t in zip(ids, tokens, strict=True)},
      "references": {k: [t] for k, t in zip(ids, tokens, strict=True)},
    },
    "CIDEr": cider,
    "CIDEr_per_image": dict.fromkeys(ids, cider),
    "ROUGE_L": 1.0,
    "ROUGE_L_per_image": dict.fromkeys(ids, 1.0),
    "BLEU": bleu,
  }


def small_bleu(num_images: int) -> list[float]:
  """BLEU of captions of three words that are right, with its 1e-9 and 1e-15."""
  words = 3 * num_images
  guessed = [words, 2 * num_images, num_images, 0]
  # The length ratio is just below 1.
  penalty = math.exp(1 - (words + 1e-9) / (words + 1e-15))
  product, found = 1.0, []
  for order, count in enumerate(guessed, 1):
    product *= (count + 1e-15) / (count + 1e-9)
    found.append(product ** (1 / order) * penalty)
  return found


def coco_caption() -> dict[str, Any]:
  ids = ["1", "2", "3"]
  texts = {key: f"A cat, {key}!" for key in ids}
  # Of the n-grams of an image only those with its number have a weight, and
  # orders 1 to 3 have one each: 10 x 3 / 4.
  outputs = {
    "full": caption_output(ids, 7.5, small_bleu(3)),
    "first_third_of_results": caption_output(["1"], 0.0, small_bleu(1)),
    "two_images": caption_output(["2", "3"], 7.5, small_bleu(2)),
    "one_image": caption_output(["3"], 0.0, small_bleu(1)),
  }
  for output in outputs.values():
    count = len(output["CIDEr_per_image"])
    output["BLEU_per_image"] = [[one] * count for one in small_bleu(1)]
  return {
    "captions_val.json": {
      "images": [{"id": int(key)} for key in ids],
      "annotations": [
        {"image_id": int(key), "caption": text} for key, text in texts.items()
      ],
    },
    "captions_val_results.json": [
      {"image_id": int(key), "caption": text.lower()}
      for key, text in texts.items()
    ],
    "expected.json": outputs | {"two_image_ids": [2, 3], "one_image_id": 3},
  }


BOX = [0, 0, 10, 10, 0.5, "red"]
GENEVAL_RESULTS = "\n".join(
  json.dumps(
    {
      "filename": f"{number}",
      "tag": "colors",
      "correct": number == 0,
      "metadata": "{}",
    }
  )
  for number in range(4)
)
DPG_TABLE = (
  "item_id,text,keywords,proposition_id,dependency,category_broad,"
  "category_detailed,tuple,question_natural_language\n"
  'a,,,1,0,,,"entity - whole (cat)",\na,,,2,1,,,"entity - part (ear)",\n'
  'b,,,1,0,,,"global (dark)",\n'
)
ROOT = math.sqrt(0.5)

FOLDERS: dict[str, dict[str, Any]] = {
  "normalise": {
    "answers.json": {
      "cases": [
        {
          "input": " First, dont\n",
          "vqa_punct": "First dont",
          "vqa": "first don't",
          "vizwiz": "first don\u2019t",
          "evalai": "first don't",
          "ddit": "1st don't",
          "ddit_twice": "1st don't",
        }
      ]
    }
  },
  "vqav2": VQAV2
  | {
    "expected.json": {
      "accuracy": accuracy(
        15.0,
        perQuestionType={"what": 15.0},
        perAnswerType={"yes/no": 0.0, "number": 30.0},
      ),
      "evalQA": {"1": 0.0, "2": 30.0},
      "evalQuesType": {"what": {"1": 0.0, "2": 30.0}},
      "evalAnsType": {"yes/no": {"1": 0.0}, "number": {"2": 30.0}},
      "accuracy_n15": accuracy(
        15.0,
        perQuestionType={"what": 15.0},
        perAnswerType={"yes/no": 0.0, "number": 30.0},
      ),
    },
    "expected_ddit_release.json": {
      "mean": 65.0,
      "per_question_rounded": {"1": 100.0, "2": 30.0},
    },
    "expected_textvqa_evaluator.json": {
      "accuracy": 0.65,
      "per_question": {"1": 1.0, "2": 0.3},
    },
    "expected_llava_upload.json": [
      {"question_id": 1, "answer": "yes"},
      {"question_id": 2, "answer": "2"},
    ],
  },
  "vqa_without_answer_ids": WITHOUT_IDS
  | {
    "expected.json": {
      # Eight times 2 of 3, twice 0.
      "accuracy": accuracy(
        53.33,
        perQuestionType={"what": 53.33},
        perAnswerType={"other": 53.33},
      ),
      "evalQA": {"1": 53.33},
    }
  },
  "okvqa": vqa_files([annotation(1, OKVQA_ANSWERS)], {1: "racing"})
  | {
    "expected.json": {
      field: {
        "accuracy": accuracy(
          score,
          perQuestionType={"what": score},
          perAnswerType={"other": score},
        ),
        "evalQA": {"1": score},
      }
      for field, score in (("answer", 0.0), ("raw_answer", 100.0))
    }
  },
  "vizwiz": VIZWIZ
  | {
    "expected.json": {
      "first_release": vizwiz_output(66.67),
      "later_release": vizwiz_output(60.0),
      "llava_upload": [{"image": "a.jpg", "answer": "red"}],
    }
  },
  "gqa": {
    "val_questions.json": {
      "1": GQA_QUESTION,
      "2": GQA_QUESTION | {"isBalanced": False},
    },
    "val_choices.json": {"1": {"valid": ["cat"], "plausible": []}},
    "val_predictions.json": [
      {"questionId": "1", "prediction": "cat"},
      {"questionId": "2", "prediction": "dog"},
    ],
    "llava_answers.jsonl": '{"question_id": "1", "text": "Cat."}\n',
    "expected.json": {
      "without_consistency": gqa_output(),
      "with_consistency": gqa_output(consistency=0.0),
      "llava_converted": gqa_output(),
    },
    "expected_llava_predictions.json": [
      {"questionId": "1", "prediction": "cat"}
    ],
  },
  "pope": {
    **{
      f"coco/coco_pope_{split}.json": "\n".join(map(json.dumps, POPE_LABELS))
      for split in SPLITS
    },
    **{
      f"answers_{split}.jsonl": '{"answer": "Nope"}\n{"answer": "no, dog"}\n'
      for split in SPLITS
    },
    "degenerate/labels.json": json.dumps(POPE_LABELS[0]),
    "degenerate/answers.jsonl": '{"answer": "no"}',
    "expected.json": {
      **{split: POPE_SPLIT | {"parsed": ["yes", "no"]} for split in SPLITS},
      "degenerate": {
        "raises": "ZeroDivisionError",
        "printed": ["TP\tFP\tTN\tFN\t", "0\t0\t0\t1"],
      },
      "mean_acc": 1.0,
      "mean_f1": 1.0,
    },
  },
  "mme": {
    **{f"results/{name}.txt": MME_LINES for name in (*PERCEPTION, *COGNITION)},
    "parse.json": {
      "cases": [
        {"answer": "snow", "parsed": "no"},
        {"answer": " the no", "parsed": "other"},
      ]
    },
    "expected.json": {
      "Perception": {
        "subtasks": dict.fromkeys(PERCEPTION, 200.0),
        "total": 2000.0,
      },
      "Cognition": {
        "subtasks": dict.fromkeys(COGNITION, 200.0),
        "total": 800.0,
      },
    },
  },
  "ptb": {
    "tokens.json": {
      "setting": "",
      "punctuation_removed": (
        "'' ' `` ` -LRB- -RRB- -LCB- -RCB- . ? ! , : - -- ... ;".split()
      ),
      "cases": [
        {
          "caption": "It isn't\nA.",
          "ptb": "it is n't a.",
          "tokens": "it is n't a.",
          "other_outcomes_by_next_line": ["it is n't a"],
        }
      ],
    }
  },
  "coco_caption": coco_caption(),
  "geneval": {
    "relative_position.json": {
      "position_threshold": 0.1,
      "cases": [
        {"a": BOX, "b": [50, 0, 60, 10, 0.5], "relations": ["left of"]}
      ],
    },
    "logic_cases.json": {
      "class_order": [],
      "cases": [
        {
          "metadata": {
            "tag": "colors",
            "include": [{"class": "cat", "count": 1, "color": "blue"}],
          },
          "detections": {"cat": [BOX, [0, 0, 1, 1, 0.25, "blue"]]},
          "options": {},
          "correct": False,
          "reason": "expected blue cat>=1, found 0 blue; and 1 red",
          "kept": {"cat": [[0.0, 0.0, 10.0, 10.0, 0.5]]},
        }
      ],
    },
    "results.jsonl": GENEVAL_RESULTS,
    "expected_summary.json": {
      "printed": [
        "Summary",
        "=======",
        "Total images: 4",
        "Total prompts: 1",
        "% correct images: 25.00%",
        "% correct prompts: 100.00%",
        "",
        "Task breakdown",
        "==============",
        "colors           = 25.00% (1 / 4)",
        "",
        "Overall score (avg. over tasks): 0.25000",
        "",
      ],
      "task_means": {"colors": 0.25},
      "overall": 0.25,
      "prompts_any": 1.0,
      "images": 0.25,
    },
  },
  "dpg": {
    "dpg_bench_small.csv": DPG_TABLE,
    "answers.json": {
      "pic_num": 4,
      "answers": {
        "a": [{"1": "yes", "2": "yes"}] * 4,
        "b": [{"1": "no"}] + [{"1": "yes"}] * 3,
      },
    },
    "expected.json": {
      "small": {
        "per_image": {"b": 0.75},
        "failed": [["a", "KeyError"]],
        "dpg_score": 75.0,
        "L1": {"global": 100.0},
        "L2": {"global": 100.0},
      }
    },
  },
  "t2i_compbench": {
    "probabilities.json": {
      "images": [
        {
          "file": "a cat_000000.png",
          "questions": ["a cat?", "a hat?", ""],
          "p_yes": ["0.5000", "0.5000", None],
        }
      ]
    },
    "expected.json": {
      "vqa_result": [{"question_id": 0, "answer": "0.2500"}],
      "blip_vqa_score": 0.25,
    },
  },
  "fid": {
    "frechet.json": {
      "cases": [
        {
          "name": "shift",
          "a": [[0.0], [2.0]],
          "b": [[3.0], [5.0]],
          "fid": 9.0,
          "used_eps_branch": False,
          # Kernel (x y + 1)^3: pairs 1 and 4,096; across 1, 1, 343, 1,331.
          "kid_one_full_subset": 1 + 4096 - (1 + 1 + 343 + 1331) / 2,
        }
      ]
    }
  },
  "clipscore": {
    "arithmetic.json": {
      "image_features": [[2.0, 0.0], [1.0, 0.0]],
      "text_features": [[1.0, 1.0], [-1.0, 0.0]],
      "reference_features": [[[1.0, 0.0], [0.0, 2.0]], [[-3.0, 0.0]]],
      "clipscore_per": [2.5 * ROOT, 0.0],
      "clipscore_mean": 1.25 * ROOT,
      "refonly_per": [ROOT, 1.0],
      "refclipscore_per": [2 * 2.5 / 3.5 * ROOT, 0.0],
      "refclipscore_mean": 2.5 / 3.5 * ROOT,
      "cosine_times_100_mean": 50 * (ROOT - 1),
      "cosine_times_100_clipped_at_zero_of_mean": 0.0,
    }
  },
}
# What is read to make ours, not compared: keys by folder.
INPUTS = {
  "normalise": {"input"},
  "mme": {"answer"},
  "ptb": {"caption", "setting"},
  "coco_caption": {"two_image_ids", "one_image_id"},
  "geneval": {"a", "b", "metadata", "detections", "options", "class_order"},
  "fid": {"name", "a", "b"},
  "clipscore": {"image_features", "text_features", "reference_features"},
}
COMPARED = (
  "answers.json parse.json tokens.json relative_position.json logic_cases.json"
  " frechet.json arithmetic.json"
).split()


def write(root: pathlib.Path, name: str) -> pathlib.Path:
  """Writes one folder below `root`."""
  for file, content in FOLDERS[name].items():
    path = root / name / file
    path.parent.mkdir(parents=True, exist_ok=True)
    is_text = isinstance(content, str)
    path.write_text(content if is_text else json.dumps(content))
  return root / name


def compared_files(name: str) -> list[str]:
  """The files of a folder that hold expected values."""
  return [
    file
    for file in FOLDERS[name]
    if file.startswith("expected")
    or (file in COMPARED and not (name == "dpg" and file == "answers.json"))
  ]
