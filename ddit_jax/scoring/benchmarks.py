"""The table of benchmarks, and the result of scoring one.

`score_files(name, predictions, references)` reads official files and returns
`Scored`; `report(...)` is the JSON that `ddit score --out` writes. Neither
needs a model, an accelerator or JAX:

  scored = score_files("vqav2", Path("results.json"), [Path("val.json")])
  scored.figures["accuracy"]             # 65.45, as the official scorer rounds
  scored.items["accuracy"].scores        # of each question, for intervals

To add a scorer, write a function (predictions, references) -> Scored, and add a
row to BENCHMARKS. A benchmark that `ddit evaluate` runs also needs a row of
`protocols.protocol.PROTOCOLS`.
"""

import pathlib
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ddit_jax.errors import InputError, suggest
from ddit_jax.evaluation.bootstrap import mean_interval
from ddit_jax.json_files import file_hash
from ddit_jax.scoring import (
  captions,
  dpg,
  features,
  geneval,
  gqa,
  mme,
  pope,
  t2i_compbench,
  vizwiz,
  vqa,
)
from ddit_jax.scoring.scored import ItemScores, Scored


@dataclass(frozen=True, kw_only=True)
class _Benchmark:
  """How one benchmark is scored.

  Attributes:
    title: its name in print.
    source: the published scorer whose figures these are.
    predictions: what the file or folder of predictions holds.
    references: what each reference file holds, in order; those that end in
      "(optional)" may be left out.
    headline: the figure that papers report.
    score: from the paths of predictions and references.
  """

  title: str
  source: str
  predictions: str
  references: tuple[str, ...]
  headline: str
  score: Callable[[pathlib.Path, Sequence[pathlib.Path]], Scored]

  @property
  def required_references(self) -> int:
    """The fewest reference files."""
    return sum(not one.endswith("(optional)") for one in self.references)


_VQA_RESULTS = "results JSON, [{question_id, answer}]"
_VQA_SOURCE = "vqaEval.py of GT-Vision-Lab/VQA at a013f00"
_DPG_ANSWERS = (
  "JSON, {answers: {item_id: [{proposition_id: answer} of each tile]}}"
)
_DPG_TABLE = "dpg_bench.csv"
_FEATURES = '.npy, or .npz with "features" and "network"'
_VQAV2_ANNOTATIONS = "v2_mscoco_*_annotations.json"

BENCHMARKS: Mapping[str, _Benchmark] = {
  "vqav2": _Benchmark(
    title="VQA v2",
    source=_VQA_SOURCE,
    predictions=_VQA_RESULTS,
    references=(_VQAV2_ANNOTATIONS,),
    headline="accuracy",
    score=vqa.vqav2,
  ),
  "vqav2_ddit_release": _Benchmark(
    title="VQA v2 by the D-DiT release",
    source="scripts/vqa.py of the D-DiT release",
    predictions=_VQA_RESULTS,
    references=(_VQAV2_ANNOTATIONS,),
    headline="accuracy",
    score=vqa.vqav2_ddit_release,
  ),
  "textvqa": _Benchmark(
    title="TextVQA",
    source="the TextVQA evaluator in haotian-liu/LLaVA at c121f04",
    predictions=_VQA_RESULTS,
    references=("TextVQA_*_val.json, or annotations in the layout of VQA",),
    headline="accuracy",
    score=vqa.textvqa,
  ),
  "okvqa": _Benchmark(
    title="OK-VQA",
    source=_VQA_SOURCE,
    predictions=_VQA_RESULTS,
    references=("mscoco_*_annotations.json, with answer and raw_answer",),
    headline="accuracy",
    score=vqa.okvqa,
  ),
  "vizwiz": _Benchmark(
    title="VizWiz",
    source="the VizWiz VQA API, later release",
    predictions="results JSON, [{image, answer, answerable?}]",
    references=("val.json, [{image, answers, answer_type, answerable}]",),
    headline="accuracy",
    score=vizwiz.vizwiz,
  ),
  "gqa": _Benchmark(
    title="GQA",
    source="eval.py v1.1 of GQA",
    predictions="predictions JSON, [{questionId, prediction}]",
    references=("*_questions.json", "*_choices.json (optional)"),
    headline="accuracy",
    score=gqa.gqa_files,
  ),
  "pope": _Benchmark(
    title="POPE",
    source="evaluate.py of AoiDragon/POPE at 08d957b",
    predictions="folder of one JSONL file a split, {question, answer} a line; "
    "or LLaVA's answer file",
    references=(
      "folder of coco_pope_{random,popular,adversarial}.json",
      "llava_pope_test.jsonl, for LLaVA's answer file (optional)",
    ),
    headline="accuracy",
    score=pope.pope,
  ),
  "mme": _Benchmark(
    title="MME",
    source="calculation.py of MME's eval_tool",
    predictions="folder of SUBTASK.txt, image, question, label and response "
    "with tabs between",
    references=(),
    headline="perception",
    score=mme.mme_folder,
  ),
  "coco_captions": _Benchmark(
    title="COCO captions",
    source="salaniz/pycocoevalcap at ad63453, with an own tokenizer",
    predictions="results JSON, [{image_id, caption}]",
    references=("captions_*.json, {images, annotations}",),
    headline="cider",
    score=captions.coco_captions,
  ),
  "geneval": _Benchmark(
    title="GenEval",
    source="djghosh13/geneval at af4902f",
    predictions="JSONL, {filename, detections} a line, or results.jsonl of "
    "the published evaluator",
    references=("evaluation_metadata.jsonl, for detections (optional)",),
    headline="overall",
    score=geneval.geneval_files,
  ),
  "t2i_compbench": _Benchmark(
    title="T2I-CompBench, BLIP-VQA",
    source="BLIPvqa_eval of T2I-CompBench at 1b70949",
    predictions="{images: [{file, questions, p_yes}]}, or vqa_result.json",
    references=(),
    headline="blip_vqa",
    score=t2i_compbench.t2i_compbench,
  ),
  "dpg": _Benchmark(
    title="DPG-Bench, every row",
    source="DPG-Bench in ELLA at 3c228f1, without skipping the first row",
    predictions=_DPG_ANSWERS,
    references=(_DPG_TABLE,),
    headline="score",
    score=dpg.dpg_files,
  ),
  "dpg_official_bugs": _Benchmark(
    title="DPG-Bench as published",
    source="DPG-Bench in ELLA at 3c228f1",
    predictions=_DPG_ANSWERS,
    references=(_DPG_TABLE,),
    headline="score",
    score=dpg.dpg_official_bugs,
  ),
  "fid": _Benchmark(
    title="Fréchet and kernel distance",
    source="clean-fid's functions of features",
    predictions=_FEATURES,
    references=("features of real images, or mu and sigma",),
    headline="frechet_distance",
    score=features.fid,
  ),
  "clip_score": _Benchmark(
    title="CLIP score",
    source="jmhessel/clipscore, and torchmetrics (scaled_cosine)",
    predictions=_FEATURES,
    references=(
      "features of the texts, one row an image",
      'features of reference captions, with "row" (optional)',
    ),
    headline="scaled_cosine",
    score=features.clip_scores,
  ),
}


