"""What `ddit evaluate` does: three tasks, their scores, one report."""

import dataclasses
import json
import pathlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from PIL import Image

from ddit_jax.digits import (
  datasets,
  evaluation_sets,
  grammar,
  image_scores,
  prompts,
  questions,
  text_scores,
)
from ddit_jax.errors import InputError
from ddit_jax.experiment.config import Config
from ddit_jax.experiment.workdir import output_folder
from ddit_jax.monitor.metric_writer import read_scalars
from ddit_jax.pipelines.load import load, refuse_sd3
from ddit_jax.pipelines.pipeline import Pipeline
from ddit_jax.report.page import write_report
from ddit_jax.report.sheets import HIDDEN_SIGN

Metrics = dict[str, dict[str, Any]]

NUM_SHOWN_DRAWINGS = 40
NUM_SHOWN_READINGS = 12
NUM_PRIOR_RECORDS = 4000


def evaluate(
  settings: Config,
  checkpoint: str,
  *,
  out: str,
  weights: str,
  step: int | None,
) -> int:
  """Examines a checkpoint and writes metrics, samples and report; code 0.

  Raises:
    InputError: the checkpoint does not exist or is of another world, or the
      folder cannot be written.
  """
  folder = output_folder(out)
  refuse_sd3(checkpoint, "ddit evaluate")
  pipeline = load(checkpoint, weights=weights, step=step)
  trained_on = pipeline.settings.data.world
  if trained_on != settings.data.world:
    raise InputError(
      f"the checkpoint was trained on data.world {trained_on!r}, the config "
      f"has {settings.data.world!r}: give the config it was trained with"
    )
  exam = Exam(settings, pipeline, folder)
  scalars = _training_scalars(checkpoint)
  exam.run()
  exam.write(scalars, weights)
  return 0


