"""Tasks on one's own sources: captions, answers, images and likelihoods."""

import dataclasses
import pathlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ddit_jax.data.example import BadRecord, Example, Source
from ddit_jax.data.held_out import Part
from ddit_jax.data.image import ImageConfig, ImageTransform
from ddit_jax.errors import InputError, suggest
from ddit_jax.evaluation import answer_forms
from ddit_jax.evaluation.retrieval import retrieval_recalls
from ddit_jax.evaluation.yes_no import LABELS, parse_yes_no
from ddit_jax.experiment.config import Config
from ddit_jax.experiment.data import open_sources, open_validation_sources
from ddit_jax.json_files import write_json
from ddit_jax.pipelines.evaluation_task import EvaluationTask, items_hash
from ddit_jax.protocols import layouts
from ddit_jax.protocols.item import Item, check_keys, chosen
from ddit_jax.protocols.protocol import Protocol, ScoredPart, hashed_files
from ddit_jax.scoring.scored import ItemScores, Scored

# A single annotator's answer is copied, as in the loaders of GQA.
_NUM_ANNOTATORS = 10
_FEATURES = "a network that you name beside the figure, a row each"


def is_own(task: str) -> bool:
  """Whether a task is "captions:NAME" and the like."""
  return ":" in task


def planned(config: Config, task: str) -> EvaluationTask:
  """The items of KIND:SOURCE.

  Raises:
    InputError: an unknown kind or source, or no record fits.
  """
  kind, _, name = task.partition(":")
  if kind not in _PROTOCOLS:
    raise InputError(f"unknown task {task!r}: {suggest(kind, _PROTOCOLS)}")
  source, notes = _records(config, name)
  protocol, wanted = _PROTOCOLS[kind]
  items, skipped = [], Counter()
  for number in range(len(source)):
    try:
      example = source[number]
    except BadRecord as error:
      skipped[error.reason] += 1
      continue
    if reason := _unfit(example, wanted):
      skipped[reason] += 1
    else:
      items.append(_item(example, number, wanted))
  if skipped:
    counts = ", ".join(f"{n} {reason}" for reason, n in skipped.items())
    notes.append(
      f"{skipped.total()} of {len(source)} records are left out: {counts}"
    )
  check_keys(items, f"{task} ({'; '.join(notes)})")
  some = chosen(items, config.benchmarks.num_units)
  files = config.benchmarks.paths(task, protocol)
  return EvaluationTask(
    name=task,
    protocol=protocol,
    files=files,
    hashes=hashed_files(files),
    items=some,
    # Each output of a retrieval is of all captions.
    items_hash=items_hash(some if kind == "retrieval" else items),
    is_subset=True,
    notes=tuple(notes),
    read=_reader(source),
    own_scores=_OWN_SCORES.get(kind),
  )


def _records(config: Config, name: str) -> tuple[Source, list[str]]:
  """The records of a source, and what to say of them."""
  data = config.data
  if name not in data.sources:
    raise InputError(
      f"data.sources has no {name!r}: {suggest(name, data.sources)}"
      if data.sources
      else "the config has no data.sources: give the config of your run"
    )
  # The others need not be there.
  data = dataclasses.replace(
    data,
    sources={name: data.sources[name]},
    validation_sources={
      key: spec for key, spec in data.validation_sources.items() if key == name
    },
  )
  if name in data.validation_sources:
    source = open_validation_sources(data)[name]
    return source, [f"{len(source)} records of data.validation_sources"]
  source = open_sources(data)[name]
  if config.benchmarks.records == "all":
    return source, [f"all {len(source)} records"]
  held_out = data.indices(source, len(source))
  if not len(held_out):
    raise InputError(
      f"{name} has {len(source)} records, and none is held out from training: "
      "set --config.benchmarks.records=all to evaluate on all of them"
    )
  part = Part(source, held_out, has_listed=True)
  return part, [f"{len(part)} of {len(source)} records, held out from training"]


def _unfit(example: Example, wanted: str) -> str:
  """Why a record does not suit a task; "" if it does."""
  if example.image is None:
    return "without image"
  if not any(text.strip() for text in example.texts):
    return "without text"
  if wanted == "question" and not example.prompt:
    return "without question"
  if wanted == "caption" and example.prompt:
    return "questions"
  return ""


def _item(example: Example, number: int, wanted: str) -> Item:
  texts = [text for text in example.texts if text.strip()]
  prompt = texts[0] if wanted == "image" else example.prompt
  return Item(
    key=str(number),
    text=prompt,
    draw=number,
    path=f"images/{number:06d}.png",
    facts={
      "id": number,
      "texts": texts,
      "expected": " / ".join(texts),
      "record": example.record_id,
    },
  )


def _reader(source: Source) -> Callable[[Item, int, str], np.ndarray]:
  def read(item: Item, side: int, crop: str) -> np.ndarray:
    example = source[item.facts["id"]]
    config = ImageConfig(image_size=side, crop=crop)
    try:
      return ImageTransform(config=config)(
        example.image,
        np.random.default_rng(0),
        record_id=example.record_id,
        may_flip=False,
      )
    except BadRecord as error:
      raise InputError(f"{error}: leave it out") from error

  return read


