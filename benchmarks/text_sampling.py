"""Accuracy against network calls, and speed, of the text sampler's orders.

  python benchmarks/text_sampling.py curve --checkpoint=runs/digits
  PYTHONPATH=tools python benchmarks/text_sampling.py speed \\
    --checkpoint=runs/digits

The checkpoint is one of `configs/digits.py`; images have unseen handwriting.

`curve` captions digits and answers questions about them with each order at
several settings. For each it gives the accuracy with a 95 % bootstrap interval,
the network calls of a text, and the agreement: the share of texts that are, in
all tokens, those of a reference. The reference of a setting that takes the most
likely tokens is one token a call, the most probable first; that of
drafts is the preset `caption`, whose tokens they must give.

`speed` measures texts a second of the release's algorithm (`release_text`: one
text at a time, fixed steps, compiled here) and of ours in one run, sides
alternating, on the same weights and texts. The digit network embeds its own
tokens, so a T5 of `--t5_depth` and `--t5_width` with random weights runs beside
it at each call. Its features change no text.

Prints one JSON object, and its rows to stderr as they are measured.
"""

import argparse
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from ddit_jax.data.text import answer_text
from ddit_jax.data.tokenizers import Tokenizer
from ddit_jax.digits import evaluation_sets, grammar
from ddit_jax.digits.world import WORLDS
from ddit_jax.evaluation.bootstrap import mean_interval
from ddit_jax.experiment.config import SampleConfig
from ddit_jax.pipelines.load import load
from ddit_jax.pipelines.mesh_text_sampler import MeshTextSampler
from ddit_jax.pipelines.pipeline import Pipeline
from ddit_jax.sampling.text_options import TextSampling
from ddit_jax.sampling.text_sampler import Texts
from ddit_jax.sharding.mesh import MeshConfig

SEED = 0
GREEDY = {"temperature": 0.0}
ONE_A_CALL = {"order": "confidence", "tokens_per_step": 1, **GREEDY}
CAPTION = {"preset": "caption"}
FAST = {"preset": "fast"}
# Network calls from one reading of the image to the next.
INTERVALS = (2, 4, 16)
STEPS_64 = {"order": "ancestral", "num_steps": 64}
# The paper's steps (section 4).
STEPS = {"answer": 16, "caption": 64}
# Texts of one timed round.
TIMED = 32