def score_files(
  name: str, predictions: pathlib.Path, references: Sequence[pathlib.Path]
) -> Scored:
  """Scores the predictions of a benchmark from official files.

  Raises:
    InputError: an unknown benchmark, a number of references that it does not
      take, or files that it cannot score.
    OSError: a file cannot be read.
  """
  if name not in BENCHMARKS:
    raise InputError(f"unknown benchmark {name!r}: {suggest(name, BENCHMARKS)}")
  benchmark = BENCHMARKS[name]
  # Each of POPE's three splits may be a file of its own.
  most = len(benchmark.references) + (2 if name == "pope" else 0)
  if not benchmark.required_references <= len(references) <= most:
    wanted = "; ".join(benchmark.references) or "none"
    raise InputError(
      f"{name} was given {len(references)} references, it takes: {wanted}"
    )
  return benchmark.score(predictions, references)


def report(
  name: str,
  scored: Scored,
  predictions: pathlib.Path,
  references: Sequence[pathlib.Path],
  *,
  hashes: Mapping[pathlib.Path, str] = types.MappingProxyType({}),
) -> dict[str, Any]:
  """A result as JSON: the figures, their intervals, and what they are from.

  Intervals are percentile bootstraps over the groups of items. Files are named
  with the BLAKE2b of their bytes.

  Args:
    name: of the benchmark.
    scored: what `score_files` returned.
    predictions: its file or folder.
    references: its files or folders.
    hashes: of files that need not be read again.
  """
  benchmark = BENCHMARKS[name]
  return {
    "benchmark": name,
    "title": benchmark.title,
    "scorer": benchmark.source,
    "headline": benchmark.headline,
    "figures": scored.figures,
    "intervals": {
      figure: asdict(interval(items)) for figure, items in scored.items.items()
    },
    "notes": scored.notes,
    "predictions": _named_hashes([predictions], hashes),
    "references": _named_hashes(references, hashes),
    "items": {figure: asdict(items) for figure, items in scored.items.items()},
  }


def interval(items: ItemScores):
  """The mean of the items with its 95 % interval."""
  return mean_interval(
    items.scores, groups=items.groups, strata=items.strata or None
  )


def _named_hashes(
  paths: Sequence[pathlib.Path], known: Mapping[pathlib.Path, str]
) -> dict[str, str]:
  """BLAKE2b by name of the files, and of the files in the folders.

  A later file of the same name has its place added: "b.npz (2)".
  """
  files: list[pathlib.Path] = []
  for path in paths:
    if path.is_dir():
      files += sorted(one for one in path.iterdir() if one.is_file())
    else:
      files.append(path)
  found: dict[str, str] = {}
  for place, file in enumerate(files, 1):
    name = f"{file.name} ({place})" if file.name in found else file.name
    found[name] = known.get(file) or file_hash(file)
  return found