def _coco_references(
  files: Mapping[str, pathlib.Path],
  items: Sequence[Item],
  folder: pathlib.Path,
) -> dict[str, pathlib.Path]:
  """The captions of the records as COCO's annotations."""
  pairs = [
    (item.facts["id"], text) for item in items for text in item.facts["texts"]
  ]
  body = {
    "images": [
      {"id": item.facts["id"], "file_name": item.facts["record"]}
      for item in items
    ],
    "annotations": [
      {"id": number, "image_id": image, "caption": text}
      for number, (image, text) in enumerate(pairs)
    ],
  }
  path = write_json(folder / "references.json", body)
  return dict(files) | {"annotations": path}


def _vqa_references(
  files: Mapping[str, pathlib.Path],
  items: Sequence[Item],
  folder: pathlib.Path,
) -> dict[str, pathlib.Path]:
  """The answers of the records as VQA's annotations."""
  body = {"annotations": [_annotation(item) for item in items]}
  path = write_json(folder / "references.json", body)
  return dict(files) | {"annotations": path}


def _annotation(item: Item) -> dict[str, Any]:
  texts = item.facts["texts"]
  answers = texts * _NUM_ANNOTATORS if len(texts) == 1 else texts
  return {
    "question_id": item.facts["id"],
    "image_id": item.facts["id"],
    "answers": [
      {"answer": text, "answer_id": number}
      for number, text in enumerate(answers, 1)
    ],
  }


def _answer_scores(
  items: Sequence[Item], outputs: Mapping[str, str]
) -> dict[str, Scored]:
  """Exact match after VQA's normalisation, and the answers to yes/no."""
  exact, yes_no = {}, {}
  for item in items:
    given = outputs[item.key]
    texts = item.facts["texts"]
    exact[item.key] = float(
      answer_forms.vqa(given) in map(answer_forms.vqa, texts)
    )
    labels = {text.strip().lower() for text in texts}
    if len(labels) == 1 and labels <= set(LABELS):
      yes_no[item.key] = float(parse_yes_no(given) in labels)
  return {
    "own": _scored({"exact_match": exact, "yes_no_accuracy": yes_no}, scale=100)
  }


def _likelihood_scores(
  items: Sequence[Item], outputs: Mapping[str, Mapping[str, float]]
) -> dict[str, Scored]:
  """Means of the records' bounds, in nats."""
  del items
  names = next(iter(outputs.values()))
  columns = {
    name: {key: row[name] for key, row in outputs.items()} for name in names
  }
  return {"": _scored(columns, scale=1)}


def _retrieval_scores(
  items: Sequence[Item], outputs: Mapping[str, Sequence[float]]
) -> dict[str, Scored]:
  """Recall of images and captions among all of these records, in per cent."""
  nats = np.array([outputs[item.key] for item in items])
  recalls = retrieval_recalls(nats, range(len(items)))
  return {
    "": Scored(figures={name: 100 * share for name, share in recalls.items()})
  }


def _scored(
  columns: Mapping[str, Mapping[str, float]], *, scale: float
) -> Scored:
  """The mean of each column that has rows."""
  columns = {name: rows for name, rows in columns.items() if rows}
  return Scored(
    figures={
      name: scale * float(np.mean(list(rows.values())))
      for name, rows in columns.items()
    },
    items={
      name: ItemScores(
        ids=tuple(rows),
        groups=tuple(rows),
        scores=tuple(scale * value for value in rows.values()),
      )
      for name, rows in columns.items()
    },
  )


# Kind -> (protocol, what a record must be).
_PROTOCOLS: Mapping[str, tuple[Protocol, str]] = {
  "captions": (
    Protocol(
      kind="caption",
      files={},
      read=list,
      write=layouts.write_captions,
      parts={
        "": ScoredPart(scorer="coco_captions", references=("annotations",))
      },
      subset=_coco_references,
    ),
    "caption",
  ),
  "answers": (
    Protocol(
      kind="caption",
      files={},
      read=list,
      write=layouts.write_vqa,
      parts={"": ScoredPart(scorer="vqav2", references=("annotations",))},
      subset=_vqa_references,
    ),
    "question",
  ),
  "images": (
    Protocol(
      kind="image",
      files={},
      read=list,
      write=layouts.write_nothing,
      parts={
        "": ScoredPart(
          scorer="fid",
          references=("reference_features",),
          predictions="features",
          tool=_FEATURES,
        )
      },
    ),
    "image",
  ),
  "likelihoods": (
    Protocol(
      kind="likelihood",
      files={},
      read=list,
      write=layouts.write_nothing,
      parts={},
    ),
    "text",
  ),
  "retrieval": (
    Protocol(
      kind="retrieval",
      files={},
      read=list,
      write=layouts.write_nothing,
      parts={},
    ),
    "caption",
  ),
}
_OWN_SCORES = {
  "answers": _answer_scores,
  "likelihoods": _likelihood_scores,
  "retrieval": _retrieval_scores,
}
