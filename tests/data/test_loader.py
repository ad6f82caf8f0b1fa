"""One order of batches, whatever threads, processes and restarts."""

import dataclasses
import gc
import itertools
import os
import subprocess
import sys
import threading
import time

import grain
import jax
import numpy as np
import pytest
from grain.experimental import ElasticIterator

from ddit_jax.data.bad_records import (
  BadRecordLimit,
  ReadLog,
  TooManyBadRecords,
)
from ddit_jax.data.example import BadRecord, Example, TrainingRecord
from ddit_jax.data.image import ImageConfig, ImageTransform
from ddit_jax.data.loader import (
  DualLoader,
  ReadPlan,
  TaskLoader,
  dual_batch,
  plan_reading,
  stack_records,
  usable_cores,
)
from ddit_jax.data.mixture import Mixture, source_seed
from ddit_jax.data.reader import RecordReader
from ddit_jax.data.schedule import parse_schedule
from ddit_jax.data.text import TextConfig, TextTransform
from ddit_jax.data.tokenizers import word_tokenizer
from ddit_jax.data.transforms import ImageToTextTransform, TextToImageTransform
from tests.data import pictures

# Grain shuffles small sources slowly: a thousand cost less than twenty.
COUNT = 1000
THREADS = ReadPlan(chunk=1, num_threads=3, num_ahead=10)
WORKERS = ReadPlan(chunk=2, num_workers=2)
PLANS = {
  "caller": ReadPlan(chunk=6),
  "chunks": ReadPlan(chunk=3),
  "threads": THREADS,
  "workers": WORKERS,
}


class Numbers:
  """Records of their own number and visit; counts what is read."""

  record_bytes = 100

  def __init__(self, slow=0.0, broken=()):
    self.slow, self.broken = slow, broken
    self.num_read = 0

  def __len__(self):
    return COUNT

  def record_id(self, index):
    return f"number {index}"

  def read(self, visit, index):
    self.num_read += 1
    if self.slow:
      # Later records finish first.
      time.sleep(self.slow * (1 + -visit % 3))
    if visit in self.broken:
      raise OSError(f"the disk is gone at {visit}")
    arrays = {
      "tokens": np.full(5, index, np.int32),
      "images": np.full((2, 2, 3), visit % 256, np.uint8),
    }
    return TrainingRecord(arrays=arrays)


def mixture(reader, size=6, seed=0):
  return Mixture(
    {"numbers": reader},
    parse_schedule({"0": {"numbers": 1}}),
    batch_size=size,
    seed_of=lambda name: seed,
  )


@pytest.fixture
def loaders(tmp_path):
  """Makes loaders, and closes them."""
  made = []

  def make(reader=None, *, size=6, rows=None, plan=THREADS, seed=0):
    if reader is None:
      reader = Numbers()
    mixed = mixture(reader, size, seed) if hasattr(reader, "read") else reader
    log = ReadLog(tmp_path / "bad.jsonl")
    made.append(TaskLoader(mixed, log, rows=rows, plan=plan))
    return made[-1]

  yield make
  for loader in made:
    loader.close()


def take(loader, count):
  """The numbers of records in the next batches."""
  return [next(loader)["tokens"][:, 0].tolist() for _ in range(count)]


def order(count, size=6, seed=0):
  mixed = mixture(Numbers(), size, seed)
  flat = [int(mixed[i].arrays["tokens"][0]) for i in range(count * size)]
  return np.reshape(flat, (count, size)).tolist()


def own_threads():
  return [t for t in threading.enumerate() if t.name.startswith("grain-pre")]


@pytest.fixture(autouse=True)
def no_threads_are_left():
  yield
  if own_threads():
    gc.collect()
  deadline = time.monotonic() + 5
  while own_threads() and time.monotonic() < deadline:
    time.sleep(0.01)
  assert not own_threads()


def test_batches_come_in_order_whatever_finishes_first(loaders):
  loader = loaders(Numbers(slow=0.001))
  batch = next(loader)
  assert batch["tokens"][:, 0].tolist() == order(1)[0]
  assert batch["images"].shape == (6, 2, 2, 3)
  assert batch["images"].dtype == np.uint8
  assert batch["images"][:, 1, 1, 2].tolist() == list(range(6))
  assert take(loader, 3) == order(4)[1:]


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_it_does_not_matter_who_reads(loaders, plan):
  loader = loaders(plan=plan)
  assert take(loader, 4) == order(4)
  assert loader.get_state() == {"global_next_index": 24}
  loader.set_state({"global_next_index": 6})
  assert take(loader, 2) == order(3)[1:]


