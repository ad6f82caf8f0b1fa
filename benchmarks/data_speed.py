"""Images per second from JPEG files to training batches, and PyTorch's loader.

Also measured: batches from a cache of latents of the same images. It is written
first (with random values: no encoder runs), so it is in the file cache when it
is read. Both loaders read the same generated JPEGs from memory, decode and
resize them with Pillow, tokenize a caption and stack batches, with the same
number of workers: threads or worker processes here, processes in
torch.utils.data.DataLoader. Rounds alternate, so that other work on the machine
affects all alike. Images per second count from the fourth batch on; images per
core second divide all images by the user and system time of all threads and
processes, including startup.

  python benchmarks/data_speed.py --workers=2
"""

import argparse
import dataclasses
import functools
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
from PIL import Image

from ddit_jax.data.bad_records import ReadLog
from ddit_jax.data.example import Example, Source
from ddit_jax.data.image import ImageConfig, ImageTransform
from ddit_jax.data.loader import TaskLoader, plan_reading
from ddit_jax.data.mixture import Mixture, source_seed
from ddit_jax.data.prepare.cache_format import ArrayFormat
from ddit_jax.data.prepare.cache_writer import (
  CacheEncoder,
  RowEncoders,
  RowReader,
)
from ddit_jax.data.prepare.cached_source import (
  CachedSource,
  CachedTextToImageTransform,
  StoredMoments,
)
from ddit_jax.data.reader import RecordReader
from ddit_jax.data.schedule import parse_schedule
from ddit_jax.data.text import TextConfig, TextTransform, tokenize_and_pad
from ddit_jax.data.tokenizers import word_tokenizer
from ddit_jax.data.transforms import TextToImageTransform

BICUBIC = Image.Resampling.BICUBIC
TEXT_LENGTH = 64
WORDS = [f"word{number}" for number in range(500)]
TOKENIZER = word_tokenizer(WORDS)
# The same images repeatedly, as if they were a large data set.
NUM_RECORDS = 20_000
NUM_IMAGES = 48
# Enough that random reading reaches different places of a shard.
NUM_CACHED = 512
# As SD3's autoencoder: an eighth of the side, 16 channels.
DOWNSAMPLING, MOMENT_CHANNELS = 8, 32
WARM_BATCHES = 4
_QUALITY, _NOISE = 90, 9


@dataclasses.dataclass(frozen=True)
class JpegExamples:
  """Generated images with captions of 40 words, in memory."""

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
  """Smooth images with some noise, of about 90 kB at 512 x 512."""
  rng = np.random.default_rng(0)
  examples = []
  for number in range(NUM_IMAGES):
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


def write_cache(source: Source, size: int, folder: str) -> CachedSource:
  """A cache of latents as large as SD3's; no encoder runs, all are equal."""
  side = size // DOWNSAMPLING
  moments = ArrayFormat((side, side, MOMENT_CHANNELS), "bfloat16")
  numbers = np.random.default_rng(0).integers(-9, 10, moments.shape)
  reader = RowReader(
    source=source,
    images=ImageTransform(config=ImageConfig(image_size=size)),
    texts=None,
  )
  encoders = RowEncoders(
    images=lambda rows: np.stack([numbers.astype(np.float32)] * len(rows)),
    texts=None,
    num_rows=32,
  )
  encoder = CacheEncoder(
    reader=reader, encoders=encoders, moments=moments, feature=None
  )
  writer = encoder.writer(
    pathlib.Path(folder),
    latents={"image_size": size},
    features=None,
    num_parts=1,
    rows_per_device=32,
  )
  writer.write()
  return CachedSource(source.name, folder, removed={})


TEXTS = TextTransform(
  tokenizer=TOKENIZER, config=TextConfig(text_length=TEXT_LENGTH)
)


def cached_batches(source: CachedSource, args):
  """(next batch, stop, images read so far) from a cache of latents."""
  images = StoredMoments(moments=source.moments)
  transform = CachedTextToImageTransform(
    images=images, texts=TEXTS, feature=None
  )
  return our_batches(source, transform, args)