def curve_settings() -> list[dict[str, Any]]:
  """The settings of the curve; references come before what needs them."""
  counts = [("confidence", n) for n in (1, 2, 4)]
  counts += [(order, n) for order in ("margin", "entropy") for n in (2, 4)]
  sampled = ({"order": "ancestral", "num_steps": n} for n in (1, 2, 4, 16))
  return [
    ONE_A_CALL,
    CAPTION,
    {"preset": "exact"},
    *(STEPS_64 | {"num_drafts": n} for n in (2, 8)),
    *sampled,
    {"order": "first_hitting"},
    STEPS_64 | {"temperature": 0.5},
    STEPS_64 | {"top_p": 0.9},
    {"order": "remasking", "num_steps": 16},
    {"order": "first_hitting", **GREEDY},
    *({"order": order, "num_steps": n, **GREEDY} for order, n in counts),
    {"order": "confidence", "num_steps": 4, "choice_temperature": 4.5},
    {"order": "confidence", "tokens_per_step": 2, "block_length": 4, **GREEDY},
    *(FAST, {"preset": "turbo"}),
    *(
      settings | {"image_refresh_interval": n}
      for settings in (ONE_A_CALL, FAST)
      for n in INTERVALS
    ),
    *(
      {"order": "threshold", "threshold": p, **GREEDY} for p in (0.3, 0.7, 0.99)
    ),
    *(
      {"order": "entropy_bound", "max_entropy": x, **GREEDY}
      for x in (0.01, 0.1, 1.0)
    ),
  ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
  """Texts to fill in, and which results are right."""

  images: UInt8[np.ndarray, "texts height width 3"]
  tokens: Int[np.ndarray, "texts length"]
  prompt_mask: Bool[np.ndarray, "texts length"]
  is_right: tuple[Callable[[str], bool], ...]

  def first(self, count: int) -> "Task":
    """So many of the texts."""
    return Task(**{name: part[:count] for name, part in vars(self).items()})

  def hits(
    self, pipeline: Pipeline, tokens: Int[np.ndarray, "texts length"]
  ) -> Float[np.ndarray, " texts"]:
    """1 for each text that is right, else 0."""
    rows = zip(tokens, self.prompt_mask, self.is_right, strict=True)
    return np.array(
      [
        is_right(answer_text(pipeline.tokenizer, row, prompt_mask))
        for row, prompt_mask, is_right in rows
      ],
      float,
    )


def make_tasks(pipeline: Pipeline, count: int) -> dict[str, Task]:
  """Captions, and as many questions of all kinds."""
  world = WORLDS[pipeline.config.data.world]
  scenes = evaluation_sets.caption_items(world, "test", count, SEED)
  asked = evaluation_sets.question_items(world, "test", count, SEED)
  order = np.random.default_rng(SEED).permutation(len(asked))[:count]
  asked = [asked[i] for i in order]
  prompts = pipeline.prompts([item.question.text for item in asked])
  facts = [_states(grammar.scene_facts(item.scene)) for item in scenes]
  return {
    "answer": _task(
      pipeline, asked, prompts, [i.question.answer.__eq__ for i in asked]
    ),
    "caption": _task(pipeline, scenes, [""] * len(scenes), facts),
  }


def _task(pipeline: Pipeline, items, prompts, is_right) -> Task:
  tokens, masks = zip(*map(pipeline.template, prompts), strict=True)
  return Task(
    images=np.stack([item.image for item in items]),
    tokens=np.stack(tokens),
    prompt_mask=np.stack(masks),
    is_right=tuple(is_right),
  )


def _states(facts) -> Callable[[str], bool]:
  return lambda text: grammar.caption_facts(text) == facts


@dataclasses.dataclass(frozen=True)
class Ours:
  """Our sampler of one model: a pipeline's own, or that with T5."""

  sampler: MeshTextSampler
  mask_id: int
  end_id: int

  @classmethod
  def of(cls, model: Any, variables: Any, tokenizer: Tokenizer) -> "Ours":
    mesh = MeshConfig().make(jax.devices()[:1])
    sampler = MeshTextSampler(model, variables, mesh)
    return cls(sampler, tokenizer.mask_id, tokenizer.end_id)

  def texts(
    self, task: Task, settings: Mapping[str, Any], batch_size: int
  ) -> Texts:
    """Fills in the texts of a task."""
    return self.sampler.fill(
      task.images,
      task.tokens,
      task.prompt_mask,
      mask_id=self.mask_id,
      end_id=self.end_id,
      keeps_trace=False,
      indices=np.arange(len(task.images), dtype=np.uint32),
      seed=SEED,
      config=SampleConfig(text=TextSampling(**settings), batch_size=batch_size),
    )


def scored(
  pipeline: Pipeline, task: Task, texts: Texts, interval: int = 1
) -> dict[str, Any]:
  """Accuracy with its interval, and calls of a text.

  Every so many calls, `interval`, read the image.
  """
  estimate = mean_interval(task.hits(pipeline, texts.tokens), seed=SEED)
  return {
    "calls": float(np.mean(texts.calls)),
    "calls_with_image": float(np.mean(-(-texts.calls // interval))),
    "accuracy": estimate.value,
    "interval": [estimate.low, estimate.high],
  }


def curve(pipeline: Pipeline, options: argparse.Namespace) -> dict[str, Any]:
  """Rows of all settings, by task."""
  ours = Ours.of(pipeline.model, pipeline.variables, pipeline.tokenizer)
  tasks, tokens = make_tasks(pipeline, options.count), {}
  rows = {name: [] for name in tasks}
  # Both tasks have the same shapes: each setting compiles once.
  wanted = [
    settings
    for settings in curve_settings()
    if options.only in str(settings) or settings in (ONE_A_CALL, CAPTION)
  ]
  for settings in wanted:
    interval = TextSampling(**settings).image_refresh_interval
    for name, task in tasks.items():
      texts = ours.texts(task, settings, options.count)
      tokens[name, str(settings)] = texts.tokens
      found = scored(pipeline, task, texts, interval)
      row = {"settings": settings, **found}
      reference = tokens.get((name, str(_reference(settings))))
      if reference is not None:
        row["agreement"] = float((texts.tokens == reference).all(1).mean())
      rows[name].append(row)
      print(name, _line(row), file=sys.stderr, flush=True)
  return rows


def _reference(settings: Mapping[str, Any]) -> Mapping[str, Any] | None:
  """What the texts of a setting should be; None if it draws by chance."""
  text = TextSampling(**settings)
  if text.num_drafts > 1:
    return CAPTION
  return ONE_A_CALL if text.temperature == 0 else None


def _line(row: Mapping[str, Any]) -> str:
  settings = ", ".join(f"{k}={v}" for k, v in row["settings"].items())
  low, high = row["interval"]
  agreement = f"{100 * row['agreement']:.1f}" if "agreement" in row else ""
  return (
    f"| {settings} | {row['calls']:.2f} ({row['calls_with_image']:.2f} with "
    f"the image) | {100 * row['accuracy']:.1f} "
    f"({100 * low:.1f} to {100 * high:.1f}) | {agreement} |"
  )


def speed(pipeline: Pipeline, options: argparse.Namespace) -> dict[str, Any]:
  """Texts a second of each side and their accuracy, by task."""
  from release_text import Release, WithT5

  model = WithT5(pipeline, depth=options.t5_depth, width=options.t5_width)
  ours = Ours.of(model, model.variables, pipeline.tokenizer)
  found = {"flops_a_call": _flops(model, pipeline)}
  for name, task in make_tasks(pipeline, options.count).items():
    release = Release(model, ours.mask_id, num_steps=STEPS[name])
    sides = {
      "release, batch 1": lambda some, r=release: r.texts(
        some.images, some.tokens, some.prompt_mask
      )
    }
    for preset in ("exact", "fast", "turbo"):
      for size in (1, TIMED):
        sides[f"{preset}, batch {size}"] = lambda some, p=preset, b=size: (
          ours.texts(some, {"preset": p}, b)
        )
    found[name] = _alternated(pipeline, task, sides, options.rounds)
  return found


def _flops(model: Any, pipeline: Pipeline) -> dict[str, float]:
  """Of one text, by XLA's count."""
  side, length = pipeline.input_size, pipeline.longest_text
  image = np.zeros((1, side, side, 3), np.uint8)
  tokens = np.zeros((1, length), np.int32)
  latents = model.encode(model.variables, image)

  def network(variables, tokens):
    return pipeline.model.predict(
      variables, latents, tokens, np.zeros(1, np.float32)
    ).logits

  def text_encoder(variables, tokens):
    return model.condition(variables, tokens)[1]

  return {
    function.__name__: jax.jit(function)
    .lower(model.variables, tokens)
    .compile()
    .cost_analysis()["flops"]
    for function in (network, text_encoder)
  }


def _alternated(
  pipeline: Pipeline, task: Task, sides: Mapping[str, Callable], rounds: int
) -> dict[str, Any]:
  """Each side's texts once, then its seconds for the first of them."""
  few = task.first(TIMED)
  rows, seconds = {}, {side: [] for side in sides}
  for side, run in sides.items():
    rows[side] = scored(pipeline, task, run(task))
    run(few)
  for _ in range(rounds):
    for side, run in sides.items():
      start = time.perf_counter()
      run(few)
      seconds[side].append(time.perf_counter() - start)
  peer = seconds["release, batch 1"]
  for side, row in rows.items():
    row["texts_a_second"] = TIMED / statistics.median(seconds[side])
    # Sides of one round share the machine's load.
    ratios = [a / b for a, b in zip(peer, seconds[side], strict=True)]
    row["times_the_release"] = statistics.median(ratios)
    row["range"] = [min(ratios), max(ratios)]
    print(side, json.dumps(row), file=sys.stderr, flush=True)
  return rows


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("mode", choices=["curve", "speed"])
  parser.add_argument("--checkpoint", required=True)
  parser.add_argument("--count", type=int, default=400, help="texts of a task")
  parser.add_argument(
    "--only", default="", help="settings of the curve that name this"
  )
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--t5_depth", type=int, default=6)
  parser.add_argument("--t5_width", type=int, default=160)
  options = parser.parse_args()
  pipeline = load(options.checkpoint)
  run = {"curve": curve, "speed": speed}[options.mode]
  result = {
    "device": jax.devices()[0].device_kind,
    "texts": options.count,
    "step": pipeline.step,
    "result": run(pipeline, options),
  }
  print(json.dumps(result, indent=2))


if __name__ == "__main__":
  main()