def test_processes_share_each_batch(loaders):
  for count in (2, 3):
    parts = [loaders(rows=range(i, 6, count)) for i in range(count)]
    for batch in order(4):
      rows = [take(part, 1)[0] for part in parts]
      assert all(len(own) == 6 // count for own in rows)
      assert sorted(itertools.chain(*rows)) == sorted(batch)
      assert len({part.get_state()["global_next_index"] for part in parts}) == 1


@pytest.mark.parametrize("threads", [0, 3])
def test_a_process_reads_the_rows_it_holds(loaders, threads):
  plan = ReadPlan(chunk=1, num_threads=threads, num_ahead=5 * bool(threads))
  loader = loaders(rows=[1, 4, 5], plan=plan)
  whole = order(3)
  assert take(loader, 2) == [[b[1], b[4], b[5]] for b in whole[:2]]
  loader.set_state({"global_next_index": 6})
  assert take(loader, 2) == [[b[1], b[4], b[5]] for b in whole[1:]]


@pytest.mark.parametrize("rows", [[], [4], [-1, 0]])
def test_rows_must_lie_in_the_batch(loaders, rows):
  with pytest.raises(ValueError, match=r"some rows of a batch of 4, not \["):
    loaders(size=4, rows=rows)


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_it_continues_at_a_state(loaders, steps):
  first = loaders()
  take(first, steps)
  state = first.get_state()
  assert state == {"global_next_index": 6 * steps}
  second = loaders(size=3)
  take(second, 2)
  second.set_state(state)
  assert second.get_state() == state
  flat = list(itertools.chain(*order(steps + 1)))[6 * steps :]
  assert take(second, 2) == [flat[:3], flat[3:]]


@pytest.mark.parametrize(
  "state", [{}, {"global_next_index": -1}, {"global_next_index": "7"}]
)
def test_a_senseless_state_is_refused(loaders, state):
  with pytest.raises(ValueError, match="take the one that was saved"):
    loaders().set_state(state)


def test_no_more_is_read_than_the_bound_allows(loaders):
  reader = Numbers()
  loader = loaders(reader)
  for step in range(1, 5):
    next(loader)
    time.sleep(0.05)
    assert 6 * step <= reader.num_read <= 6 * step + 10


def test_reading_continues_between_batches(loaders):
  reader = Numbers()
  next(loaders(reader))
  deadline = time.monotonic() + 5
  while reader.num_read < 15 and time.monotonic() < deadline:
    time.sleep(0.01)
  assert reader.num_read >= 15


def test_nothing_is_read_before_the_first_batch(loaders):
  reader = Numbers()
  assert loaders(reader).get_state() == {"global_next_index": 0}
  assert reader.num_read == 0 and not own_threads()


def test_threads_work_at_the_same_time(loaders):
  barrier = threading.Barrier(3, timeout=10)

  class Together(Numbers):
    def read(self, visit, index):
      barrier.wait()
      return super().read(visit, index)

  plan = ReadPlan(chunk=1, num_threads=3, num_ahead=3)
  assert take(loaders(Together(), size=3, plan=plan), 1) == order(1, size=3)
  barrier.abort()


@pytest.mark.parametrize("name", ["threads", "workers"])
def test_an_error_is_raised_again_and_nothing_is_skipped(loaders, name):
  loader = loaders(Numbers(broken={8}), plan=PLANS[name])
  take(loader, 1)
  for _ in range(3):
    with pytest.raises(OSError, match="gone at 8"):
      next(loader)
  assert loader.get_state() == {"global_next_index": 6}
  loader.set_state({"global_next_index": 12})
  assert take(loader, 1) == order(3)[2:]


def test_close_drops_what_waits(loaders):
  reader = Numbers(slow=0.01)
  plan = dataclasses.replace(THREADS, num_ahead=400)
  loader = loaders(reader, plan=plan)
  next(loader)
  assert own_threads()
  loader.close()
  time.sleep(0.1)
  assert reader.num_read < 200 and not own_threads()
  loader.close()


def test_a_closed_loader_continues_where_it_was(loaders):
  loader = loaders()
  take(loader, 2)
  loader.close()
  assert take(loader, 1) == order(3)[2:]


def test_a_forgotten_loader_stops(tmp_path):
  reader = Numbers(slow=0.01)
  plan = dataclasses.replace(THREADS, num_ahead=400)
  loader = TaskLoader(mixture(reader), ReadLog(tmp_path / "b"), plan=plan)
  next(loader)
  del loader
  gc.collect()
  time.sleep(0.1)
  read = reader.num_read
  time.sleep(0.2)
  assert reader.num_read <= read + 3 < 100


SCRIPT = """
import pathlib, sys
from tests.data import test_loader
from ddit_jax.data.bad_records import ReadLog
from ddit_jax.data.loader import TaskLoader

if __name__ == "__main__":
  log = ReadLog(pathlib.Path(sys.argv[1]))
  plan = test_loader.THREADS
  mixed = test_loader.mixture(test_loader.Numbers())
  loader = TaskLoader(mixed, log, plan=plan)
  print(next(loader)["tokens"][:, 0].tolist())
"""


def test_a_loader_left_open_makes_no_noise_at_exit(tmp_path):
  (tmp_path / "script.py").write_text(SCRIPT)
  result = subprocess.run(
    [sys.executable, tmp_path / "script.py", tmp_path / "bad"],
    capture_output=True,
    text=True,
    check=False,
    timeout=60,
    env=os.environ | {"PYTHONPATH": os.getcwd()},
  )
  assert (result.returncode, result.stdout, result.stderr) == (
    0,
    f"{order(1)[0]}\n",
    "",
  )


RECORD = 256 * 256 * 3 + 64 * 4


def test_a_byte_budget_bounds_the_records():
  plan = plan_reading(RECORD, 4096, num_bytes=2**28, num_threads=8)
  assert plan == ReadPlan(chunk=1, num_threads=8, num_ahead=1363)
  assert plan.num_ahead * RECORD <= 2**28 < (plan.num_ahead + 1) * RECORD
  few = plan_reading(RECORD, 4096, num_bytes=3 * RECORD, num_threads=8)
  assert few == ReadPlan(chunk=1, num_threads=3, num_ahead=3)


def test_worker_processes_share_a_batch_and_the_budget():
  plan = plan_reading(RECORD, 4096, num_bytes=2**28, num_workers=8)
  assert plan == ReadPlan(chunk=32, num_workers=8)
  small = plan_reading(RECORD, 24, num_bytes=2**28, num_workers=4)
  assert small == ReadPlan(chunk=6, num_workers=4)
  threads = plan_reading(RECORD, 64, num_workers=4, num_threads=2)
  assert (threads.num_threads, threads.num_ahead) == (2, 2)


def test_small_batches_are_not_read_ahead_by_the_thousand():
  plan = plan_reading(100, 8, num_bytes=2**30, num_threads=4)
  assert plan == ReadPlan(chunk=1, num_threads=4, num_ahead=2 * 8 + 4 * 4)
  assert plan_reading(100, 8).num_threads == usable_cores() >= 1
  assert plan_reading(100, 8, num_threads=0) == ReadPlan(chunk=8)


def test_a_budget_below_one_record_is_refused():
  with pytest.raises(
    ValueError, match="may take 99 bytes but one record has 1"
  ):
    plan_reading(100, 8, num_bytes=99)
  with pytest.raises(ValueError, match="3 worker processes hold 4 each"):
    plan_reading(100, 8, num_bytes=1100, num_workers=3)


# Image files.
SIZE, LENGTH, BATCH = 8, 4, 6
NUM_FILES = 300
WEIGHTS = {"0": {"web": 2, "art": 1}, "3": {"art": 1}}
TOKENIZER = word_tokenizer([str(number) for number in range(NUM_FILES)])
FILES = [pictures.jpeg(20 + 3 * n, 16 + n) for n in range(7)]


@dataclasses.dataclass
class Files:
  """Examples of a few images; some texts have none."""

  name: str
  is_broken: bool = False
  all_have_images: bool = True
  bad_every: int = 10**9
  removed: tuple = ()

  def __len__(self):
    return NUM_FILES

  def __getitem__(self, index):
    if self.is_broken or index % self.bad_every == 1:
      raise BadRecord("unreadable_file", "no permission", f"{index}")
    has_image = self.all_have_images or index % 5
    return Example(
      record_id=f"{index}",
      image=FILES[index % len(FILES)] if has_image else None,
      texts=(f"{index} 1 2 3 4" if index % 9 == 3 else str(index),),
    )


def files_loader(
  path, kind=TextToImageTransform, *, plan=THREADS, rows=None, **options
):
  transform = kind(
    images=ImageTransform(
      config=ImageConfig(image_size=SIZE, crop="random", flip_probability=0.5)
    ),
    texts=TextTransform(
      tokenizer=TOKENIZER, config=TextConfig(text_length=LENGTH)
    ),
  )
  readers = {
    name: RecordReader(Files(name, **options), transform, seed=1)
    for name in ("web", "art")
  }
  mixed = Mixture(
    readers,
    parse_schedule(WEIGHTS, readers),
    batch_size=BATCH,
    seed_of=lambda name: source_seed(2, name),
  )
  log = ReadLog(path / "bad.jsonl", BadRecordLimit(max_bad_share=1.0))
  return TaskLoader(mixed, log, rows=rows, plan=plan)


def batches(loader, count):
  found = [next(loader) for _ in range(count)]
  loader.close()
  return found


def assert_equal(found, expected):
  for one, other in zip(found, expected, strict=True):
    assert set(one) == set(other)
    for name in one:
      np.testing.assert_array_equal(one[name], other[name])


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
  """Six batches, read in the calling thread."""
  folder = tmp_path_factory.mktemp("r")
  return batches(files_loader(folder, plan=ReadPlan(chunk=BATCH)), 6)


def test_files_give_the_same_batches_to_threads_and_workers(
  tmp_path, reference
):
  for plan in (THREADS, WORKERS):
    found = batches(files_loader(tmp_path, plan=plan), 6)
    assert_equal(found, reference)
  assert found[0]["images"].shape == (BATCH, SIZE, SIZE, 3)
  assert found[0]["images"].dtype == np.uint8
  assert found[0]["tokens"].shape == (BATCH, LENGTH)
  assert not (found[0]["images"] == found[1]["images"]).all()


def test_two_processes_read_the_files_that_one_reads(tmp_path, reference):
  halves = [
    batches(files_loader(tmp_path, rows=range(start, start + BATCH // 2)), 6)
    for start in (0, BATCH // 2)
  ]
  for whole, first, second in zip(reference, *halves, strict=True):
    for name in whole:
      rows = np.concatenate([first[name], second[name]])
      np.testing.assert_array_equal(rows, whole[name])


@pytest.mark.parametrize("shard", [(0, 1), (1, 3)])
def test_grains_elastic_iterator_gives_the_same(tmp_path, shard):
  ours = files_loader(tmp_path, rows=range(shard[0], BATCH, shard[1]))
  dataset = ours.mixture.rows(range(BATCH)).map(lambda record: record.arrays)
  grains = iter(
    ElasticIterator(
      dataset,
      BATCH,
      grain.sharding.ShardOptions(*shard),
      read_options=grain.ReadOptions(0, 0),
    )
  )
  assert_equal(batches(ours, 3), [next(grains) for _ in range(3)])
  assert ours.get_state() == grains.get_state()
  grains.close()


def test_image_to_text_says_which_rows_have_an_image(tmp_path):
  loader = files_loader(tmp_path, ImageToTextTransform, all_have_images=False)
  found = batches(loader, 5)
  has_image = np.concatenate([batch["has_image"] for batch in found])
  images = np.concatenate([batch["images"] for batch in found])
  assert (has_image.shape, has_image.dtype) == ((5 * BATCH,), bool)
  assert has_image.any() and not has_image.all()
  assert (images.any(axis=(1, 2, 3)) == has_image).all()


def test_what_was_read_is_counted_alike_whoever_reads(tmp_path):
  """Not what was read ahead: counts are of the batches that were taken."""
  counts, listed = [], []
  for name, plan in PLANS.items():
    folder = tmp_path / name
    folder.mkdir()
    loader = files_loader(folder, plan=plan, bad_every=4)
    batches(loader, 6)
    counts.append(loader._log.counts())
    listed.append((folder / "bad.jsonl").read_text())
  assert counts == counts[:1] * len(PLANS)
  assert listed == listed[:1] * len(PLANS)
  found = counts[0]
  assert found["web/bad"] == found["web/bad/unreadable_file"] > 0
  num_good = sum(
    found[f"{n}/reads"] - found[f"{n}/bad"] for n in ("web", "art")
  )
  assert num_good == 6 * BATCH
  assert found["art/truncated_texts"] > 0
  assert len(listed[0].splitlines()) == found["web/bad"] + found["art/bad"]


@pytest.mark.parametrize("name", ["threads", "workers"])
def test_a_broken_source_stops_the_loader(tmp_path, name):
  loader = files_loader(tmp_path, plan=PLANS[name], is_broken=True)
  with pytest.raises(TooManyBadRecords, match="and 8 replacements"):
    next(loader)
  loader.close()
  assert len((tmp_path / "bad.jsonl").read_text().splitlines()) == 9


# Both tasks.
def dual(loaders, seed=0, names=("text_to_image", "image_to_text"), **options):
  sizes = {"text_to_image": 96, "image_to_text": 64}

  class Texts(Numbers):
    def read(self, visit, index):
      record = super().read(visit, index)
      arrays = {**record.arrays, "loss_mask": np.ones(5, bool)}
      return dataclasses.replace(record, arrays=arrays)

  readers = {"text_to_image": Numbers(), "image_to_text": Texts()}
  return DualLoader(
    {
      name: loaders(
        readers[name],
        size=sizes[name],
        seed=seed + number,
        plan=None,
        **{k: of(sizes[name]) for k, of in options.items()},
      )
      for number, name in enumerate(sizes)
      if name in names
    }
  )


def take_both(loader, count):
  images, texts, positions = [], [], []
  for _ in range(count):
    batch, position = next(loader)
    images.append(batch.text_to_image.tokens[:, 0].tolist())
    texts.append(batch.image_to_text.tokens[:, 0].tolist())
    positions.append(position)
  return images, texts, positions


def test_every_epoch_holds_each_record_once_in_a_new_order(loaders):
  flat = np.concatenate(take_both(dual(loaders), 2 * COUNT // 96 + 1)[0])
  first, second = flat[:COUNT], flat[COUNT : 2 * COUNT]
  assert sorted(first) == sorted(second) == list(range(COUNT))
  assert first.tolist() != second.tolist()
  assert first.tolist() != sorted(first)
  other = take_both(dual(loaders, seed=9), 1)[0]
  assert other != [first[:96].tolist()]


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_both_tasks_continue_exactly_where_others_stopped(loaders, steps):
  reference = take_both(dual(loaders), 8)
  assert [list(p.values()) for p in reference[2][0].values()] == [[96], [64]]
  stopped = dual(loaders)
  take_both(stopped, steps)
  position = stopped.position()
  assert steps == 0 or position == reference[2][steps - 1]
  resumed = dual(loaders)
  take_both(resumed, 2)  # it does not matter where it was
  resumed.seek(position)
  rest = take_both(resumed, 8 - steps)
  assert rest == tuple(part[steps:] for part in reference)


def test_record_ids_are_of_the_batch_before_a_position(loaders):
  loader = dual(loaders)
  images, texts, positions = take_both(loader, 3)
  assert loader.record_ids(positions[1]) == {
    name: [f"numbers: number {i}" for i in rows[1]]
    for name, rows in {"text_to_image": images, "image_to_text": texts}.items()
  }


@pytest.mark.parametrize("name", ["text_to_image", "image_to_text"])
def test_a_task_that_is_off_gives_none_and_has_no_position(loaders, name):
  both, _ = next(dual(loaders))
  (other,) = {"text_to_image", "image_to_text"} - {name}
  single = dual(loaders, names=[other])
  batch, position = next(single)
  assert getattr(batch, name) is None and set(position) == {other}
  jax.tree.map(
    np.testing.assert_array_equal, getattr(batch, other), getattr(both, other)
  )
  with pytest.raises(ValueError, match="switch on what was on"):
    dual(loaders).seek(position)
  single.close()


def test_one_task_must_be_on():
  with pytest.raises(ValueError, match="both tasks are off"):
    DualLoader({})


def test_text_only_batches_have_no_images():
  rows = {"tokens": np.zeros((2, 5), np.int32), "loss_mask": np.ones((2, 5))}
  batch = dual_batch(image_to_text=rows)
  assert batch.text_to_image is None
  assert batch.image_to_text.images is batch.image_to_text.has_image is None
  assert batch.image_to_text.tokens.shape == (2, 5)


def test_records_are_stacked_and_what_was_met_is_kept():
  records = [
    TrainingRecord(arrays={"a": np.full(2, i)}, num_truncated=i, source="s")
    for i in range(3)
  ]
  arrays, outcomes = stack_records(records)
  assert arrays["a"].tolist() == [[0, 0], [1, 1], [2, 2]]
  assert [(o.num_truncated, o.source) for o in outcomes] == [
    (0, "s"),
    (1, "s"),
    (2, "s"),
  ]
  assert all(not outcome.arrays for outcome in outcomes)