def decoded_batches(source: JpegExamples, args, jpeg_decoding: str, **who):
  """(next batch, stop, images decoded so far) of this package."""
  images = ImageTransform(
    config=ImageConfig(image_size=args.size), jpeg_decoding=jpeg_decoding
  )
  transform = TextToImageTransform(images=images, texts=TEXTS)
  return our_batches(source, transform, args, **who)


def our_batches(source: Source, transform, args, *, has_processes=False):
  """(next batch, stop, images read so far) of a source."""
  folder = tempfile.TemporaryDirectory()
  log = ReadLog(pathlib.Path(folder.name) / "bad_records.jsonl")
  mixture = Mixture(
    {source.name: RecordReader(source, transform, seed=0)},
    parse_schedule({"0": {source.name: 1}}),
    batch_size=args.batch,
    seed_of=functools.partial(source_seed, 0),
  )
  who = "num_workers" if has_processes else "num_threads"
  plan = plan_reading(mixture.record_bytes, args.batch, **{who: args.workers})
  loader = TaskLoader(mixture, log, plan=plan)

  def stop():
    loader.close()
    folder.cleanup()

  def num_decoded():
    return log.counts()[f"{source.name}/reads"]

  return loader.__next__, stop, num_decoded


class TorchExamples:
  """The same as a PyTorch data set."""

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
    # Waits for the worker processes, so that their time is counted.
    iterator._shutdown_workers()

  return iterator.__next__, stop, lambda: examples.num_decoded.value


def core_seconds() -> float:
  """User and system time of this process and its finished children."""
  usages = map(
    resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
  )
  return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def speeds(make: Callable, num_batches: int, batch: int) -> tuple[float, float]:
  """(images per second after warm-up, images per core second)."""
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
  """Milliseconds of one core for each stage of one image, the minimum."""
  example = source[0]
  image = Image.open(io.BytesIO(example.image))
  image.load()
  small = image.resize((size, size), BICUBIC)
  parts = {
    "decode": lambda: Image.open(io.BytesIO(example.image)).load(),
    "resize": lambda: image.resize((size, size), BICUBIC),
    "to array": lambda: np.asarray(small),
    "tokenize": lambda: tokenize_and_pad(
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
  parser.add_argument("--batches", type=int, default=24, help="per round")
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument("--width", type=int, default=512)
  parser.add_argument("--height", type=int, default=512)
  parser.add_argument("--size", type=int, default=256)
  return parser.parse_args()


def main() -> None:
  args = parse_args()
  # Grain imports JAX, which warns about any fork, even before it has threads.
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
  print(f"a cached record: {cached.moments.num_bytes / 1e3:.0f} kB")
  makers = {
    "PyTorch": lambda: torch_batches(source, args),
    "ours, threads": lambda: decoded_batches(source, args, "exact"),
    "ours, processes": lambda: decoded_batches(
      source, args, "exact", has_processes=True
    ),
    "ours, draft": lambda: decoded_batches(source, args, "draft"),
    "ours, cached": lambda: cached_batches(cached, args),
  }
  found = {name: [] for name in makers}
  for _ in range(args.rounds):
    for name, make in makers.items():
      found[name].append(speeds(make, args.batches, args.batch))
  report(found)


def report(found: Mapping[str, list[tuple[float, float]]]) -> None:
  """Prints medians over rounds, and their ratios to PyTorch's."""
  medians = {
    name: np.median(np.array(rounds), axis=0) for name, rounds in found.items()
  }
  for name, speed in medians.items():
    ratio = speed / medians["PyTorch"]
    print(
      f"{name:15} {speed[0]:7.0f} images/s ({ratio[0]:.2f} of PyTorch's) "
      f"{speed[1]:7.0f} images/core s ({ratio[1]:.2f})"
    )


if __name__ == "__main__":
  main()