class Exam:
  """Samples and scores of one checkpoint, collected task by task."""

  def __init__(
    self, settings: Config, pipeline: Pipeline, folder: pathlib.Path
  ):
    self.settings, self.pipeline, self.folder = settings, pipeline, folder
    self.world = WORLDS[settings.data.world]
    self.metrics: Metrics = {}
    self.seconds: dict[str, float] = {}
    self.drawings: list[dict] = []
    self.readings: list[dict] = []
    self.unmasking: dict = {}

  def run(self) -> None:
    """All three tasks."""
    with self._timed("generation"):
      self._draw()
    with self._timed("captions"):
      self._describe()
    with self._timed("answers"):
      self._answer()
    if self.settings.evaluate.num_pope_images:
      with self._timed("pope"):
        self._answer_pope()

  def write(self, scalars: list[dict], weights: str) -> None:
    """metrics.json, the samples' files and report.html."""
    self.seconds = {"train": _train_seconds(scalars), **self.seconds}
    record = {
      "metrics": self.metrics,
      "seconds": {k: round(v, 2) for k, v in self.seconds.items()},
      "checkpoint": {
        "step": self.pipeline.step,
        "weights": weights,
        "seed": self.pipeline.settings.seed,
      },
      "writers": self.settings.evaluate.split,
      "config": dataclasses.asdict(self.settings),
      "jax": jax.__version__,
    }
    _write_json(self.folder / "metrics.json", record)
    self._write_samples()
    report = self.folder / "report.html"
    write_report(
      report,
      title=f"D-DiT on {self.settings.name}",
      summary=self._summary(),
      config=dataclasses.asdict(self.pipeline.settings),
      scalars=scalars,
      drawings=self.drawings[:NUM_SHOWN_DRAWINGS],
      readings=self.readings[:NUM_SHOWN_READINGS],
      unmasking=self.unmasking,
      metrics=self.metrics,
      seconds=self.seconds,
    )
    print(_table(self.metrics))
    print(f"metrics: {self.folder / 'metrics.json'}")
    print(f"report:  {report}")

  def _draw(self) -> None:
    plan = self.settings.evaluate
    asked = [
      prompt
      for prompt in prompts.prompts(self.world)
      for _ in range(plan.images_per_prompt)
    ]
    images = self.pipeline.text_to_image(
      [prompt.text for prompt in asked],
      seed=plan.seed,
      sample=self.settings.sample,
    )
    metrics, verdicts = image_scores.generation_metrics(
      self.world, asked, images, seed=plan.seed
    )
    self.metrics |= metrics
    self.drawings = [
      {
        "image": image,
        "prompt": prompt.text,
        "is_correct": verdict.is_correct,
        "verdict": "; ".join(verdict.reasons) or "as asked",
      }
      for prompt, image, verdict in zip(asked, images, verdicts, strict=True)
    ]
    # The sheet shows every kind of prompt, not the first ones of the list.
    order = np.random.default_rng(plan.seed).permutation(len(self.drawings))
    self.drawings = [self.drawings[i] for i in order]

  def _describe(self) -> None:
    plan = self.settings.evaluate
    items = evaluation_sets.caption_items(
      self.world, plan.split, plan.num_captions, plan.seed
    )
    images = np.stack([item.image for item in items])
    captions = self.pipeline.caption(
      images, seed=plan.seed, sample=self.settings.sample
    )
    self.metrics |= text_scores.caption_metrics(items, captions, seed=plan.seed)
    shown = slice(None, NUM_SHOWN_READINGS)
    self.readings = [
      self._reading(item, caption)
      for item, caption in zip(items[shown], captions[shown], strict=True)
    ]
    self._captions = [
      {"caption": caption, "reference": _reference(item)}
      for item, caption in zip(items, captions, strict=True)
    ]
    self.unmasking = self._unmask(images[0])

  def _reading(self, item, caption: str) -> dict:
    rng = np.random.default_rng(self.settings.evaluate.seed)
    asked = questions.questions(item.scene, self.world, rng)
    given = self.pipeline.answer(
      np.stack([item.image] * len(asked)),
      [questions.prompt_text(question) for question in asked],
      seed=self.settings.evaluate.seed,
      sample=self.settings.sample,
    )
    return {
      "image": item.image,
      "caption": caption,
      "reference": _reference(item),
      "answers": [
        (question.text, answer, question.answer)
        for question, answer in zip(asked, given, strict=True)
      ],
    }

  def _unmask(self, image: np.ndarray) -> dict:
    """One caption at every step of the text sampler (paper figure 6)."""
    length = self.pipeline.settings.data.image_to_text.text_length
    tokenizer = self.pipeline.tokenizer
    _, trace = self.pipeline.infill(
      image[None],
      np.zeros((1, length), np.int32),
      np.zeros((1, length), bool),
      seed=self.settings.evaluate.seed,
      sample=self.settings.sample,
    )
    states = trace[0]
    start = np.full_like(states[:1], tokenizer.mask_id)
    states = np.concatenate([start, states])
    shown = np.unique(np.linspace(0, len(states) - 1, 8).round().astype(int))
    return {
      "image": image,
      "prompt": "caption",
      "times": [1 - i / (len(states) - 1) for i in shown],
      "texts": [
        [
          HIDDEN_SIGN if token == tokenizer.mask_id else text
          for token, text in zip(
            states[i], tokenizer.tokens(states[i]), strict=True
          )
        ]
        for i in shown
      ],
    }

  def _answer(self) -> None:
    plan = self.settings.evaluate
    items = evaluation_sets.question_items(
      self.world, plan.split, plan.questions_per_kind, plan.seed
    )
    answers = self._answers_to(items)
    self.metrics |= text_scores.answer_metrics(
      items, answers, prior_answers=self._prior_answers()
    )
    self._answers = [
      {
        "kind": item.question.kind,
        "question": item.question.text,
        "answer": answer,
        "expected": item.question.answer,
      }
      for item, answer in zip(items, answers, strict=True)
    ]

  def _answer_pope(self) -> None:
    plan = self.settings.evaluate
    splits = evaluation_sets.pope_items(
      self.world, plan.split, plan.num_pope_images, plan.seed
    )
    answers = {name: self._answers_to(items) for name, items in splits.items()}
    self.metrics |= text_scores.pope_metrics(splits, answers)

  def _answers_to(self, items) -> list[str]:
    plan = self.settings.evaluate
    return self.pipeline.answer(
      np.stack([item.image for item in items]),
      [questions.prompt_text(item.question) for item in items],
      seed=plan.seed,
      sample=self.settings.sample,
    )

  def _prior_answers(self) -> dict[str, str]:
    """The most frequent training answer of each kind of question."""
    weights = dict.fromkeys(questions.kinds(self.world), 1.0)
    pool = datasets.image_to_text_pool(
      self.world, "train", NUM_PRIOR_RECORDS, self.settings.seed, weights
    )
    return text_scores.most_frequent_answers(pool)

  def _write_samples(self) -> None:
    images = self.folder / "drawings"
    images.mkdir(exist_ok=True)
    rows = []
    for number, drawing in enumerate(self.drawings):
      name = f"{number:05d}.png"
      Image.fromarray(drawing["image"]).save(images / name)
      row = {k: v for k, v in drawing.items() if k != "image"}
      rows.append({"image": f"drawings/{name}", **row})
    _write_lines(self.folder / "generation.jsonl", rows)
    _write_lines(self.folder / "captions.jsonl", self._captions)
    _write_lines(self.folder / "answers.jsonl", self._answers)

  def _summary(self) -> str:
    settings = self.pipeline.settings
    return (
      f"{self.pipeline.model.network.num_parameters():,} parameters, "
      f"{self.pipeline.step:,} steps, seed {settings.seed}. Real handwriting "
      f"of unseen writers ({self.settings.evaluate.split} split); composition "
      "and text are templated."
    )

  @contextmanager
  def _timed(self, phase: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    self.seconds[phase] = time.monotonic() - start


def _reference(item: evaluation_sets.CaptionItem) -> str:
  return grammar.references(item.scene, seed=0, count=1)[0]


def _training_scalars(checkpoint: str) -> list[dict]:
  path = checkpoints_in(checkpoint).parent / "scalars.jsonl"
  return read_scalars(path) if path.is_file() else []


def _train_seconds(scalars: list[dict]) -> float:
  """Time in the training loop, from the logged speeds; pauses not counted."""
  seconds, last = 0.0, 0
  for row in scalars:
    if speed := row.get("speed/steps_per_second"):
      seconds += (row["step"] - last) / speed
      last = row["step"]
  return seconds


def _write_json(path: pathlib.Path, record: dict) -> None:
  path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _write_lines(path: pathlib.Path, rows: list[dict]) -> None:
  text = "".join(json.dumps(row) + "\n" for row in rows)
  path.write_text(text, encoding="utf-8")


def _table(metrics: Metrics) -> str:
  """All metrics as text: value, interval, oracle, prior baseline, n."""
  width = max(map(len, metrics))
  lines = [f"{'':<{width}}  value  [interval]      oracle  prior     n"]
  for name, row in metrics.items():
    low, high = row["interval"]
    lines.append(
      f"{name:<{width}}  {row['value']:.3f}  [{low:.3f}, {high:.3f}]  "
      f"{_cell(row['oracle'])}   {_cell(row['prior_baseline'])}  {row['n']}"
    )
  return "\n".join(lines)


def _cell(value: float | None) -> str:
  return f"{value:.3f}" if value is not None else "  -  "
