"""Our side of the cases of generated images."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ddit_jax.evaluation import frechet, geneval
from ddit_jax.scoring import features
from ddit_jax.scoring.benchmarks import score_files
from ddit_jax.scoring.dpg import read_answers
from ddit_jax.scoring.geneval import checked_metadata, detections_of
from ddit_jax.scoring.scored import Scored
from scorers.compare import ROUNDING, Comparison, unread
from scorers.folder import Folder

_FRECHET = 1e-6
# The root of a singular matrix is inaccurate in the published function.
_FRECHET_OF_FEW = 1e-3


def geneval_cases(folder: Folder) -> Iterator[Comparison]:
  """Relations of boxes, verdicts on images, and the summary."""
  if folder.has("relative_position.json"):
    body = folder.json("relative_position.json")
    read = ("position_threshold", "cases")
    yield from unread("relative_position.json", body, *read)
    yield Comparison(
      name="relative_position.json/position_threshold",
      expected=body["position_threshold"],
      got=geneval.POSITION_MARGIN,
    )
    for number, case in enumerate(body["cases"]):
      first, second = (
        detections_of({"": [case[key]]}, f"case {number}")[0] for key in "ab"
      )
      yield Comparison(
        name=f"relative_position.json/{number}",
        expected={"relations": sorted(case["relations"])},
        got={"relations": sorted(geneval.relations(first, second))},
      )
  if folder.has("logic_cases.json"):
    body = folder.json("logic_cases.json")
    yield from unread("logic_cases.json", body, "class_order", "cases")
    for number, case in enumerate(body["cases"]):
      inputs = ("metadata", "detections", "options")
      yield Comparison(
        name=f"logic_cases.json/{number}",
        expected={k: v for k, v in case.items() if k not in inputs},
        got=_verdict(case, f"logic_cases.json, case {number}"),
      )
  if folder.has("results.jsonl"):
    path = folder.one("results.jsonl")
    scored = score_files("geneval", path, [])
    yield Comparison(
      name="expected_summary.json",
      expected=folder.json("expected_summary.json"),
      got={
        "printed": _summary(scored),
        "task_means": scored.figures["tasks"],
        "overall": scored.figures["overall"],
        "prompts_any": scored.figures["prompts"],
        "images": scored.figures["images"],
      },
      tolerance=ROUNDING,
    )


def dpg(folder: Folder) -> Iterator[Comparison]:
  """DPG-Bench with the published reader, for each table."""
  answers = folder.one("answers.json")
  got = {}
  for table in folder.all("dpg_bench_*.csv"):
    scored = score_files("dpg_official_bugs", answers, [table])
    items = scored.items["score"]
    answered = read_answers(answers)
    got[table.stem.removeprefix("dpg_bench_")] = {
      "per_image": {
        key: score / 100
        for key, score in zip(items.ids, items.scores, strict=True)
      },
      "failed": [[key, "KeyError"] for key in answered if key not in items.ids],
      "dpg_score": scored.figures["score"],
      "L1": scored.figures["level_1"],
      "L2": scored.figures["level_2"],
    }
  yield Comparison(
    name="expected.json",
    expected=folder.json("expected.json"),
    got=got,
    tolerance=ROUNDING,
  )


def t2i_compbench(folder: Folder) -> Iterator[Comparison]:
  """T2I-CompBench from probabilities."""
  scored = score_files("t2i_compbench", folder.one("probabilities.json"), [])
  yield Comparison(
    name="expected.json",
    expected=folder.json("expected.json"),
    got={
      "vqa_result": [
        {"question_id": number, "answer": f"{score:.4f}"}
        for number, score in enumerate(scored.items["blip_vqa"].scores)
      ],
      "blip_vqa_score": scored.figures["blip_vqa"],
    },
    tolerance=ROUNDING,
  )


def fid(folder: Folder) -> Iterator[Comparison]:
  """Fréchet and kernel distances of rows of features."""
  body = folder.json("frechet.json")
  yield from unread("frechet.json", body, "cases")
  for number, case in enumerate(body["cases"]):
    first, second = (_features(case[key]) for key in "ab")
    scored = features.score_distances(first, second)
    few = min(len(first.rows), len(second.rows)) <= first.rows.shape[1]
    got = {
      "fid": scored.figures["frechet_distance"],
      "used_eps_branch": any("1e-6 was added" in one for one in scored.notes),
    }
    if "kid_one_full_subset" in case:
      got["kid_one_full_subset"] = scored.figures["kernel_distance"]
    yield Comparison(
      name=f"frechet.json/{case.get('name', number)}",
      expected={k: v for k, v in case.items() if k not in ("name", "a", "b")},
      got=got,
      tolerance=_FRECHET_OF_FEW if few else _FRECHET,
    )


def clipscore(folder: Folder) -> Iterator[Comparison]:
  """CLIP scores of rows of features."""
  body = folder.json("arithmetic.json")
  images, texts = (
    _features(body.pop(f"{kind}_features")) for kind in ("image", "text")
  )
  references = body.pop("reference_features")
  captions = features.FeatureFile(
    rows=np.array([row for some in references for row in some], np.float64),
    moments=None,
    network="",
    row_of=np.repeat(np.arange(len(references)), [len(s) for s in references]),
  )
  scored = features.score_clip(images, texts, captions)
  figures, items = scored.figures, scored.items
  yield Comparison(
    name="arithmetic.json",
    expected=body,
    got={
      "clipscore_per": list(items["clipscore"].scores),
      "clipscore_mean": figures["clipscore"],
      "refonly_per": list(items["text_score"].scores),
      "refclipscore_per": list(items["ref_clipscore"].scores),
      "refclipscore_mean": figures["ref_clipscore"],
      "cosine_times_100_mean": figures["scaled_cosine"],
      "cosine_times_100_clipped_at_zero_of_mean": figures[
        "scaled_cosine_at_least_0"
      ],
    },
    tolerance=ROUNDING,
  )


def _features(rows: Any) -> features.FeatureFile:
  array = np.array(rows, np.float64)
  return features.FeatureFile(
    rows=array, moments=frechet.Moments.of(array), network="", row_of=None
  )


def _verdict(case: Mapping[str, Any], where: str) -> dict[str, Any]:
  metadata = checked_metadata(case["metadata"], where)
  found = detections_of(case["detections"], where)
  options = {"max_overlap": case["options"].get("max_overlap", 1)}
  if unknown := set(case["options"]) - set(options):
    raise ValueError(f"{where} has unknown options {sorted(unknown)}")
  verdict = geneval.judge(metadata, found, **options)
  kept = geneval.keep(found, tag=metadata["tag"], **options)
  return {
    "correct": verdict.is_correct,
    # Recorded as null where the published text depends on the order of a set.
    "reason": None if case["reason"] is None else "\n".join(verdict.reasons),
    "kept": {
      name: [[float(np.float32(x)) for x in (*d.box, d.score)] for d in some]
      for name, some in kept.items()
    },
  }


def _summary(scored: Scored) -> list[str]:
  """What the published script prints."""
  figures, items = scored.figures, scored.items["overall"]
  right = defaultdict(list)
  for tag, score in zip(items.strata, items.scores, strict=True):
    right[tag].append(int(score))
  return [
    "Summary",
    "=======",
    f"Total images: {figures['num_images']}",
    f"Total prompts: {figures['num_prompts']}",
    f"% correct images: {figures['images']:.2%}",
    f"% correct prompts: {figures['prompts']:.2%}",
    "",
    "Task breakdown",
    "==============",
    *(
      f"{tag:<16} = {figures['tasks'][tag]:.2%} ({sum(some)} / {len(some)})"
      for tag, some in right.items()
    ),
    "",
    f"Overall score (avg. over tasks): {figures['overall']:.5f}",
    "",
  ]
