"""Images a second from JPEG files to training batches, beside PyTorch's loader.

Beside them: batches from a cache of latents of the same pictures, which is
written first (from random numbers: no encoder runs) and lies in the machine's
file cache when it is read. Both loaders read the same generated JPEGs from
memory, decode and resize them with Pillow, tokenise a caption and stack
batches, with the same number of workers: threads here, processes in
torch.utils.data.DataLoader. Rounds alternate, so that other work on the machine
disturbs all alike. Images per second count from the fourth batch on; images per
core second divide all images by the user and system time of all threads and
processes, starting up included.

  python benchmarks/data_speed.py --workers=2
"""

import argparse
import dataclasses
import io
import multiprocessing
import pathlib
import resource
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping

import numpy as np
from latents_cache import NUM_CACHED, write_cache
from PIL import Image

from ddit_jax.data.bad_records import ReadLog
from ddit_jax.data.example import Example, Source
from ddit_jax.data.image import ImageTransform
from ddit_jax.data.loader import ReadAheadBatches, plan_read_ahead
from ddit_jax.data.mixture import Mixture, parse_schedule
from ddit_jax.data.prepare.cached_source import (
  CachedSource,
  CachedTextToImageTransform,
  StoredMoments,
)
from ddit_jax.data.reader import ReadExamples
from ddit_jax.data.text import TextTransform, tokenize_and_pad
from ddit_jax.data.tokenizers import word_tokenizer
from ddit_jax.data.transforms import TextToImageTransform

BICUBIC = Image.Resampling.BICUBIC
TEXT_LENGTH = 64
WORDS = [f"word{number}" for number in range(500)]
TOKENIZER = word_tokenizer(WORDS)
# The same pictures again and again, as if they were a large set.
NUM_RECORDS = 20_000
NUM_PICTURES = 48
WARM_BATCHES = 4
_QUALITY, _NOISE = 90, 9


@dataclasses.dataclass(frozen=True)
class JpegExamples:
  """Generated pictures with captions of 40 words, held in memory."""

  examples: tuple[Example, ...]
  num_records: int = NUM_RECORDS
  name: str = "jpegs"
  removed: Mapping[str, int] = dataclasses.field(default_factory=dict)

  def __len__(self) -> int:
    return self.num_records

  def __getitem__(self, index: int) -> Example:
    return self.examples[index % len(self.examples)]

  def fingerprint(self) -> str:
    return self.name


