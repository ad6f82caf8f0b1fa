"""`ddit evaluate`: three tasks, their scores, and one report."""

import contextlib
import dataclasses
import functools
import pathlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ddit_jax.checkpoint.manifest import raising_on_all
from ddit_jax.checkpoint.store import checkpoints_in
from ddit_jax.digits import (
  benchmark_scores,
  benchmark_sets,
  caption_judge,
  datasets,
  evaluation_sets,
  grammar,
  image_scores,
  prompts,
  questions,
  tables,
  text_scores,
)
from ddit_jax.digits.evaluation_sets import CaptionItem, QuestionItem
from ddit_jax.digits.metrics import Metrics
from ddit_jax.digits.world import WORLDS
from ddit_jax.errors import InputError
from ddit_jax.experiment.config import Config
from ddit_jax.experiment.run_report import train_seconds
from ddit_jax.experiment.workdir import output_folder
from ddit_jax.files import replace_file
from ddit_jax.json_files import write_json, write_lines
from ddit_jax.monitor.metric_writer import read_scalars
from ddit_jax.pipelines.captioner import CaptionerPipeline
from ddit_jax.pipelines.load import load, refuse_sd3, stored_config
from ddit_jax.pipelines.pipeline import Pipeline
from ddit_jax.report.page import MASKED_SIGN, Report, write_report

# The first six that were measured head the report.
_HEADLINE = (
  "generation/overall",
  "generation/digit_and_color_heldout_pairs",
  "caption/digit_and_color",
  "vqa/accuracy",
  "vqa/what_number",
  "pope/accuracy",
  "vqa/what_color",
)
_NUM_SHOWN_IMAGES = 40
_NUM_SHOWN_TEXTS = 12
_NUM_UNMASKING_ROWS = 8
# Training records from which the most frequent answers are computed.
_NUM_PRIOR_RECORDS = 4000


def evaluate(
  config: Config,
  checkpoint: str,
  *,
  out: str,
  weights: str,
  step: int | None,
) -> int:
  """Evaluates a checkpoint and writes metrics, samples and report; returns 0.

  With several processes all sample and the first one writes.

  Raises:
    InputError: the checkpoint does not exist or is of another world, or the
      folder cannot be written.
  """
  is_first = jax.process_index() == 0
  writing = output_folder(out) if is_first else contextlib.nullcontext()
  with writing as folder:
    evaluator, scalars = _opened(config, checkpoint, weights, step)
    evaluator.run()
    with raising_on_all("writing the results"):
      if is_first:
        evaluator.write(folder, scalars, weights)
        print(_table(evaluator.metrics))
        print(f"metrics: {folder / 'metrics.json'}")
        print(f"report:  {folder / 'report.html'}")
  return 0


def _opened(
  config: Config, checkpoint: str, weights: str, step: int | None
) -> tuple["_Evaluator", list[dict]]:
  """The evaluator of a checkpoint, and what its training logged."""
  refuse_sd3(checkpoint, "ddit evaluate")
  _check_data(config, checkpoint, step)
  pipeline = load(checkpoint, weights=weights, step=step)
  path = checkpoints_in(checkpoint).parent / "scalars.jsonl"
  scalars = read_scalars(path) if path.is_file() else []
  evaluator = _Evaluator(config, pipeline)
  evaluator.seconds["train"] = train_seconds(scalars)
  return evaluator, scalars


def _check_data(config: Config, checkpoint: str, step: int | None) -> None:
  """Raises InputError unless the checkpoint is of the config's digit world."""
  only = (
    "without --tasks ddit evaluate is an exam of the digit world: for other "
    "data, give --tasks, e.g. captions:NAME"
  )
  if config.data.sources:
    names = ", ".join(config.data.sources)
    raise InputError(f"the config has data.sources ({names}), but {only}")
  trained = stored_config(checkpoint, step)
  if trained is None:
    raise InputError(f"{checkpoint} holds converted weights, but {only}")
  if trained.data.sources:
    names = ", ".join(trained.data.sources)
    raise InputError(
      f"{checkpoint} was trained on data.sources ({names}), but {only}"
    )
  if trained.data.world != config.data.world:
    raise InputError(
      f"the checkpoint was trained on data.world {trained.data.world!r}, the "
      f"config has {config.data.world!r}: give the config it was trained with"
    )


