"""Samples the items of a benchmark, batch by batch, into a journal."""

import concurrent.futures
import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ddit_jax.config.load import as_json
from ddit_jax.errors import InputError, first_few, preparing
from ddit_jax.experiment.config import SampleConfig
from ddit_jax.losses.likelihood import LikelihoodConfig
from ddit_jax.monitor.progress import progress_bar
from ddit_jax.pipelines.evaluation_task import EvaluationTask
from ddit_jax.pipelines.pipeline import Pipeline
from ddit_jax.pipelines.ranking import pair_nats
from ddit_jax.pipelines.requests import read_square_image
from ddit_jax.pipelines.sd3 import Sd3Pipeline
from ddit_jax.protocols.item import Item
from ddit_jax.protocols.journal import Journal
from ddit_jax.protocols.layouts import save_png

_NUM_READERS = 8
_Pixels = UInt8[np.ndarray, "height width 3"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
  """How the items of one benchmark are sampled.

  Attributes:
    sample: steps, order, guidance and the batch size.
    likelihood: the effort of estimates.
    seed: of all draws.
    text_length: tokens of prompt and answer; None for the checkpoint's.
    image_size: pixels; None for the checkpoint's.
    template: of the prompts, with {question}.
    prompts: what the model is given, by key of the item.
  """

  sample: SampleConfig
  likelihood: LikelihoodConfig
  seed: int
  text_length: int | None
  image_size: int | None
  template: str
  prompts: Mapping[str, str]

  def facts(self, task: EvaluationTask) -> dict[str, Any]:
    """What the outputs of a task depend on, beside weights and items."""
    used = {
      "image": self.sample.image,
      "likelihood": self.likelihood,
      "retrieval": self.likelihood,
    }
    part = used.get(task.protocol.kind, self.sample.text)
    return {
      "seed": self.seed,
      "sampler": as_json(part),
      "text_length": self.text_length,
      "image_size": self.image_size,
      "prompt": self.template,
    }


def check_prompts(
  pipeline: Pipeline | Sd3Pipeline, task: EvaluationTask, sampling: Sampling
) -> None:
  """Raises InputError unless the model fits the size and reads every prompt.

  SD3's encoders truncate by themselves, and count what they lose.
  """
  if sampling.image_size is not None:
    with preparing():
      pipeline.model.latent_shape(sampling.image_size, sampling.image_size)
  if isinstance(pipeline, Sd3Pipeline):
    return
  refused: list[InputError] = []
  for item in task.items:
    prompt = sampling.prompts[item.key]
    try:
      if task.protocol.kind == "image":
        pipeline.caption_tokens(prompt)
      elif task.protocol.kind in ("likelihood", "retrieval"):
        text = item.facts["texts"][0]
        pipeline.scored_texts([text], [prompt])
        if task.protocol.kind == "likelihood":
          # It also conditions the image.
          pipeline.caption_tokens(text)
      else:
        pipeline.template(prompt, sampling.text_length)
    except InputError as error:
      refused.append(error)
  if refused:
    raise InputError(
      f"{task.name}: the model cannot read {len(refused)} prompts, the first: "
      f"{refused[0]}"
    )


def sample_texts(
  pipeline: Pipeline, task: EvaluationTask, journal: Journal, sampling: Sampling
) -> None:
  """Answers or captions of all items that the journal lacks."""

  def sample(batch: Sequence[Item], images: Sequence[_Pixels]):
    return pipeline.complete(
      np.stack(images),
      [sampling.prompts[item.key] for item in batch],
      seed=sampling.seed,
      sample=sampling.sample,
      indices=[item.draw for item in batch],
      length=sampling.text_length,
    )

  read = _reader(pipeline, task)
  _fill(journal, task.items, sampling.sample.batch_size, sample, read)


def estimate_likelihoods(
  pipeline: Pipeline, task: EvaluationTask, journal: Journal, sampling: Sampling
) -> None:
  """Bounds of every item's first text and of its image, in nats."""

  def estimate(batch: Sequence[Item], images: Sequence[_Pixels]):
    pixels = np.stack(images)
    texts = [item.facts["texts"][0] for item in batch]
    options = {
      "seed": sampling.seed,
      "effort": sampling.likelihood,
      "indices": [item.draw for item in batch],
      "batch_size": sampling.sample.batch_size,
    }
    prompts = [sampling.prompts[item.key] for item in batch]
    of_texts = pipeline.text_likelihood(pixels, texts, prompts, **options)
    of_images = pipeline.image_likelihood(pixels, texts, **options)
    columns = {
      "text_nats": of_texts.nats,
      "text_standard_error": of_texts.standard_error,
      "image_nats_per_dimension": of_images.nats,
      "image_standard_error": of_images.standard_error,
    }
    return [
      {name: float(rows[row]) for name, rows in columns.items()}
      for row in range(len(batch))
    ]

  read = _reader(pipeline, task)
  _fill(journal, task.items, sampling.sample.batch_size, estimate, read)


def estimate_pairs(
  pipeline: Pipeline, task: EvaluationTask, journal: Journal, sampling: Sampling
) -> None:
  """Bounds of the first texts of all items beside every item's image."""
  captions = pipeline.scored_texts(
    [item.facts["texts"][0] for item in task.items]
  )

  def estimate(_: Sequence[Item], images: Sequence[_Pixels]):
    return pair_nats(
      pipeline,
      np.stack(images),
      captions,
      seed=sampling.seed,
      effort=sampling.likelihood,
      batch_size=sampling.sample.batch_size,
    ).tolist()

  # Every image is a batch of captions.
  _fill(journal, task.items, 1, estimate, _reader(pipeline, task))


def _reader(
  pipeline: Pipeline, task: EvaluationTask
) -> Callable[[Item], _Pixels]:
  side, crop = pipeline.input_size, pipeline.input_crop

  def read(item: Item) -> _Pixels:
    if task.read is not None:
      return task.read(item, side, crop)
    return read_square_image(str(item.image), side, crop)

  return read


def sample_images(
  pipeline: Pipeline | Sd3Pipeline,
  items: Sequence[Item],
  journal: Journal,
  sampling: Sampling,
  folder: pathlib.Path,
) -> None:
  """Images of all items that the journal lacks, as PNG files below `folder`.

  The first process writes them.

  Raises:
    InputError: an image that the journal names is not there.
  """
  is_first = jax.process_index() == 0
  missing = [
    path for path in journal.outputs.values() if not (folder / path).is_file()
  ]
  if missing and is_first:
    raise InputError(
      f"{folder} lacks {len(missing)} images that were generated "
      f"({first_few(missing)}): put them back, or choose another --out"
    )

  def sample(batch: Sequence[Item], _: Sequence[None]):
    return pipeline.text_to_image(
      [sampling.prompts[item.key] for item in batch],
      seed=sampling.seed,
      sample=sampling.sample,
      size=sampling.image_size,
      indices=[item.draw for item in batch],
    )

  def keep(item: Item, image: _Pixels) -> str:
    if is_first:
      save_png(folder / item.path, Image.fromarray(image))
    return item.path

  size = sampling.sample.batch_size
  _fill(journal, items, size, sample, lambda _: None, keep)


def _fill(
  journal: Journal,
  items: Sequence[Item],
  batch_size: int,
  sample: Callable[[Sequence[Item], Sequence[Any]], Sequence[Any]],
  read: Callable[[Item], Any],
  keep: Callable[[Item, Any], Any] = lambda item, output: output,
) -> None:
  """Samples what is missing; files of the next batch are read meanwhile.

  The last batch repeats its last item, because another shape would compile
  again; `keep` takes each output once, and returns what the journal says of it.
  """
  size = min(batch_size, len(items))
  todo = [item for item in items if item.key not in journal.outputs]
  if not todo:
    return
  num_there = len(items) - len(todo)
  is_shown = jax.process_index() == 0
  with progress_bar(
    len(items), initial=num_there, unit="item", is_shown=is_shown
  ) as bar:
    for batch, inputs in _read_ahead(todo, size, read):
      missing = size - len(batch)
      outputs = sample(
        [*batch, *batch[-1:] * missing], [*inputs, *inputs[-1:] * missing]
      )
      # Without those of the repeated item.
      pairs = zip(batch, outputs, strict=False)
      journal.append({item.key: keep(item, output) for item, output in pairs})
      bar.update(len(batch))


def _read_ahead(
  items: Sequence[Item], batch_size: int, read: Callable[[Item], Any]
) -> Iterator[tuple[Sequence[Item], list[Any]]]:
  batches = [
    items[start : start + batch_size]
    for start in range(0, len(items), batch_size)
  ]
  with concurrent.futures.ThreadPoolExecutor(_NUM_READERS) as readers:
    waiting = [
      readers.submit(read, item) for batch in batches[:1] for item in batch
    ]
    for batch, following in zip(batches, [*batches[1:], []], strict=True):
      ahead = [readers.submit(read, item) for item in following]
      yield batch, [one.result() for one in waiting]
      waiting = ahead