def generate(width: int, height: int) -> JpegExamples:
  """Smooth pictures with some noise, of about 90 kB at 512 x 512."""
  rng = np.random.default_rng(0)
  examples = []
  for number in range(NUM_PICTURES):
    coarse = rng.integers(
      0, 256, (height // 32 + 1, width // 32 + 1, 3), np.uint8
    )
    smooth = Image.fromarray(coarse).resize((width, height), BICUBIC)
    noise = rng.normal(0, _NOISE, (height, width, 3))
    noisy = np.clip(np.asarray(smooth) + noise, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noisy).save(file, "JPEG", quality=_QUALITY)
    caption = " ".join(rng.choice(WORDS, 40))
    examples.append(
      Example(record_id=str(number), image=file.getvalue(), texts=(caption,))
    )
  return JpegExamples(tuple(examples))


TEXTS = TextTransform(tokenizer=TOKENIZER, length=TEXT_LENGTH)


def cached_batches(source: CachedSource, args):
  """(next batch, stop, images read so far) from a cache of latents."""
  images = StoredMoments(moments=source.moments)
  transform = CachedTextToImageTransform(
    images=images, texts=TEXTS, feature=None
  )
  return our_batches(source, transform, args)


def decoded_batches(source: JpegExamples, args, jpeg_decoding: str):
  """(next batch, stop, images decoded so far) of this package."""
  images = ImageTransform(size=args.size, jpeg_decoding=jpeg_decoding)
  transform = TextToImageTransform(images=images, texts=TEXTS)
  return our_batches(source, transform, args)


def our_batches(source: Source, transform, args):
  """(next batch, stop, images read so far) of a source."""
  folder = tempfile.TemporaryDirectory()
  log = ReadLog(pathlib.Path(folder.name) / "bad_records.jsonl")
  reader = ReadExamples(source, transform, seed=0, log=log)
  mixture = Mixture(
    {source.name: reader},
    parse_schedule({"0": {source.name: 1}}),
    batch_size=args.batch,
    seed=0,
  )
  # As MixtureStream does, without starting JAX: PyTorch's workers are forks.
  iterator = ReadAheadBatches(
    mixture,
    batch_size=args.batch,
    rows=range(args.batch),
    read_ahead=plan_read_ahead(
      mixture.record_bytes, args.batch, num_threads=args.workers
    ),
  )

  def stop():
    iterator.close()
    folder.cleanup()

  def num_decoded():
    return log.counts()[f"{source.name}/reads"]

  return iterator.__next__, stop, num_decoded


class TorchExamples:
  """The same as a PyTorch data set, written the usual way."""

  def __init__(self, source: JpegExamples, size: int):
    self.source, self.size = source, size
    self.num_decoded = multiprocessing.Value("q")

  def __len__(self):
    return len(self.source)

  def __getitem__(self, index):
    example, size = self.source[index], self.size
    image = Image.open(io.BytesIO(example.image)).convert("RGB")
    short = min(image.size)
    width, height = (size * side // short for side in image.size)
    image = image.resize((width, height), BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    image = image.crop((left, top, left + size, top + size))
    tokens = tokenize_and_pad(
      TOKENIZER, "", example.texts[0], TEXT_LENGTH
    ).tokens
    with self.num_decoded.get_lock():
      self.num_decoded.value += 1
    return {"images": np.array(image), "tokens": tokens}


def torch_batches(source: JpegExamples, args):
  """(next batch, stop, images decoded so far) of PyTorch's DataLoader."""
  import torch.utils.data

  examples = TorchExamples(source, args.size)
  loader = torch.utils.data.DataLoader(
    examples, batch_size=args.batch, shuffle=True, num_workers=args.workers
  )
  iterator = iter(loader)

  def stop():
    # Waits for the worker processes, whose time is counted then.
    iterator._shutdown_workers()

  return iterator.__next__, stop, lambda: examples.num_decoded.value


def core_seconds() -> float:
  """User and system time of this process and its finished children."""
  usages = map(
    resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
  )
  return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def speeds(make: Callable, num_batches: int, batch: int) -> tuple[float, float]:
  """(images a second after warm-up, images a core second)."""
  used = core_seconds()
  next_batch, stop, num_decoded = make()
  for _ in range(WARM_BATCHES):
    next_batch()
  start = time.monotonic()
  for _ in range(num_batches):
    next_batch()
  seconds = time.monotonic() - start
  stop()
  return num_batches * batch / seconds, num_decoded() / (core_seconds() - used)


def stages(source: JpegExamples, size: int) -> dict[str, float]:
  """Milliseconds of one core for the parts of one image, best of all."""
  example = source[0]
  picture = Image.open(io.BytesIO(example.image))
  picture.load()
  small = picture.resize((size, size), BICUBIC)
  parts = {
    "decode": lambda: Image.open(io.BytesIO(example.image)).load(),
    "resize": lambda: picture.resize((size, size), BICUBIC),
    "to array": lambda: np.asarray(small),
    "tokenise": lambda: tokenize_and_pad(
      TOKENIZER, "", example.texts[0], TEXT_LENGTH
    ),
  }
  return {
    name: 1e3 * min(map(_timed, [work] * 50)) for name, work in parts.items()
  }


def _timed(work: Callable) -> float:
  start = time.thread_time()
  work()
  return time.thread_time() - start


def parse_args() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--workers", type=int, default=2)
  parser.add_argument("--batch", type=int, default=32)
  parser.add_argument("--batches", type=int, default=24, help="of a round")
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument("--width", type=int, default=512)
  parser.add_argument("--height", type=int, default=512)
  parser.add_argument("--size", type=int, default=256)
  return parser.parse_args()


def main() -> None:
  args = parse_args()
  # Grain imports JAX, which warns of any fork though it has no threads yet.
  warnings.filterwarnings("ignore", r"os\.fork\(\)", RuntimeWarning)
  source = generate(args.width, args.height)
  kilobytes = statistics.mean(len(e.image) for e in source.examples) / 1e3
  print(
    f"{args.width} x {args.height} JPEGs of {kilobytes:.0f} kB to "
    f"{args.size} x {args.size}, {args.workers} workers, batches of "
    f"{args.batch}"
  )
  parts = stages(source, args.size)
  print("one image, ms:", {k: round(v, 3) for k, v in parts.items()})
  folder = tempfile.TemporaryDirectory()
  some = dataclasses.replace(source, num_records=NUM_CACHED)
  cached = write_cache(some, args.size, folder.name)
  print(f"a cached record: {cached.plan.moments.num_bytes / 1e3:.0f} kB")
  makers = {
    "PyTorch": lambda: torch_batches(source, args),
    "ours": lambda: decoded_batches(source, args, "exact"),
    "ours, draft": lambda: decoded_batches(source, args, "draft"),
    "ours, cached": lambda: cached_batches(cached, args),
  }
  found = {name: [] for name in makers}
  for _ in range(args.rounds):
    for name, make in makers.items():
      found[name].append(speeds(make, args.batches, args.batch))
  report(found)


def report(found: Mapping[str, list[tuple[float, float]]]) -> None:
  """Prints medians over the rounds, and their ratios to PyTorch's."""
  medians = {
    name: np.median(np.array(rounds), axis=0) for name, rounds in found.items()
  }
  for name, speed in medians.items():
    ratio = speed / medians["PyTorch"]
    print(
      f"{name:12} {speed[0]:7.0f} images/s ({ratio[0]:.2f} of PyTorch's) "
      f"{speed[1]:7.0f} images/s and core ({ratio[1]:.2f})"
    )


if __name__ == "__main__":
  main()