class _Evaluator:
  """Samples and scores of one checkpoint, collected task by task.

  Attributes:
    metrics: by name, see `digits.metrics.metric_record`.
    seconds: how long each task took.
    generated: a record per generated image, see `Report`.
    captions: a record per captioned image, for captions.jsonl.
    answers: a record per question, for answers.jsonl.
    answered: the images the report shows with captions and answers.
    unmasking: how one caption appears, see `Report`.
  """

  def __init__(self, config: Config, pipeline: Pipeline | CaptionerPipeline):
    self._config, self._plan = config, config.evaluate
    self._pipeline = pipeline
    self._world = WORLDS[config.data.world]
    self.metrics: Metrics = {}
    self.seconds: dict[str, float] = {}
    self.generated: list[dict] = []
    self.captions: list[dict] = []
    self.answers: list[dict] = []
    self.answered: list[dict] = []
    self.unmasking: dict[str, Any] = {}

  def run(self) -> None:
    """All tasks; a captioner has one."""
    if self._is_captioner:
      with self._timed("captions"):
        self._caption()
      return
    with self._timed("generation"):
      self._generate()
    with self._timed("captions"):
      self._caption()
    with self._timed("answers"):
      self._answer()
    if self._plan.num_pope_images:
      with self._timed("pope"):
        self._answer_pope()
    if self._plan.is_full:
      with self._timed("tables"):
        self._fill_tables()

  def write(
    self, folder: pathlib.Path, scalars: list[dict], weights: str
  ) -> None:
    """Writes metrics.json, the samples and report.html.

    Args:
      folder: output folder.
      scalars: logged in training.
      weights: which weights were evaluated, "ema" or "params".
    """
    trained = self._pipeline.config
    record = {
      "metrics": self.metrics,
      "seconds": {k: round(v, 2) for k, v in self.seconds.items()},
      "checkpoint": {
        "step": self._pipeline.step,
        "weights": weights,
        "seed": trained.seed,
      },
      "writers": self._plan.split,
      "config": dataclasses.asdict(self._config),
      "jax": jax.__version__,
    }
    write_json(folder / "metrics.json", record, indent=2)
    write_lines(folder / "generation.jsonl", self._write_images(folder))
    write_lines(folder / "captions.jsonl", self.captions)
    write_lines(folder / "answers.jsonl", self.answers)
    if self._plan.is_full and not self._is_captioner:
      text = tables.as_markdown(self.metrics)
      replace_file(folder / "tables.md", text.encode())
    report = Report(
      title=f"{self._what} on {self._config.name}",
      summary=(
        f"{self._pipeline.model.network.num_parameters():,} parameters, "
        f"{self._pipeline.step:,} steps, seed {trained.seed}. Real handwriting "
        f"of unseen writers ({self._plan.split} split); composition and text "
        "are templated."
      ),
      config=dataclasses.asdict(trained),
      scalars=scalars,
      generated=self.generated[:_NUM_SHOWN_IMAGES],
      answered=self.answered,
      unmasking=self.unmasking,
      metrics=self.metrics,
      headline=[name for name in _HEADLINE if name in self.metrics][:6],
      seconds=self.seconds,
    )
    write_report(folder / "report.html", report)

  def _write_images(self, folder: pathlib.Path) -> list[dict]:
    """Writes generated/*.png; the records with file names instead of pixels."""
    (folder / "generated").mkdir(exist_ok=True)
    rows = []
    for number, record in enumerate(self.generated):
      name = f"generated/{number:05d}.png"
      Image.fromarray(record["image"]).save(folder / name)
      rows.append(record | {"image": name})
    return rows

  def _generate(self) -> None:
    asked = [
      prompt
      for prompt in prompts.prompts(self._world)
      for _ in range(self._plan.images_per_prompt)
    ]
    images = self._pipeline.text_to_image(
      [prompt.text for prompt in asked],
      seed=self._plan.seed,
      sample=self._config.sample,
    ).images
    metrics, judgements = image_scores.generation_metrics(
      self._world, asked, images, seed=self._plan.seed
    )
    self.metrics |= metrics
    records = [
      {
        "image": image,
        "prompt": prompt.text,
        "is_correct": judgement.is_correct,
        "verdict": "; ".join(judgement.reasons) or "as asked",
      }
      for prompt, image, judgement in zip(
        asked, images, judgements, strict=True
      )
    ]
    # Shuffled, because the report shows the first of them.
    order = np.random.default_rng(self._plan.seed).permutation(len(records))
    self.generated = [records[i] for i in order]

  def _captioned(self, split: str) -> tuple[list[CaptionItem], list[str]]:
    """Scenes in the handwriting of a split, and captions of them."""
    plan = self._plan
    items = evaluation_sets.caption_items(
      self._world, split, plan.num_captions, plan.seed
    )
    captions = self._pipeline.caption(
      np.stack([item.image for item in items]),
      seed=plan.seed,
      sample=self._config.sample,
    )
    return items, captions

  def _caption(self) -> None:
    items, captions = self._captioned(self._plan.split)
    seed = self._plan.seed
    self.metrics |= text_scores.caption_metrics(items, captions, seed=seed)
    self.metrics |= benchmark_scores.cider_metrics(items, captions, seed=seed)
    self.metrics |= text_scores.judged_metrics(
      items, captions, self._world, seed=seed
    )
    self.captions = [
      {"caption": caption, "reference": _reference(item)}
      for item, caption in zip(items, captions, strict=True)
    ]
    for item, caption in zip(items[:_NUM_SHOWN_TEXTS], captions, strict=False):
      self.answered.append(self._answered(item, caption))
    if not self._is_captioner:
      self.unmasking = self._unmask(items[0].image)

  def _answered(self, item: CaptionItem, caption: str) -> dict:
    rng = np.random.default_rng(self._plan.seed)
    asked = questions.questions(item.scene, self._world, rng)
    if self._is_captioner:
      answers = [caption_judge.answer(one.text, caption) for one in asked]
    else:
      answers = self._answers_to([item.image] * len(asked), asked)
    return {
      "image": item.image,
      "caption": caption,
      "reference": _reference(item),
      "answers": [
        (question.text, answer, question.answer)
        for question, answer in zip(asked, answers, strict=True)
      ],
    }

  def _unmask(self, image: UInt8[np.ndarray, "height width 3"]) -> dict:
    """One caption at several steps of the text sampler (paper figure 6)."""
    length = self._pipeline.config.data.image_to_text.text_length
    tokenizer = self._pipeline.tokenizer
    trace = self._pipeline.infill(
      image[None],
      np.zeros((1, length), np.int32),
      np.zeros((1, length), bool),
      seed=self._plan.seed,
      sample=self._config.sample,
      keeps_trace=True,
    ).trace
    start = np.full_like(trace[0, :1], tokenizer.mask_id)
    states = np.concatenate([start, trace[0]])
    last = len(states) - 1
    rows = np.linspace(0, last, _NUM_UNMASKING_ROWS).round().astype(int)
    rows = np.unique(rows)
    return {
      "image": image,
      "prompt": "caption",
      "times": [1 - row / last for row in rows],
      "texts": [
        [
          MASKED_SIGN if token == tokenizer.mask_id else text
          for token, text in zip(
            states[row], tokenizer.tokens(states[row]), strict=True
          )
        ]
        for row in rows
      ],
    }

  def _answer(self) -> None:
    plan = self._plan
    items = evaluation_sets.question_items(
      self._world, plan.split, plan.questions_per_kind, plan.seed
    )
    answers = self._answers_to_items(items)
    self.metrics |= text_scores.answer_metrics(
      items, answers, prior_answers=self._prior_answers
    )
    self.answers = [
      {
        "kind": item.question.kind,
        "question": item.question.text,
        "answer": answer,
        "expected": item.question.answer,
      }
      for item, answer in zip(items, answers, strict=True)
    ]

  @functools.cached_property
  def _prior_answers(self) -> dict[str, str]:
    weights = dict.fromkeys(questions.kinds(self._world), 1.0)
    pool = datasets.image_to_text_pool(
      self._world, "train", _NUM_PRIOR_RECORDS, self._config.seed, weights
    )
    return text_scores.most_frequent_answers(pool)

  def _fill_tables(self) -> None:
    """MME, GQA, and captions and answers in the handwriting of training."""
    plan = self._plan
    some = self._world, plan.split, plan.questions_per_kind, plan.seed
    of_subtask = benchmark_sets.mme_items(*some)
    said = {k: self._answers_to_items(v) for k, v in of_subtask.items()}
    self.metrics |= benchmark_scores.mme_metrics(of_subtask, said)
    related = benchmark_sets.gqa_items(*some)
    self.metrics |= benchmark_scores.gqa_metrics(
      related,
      self._answers_to_items(related),
      prior_answers=self._prior_answers,
    )
    items, captions = self._captioned("train")
    found = text_scores.caption_metrics(items, captions, seed=plan.seed)
    asked = evaluation_sets.question_items(
      self._world, "train", plan.questions_per_kind, plan.seed
    )
    found |= text_scores.answer_metrics(
      asked,
      self._answers_to_items(asked),
      prior_answers=self._prior_answers,
    )
    self.metrics |= {
      f"{name}{tables.TRAIN_WRITERS}": found[name] for name in tables.CELLS
    }

  def _answer_pope(self) -> None:
    plan = self._plan
    sets = evaluation_sets.pope_items(
      self._world, plan.split, plan.num_pope_images, plan.seed
    )
    answers = {k: self._answers_to_items(items) for k, items in sets.items()}
    self.metrics |= text_scores.pope_metrics(sets, answers)

  def _answers_to_items(self, items: Sequence[QuestionItem]) -> list[str]:
    return self._answers_to(
      [item.image for item in items], [item.question for item in items]
    )

  def _answers_to(
    self, images: Sequence[np.ndarray], asked: Sequence[questions.Question]
  ) -> list[str]:
    return self._pipeline.answer(
      np.stack(images),
      [question.text for question in asked],
      seed=self._plan.seed,
      sample=self._config.sample,
    )

  @property
  def _what(self) -> str:
    return "Captioner" if self._is_captioner else "D-DiT"

  @property
  def _is_captioner(self) -> bool:
    return isinstance(self._pipeline, CaptionerPipeline)

  @contextlib.contextmanager
  def _timed(self, task: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    self.seconds[task] = time.monotonic() - start


def _reference(item: CaptionItem) -> str:
  return grammar.references(item.scene, seed=0, count=1)[0]


def _table(metrics: Metrics) -> str:
  """All metrics as text."""
  width = max(map(len, metrics))
  lines = [f"{'':<{width}}  value  [interval]      oracle  prior  n"]
  for name, row in metrics.items():
    low, high = row["interval"]
    lines.append(
      f"{name:<{width}}  {row['value']:.3f}  [{low:.3f}, {high:.3f}]  "
      f"{row['oracle']:.3f}   {row['prior_baseline']:.3f}  {row['n']}"
    )
  return "\n".join(lines)
