"""One order of several sources: exact weights, once an epoch, kept by edits."""

import collections
import dataclasses
import sys
from fractions import Fraction

import pytest
from hypothesis import example as also
from hypothesis import given, settings
from hypothesis import strategies as st

from ddit_jax.data.mixture import Interleave, Mixture, source_seed
from ddit_jax.data.schedule import MAX_CYCLE, parse_schedule

# Grain shuffles small sources slowly: larger ones cost less.
SIZES = {"art": 60, "photos": 90, "web": 130}


@dataclasses.dataclass
class Records:
  """A reader that says what it was asked for."""

  name: str
  count: int
  record_bytes: int = 100

  def __len__(self):
    return self.count

  def read(self, visit, index):
    assert 0 <= index < self.count
    return self.name, int(index), visit

  def record_id(self, index):
    return f"number {index}"


def mixture(config, batch_size=4, seed=0, sizes=SIZES):
  readers = {name: Records(name, count) for name, count in sizes.items()}
  return Mixture(
    readers,
    parse_schedule(config),
    batch_size=batch_size,
    seed_of=lambda name: source_seed(seed, name),
  )


def visits(mixed, stop):
  return collections.Counter(mixed.locate(place)[0] for place in range(stop))


def take(mixed, count, start=0):
  return [mixed[position] for position in range(start, start + count)]


WEIGHTS = st.fixed_dictionaries(
  {name: st.integers(0, 9) for name in SIZES}
).filter(lambda weights: any(weights.values()))
SCHEDULES = st.dictionaries(st.integers(1, 30), WEIGHTS, max_size=3).flatmap(
  lambda later: WEIGHTS.map(lambda first: {0: first} | later)
)
QUICK = settings(deadline=None, max_examples=15)


@QUICK
@given(config=SCHEDULES, batch_size=st.integers(1, 5))
def test_weights_hold_within_one_record_in_every_phase(config, batch_size):
  mixed = mixture(config, batch_size)
  phases = parse_schedule(config).phases
  stops = [phase.start for phase in phases[1:]] + [40]
  for phase, stop in zip(phases, stops, strict=True):
    parts, counts = dict(phase.parts), collections.Counter()
    first = phase.start * batch_size
    for place in range(1, (stop - phase.start) * batch_size + 1):
      counts[mixed.locate(first + place - 1)[0]] += 1
      for name in SIZES:
        share = Fraction(place * parts.get(name, 0), sum(parts.values()))
        assert abs(counts[name] - share) < 1


@QUICK
@given(config=SCHEDULES, seed=st.integers(0, 99))
def test_every_source_is_read_once_an_epoch_across_phases(config, seed):
  read = collections.defaultdict(list)
  mixed = mixture(config, 4, seed)
  for place, (name, index, visit) in enumerate(take(mixed, 300)):
    assert mixed.locate(place) == (name, visit)
    assert mixed.record_id(place) == f"{name}: number {index}"
    assert visit == len(read[name])
    read[name].append(index)
  for name, indices in read.items():
    size = SIZES[name]
    for start in range(0, len(indices), size):
      epoch = indices[start : start + size]
      assert len(set(epoch)) == len(epoch)


@QUICK
@given(config=SCHEDULES, edit=WEIGHTS, step=st.integers(0, 30))
def test_a_future_phase_leaves_earlier_records_alone(config, edit, step):
  kept = {start: weights for start, weights in config.items() if start < step}
  edited = kept | {step: edit}
  if step == 0:
    return
  before, after = mixture(config), mixture(edited)
  assert take(before, 4 * step) == take(after, 4 * step)
  # And every source goes on where it was.
  read = visits(before, 4 * step)
  for name, visit in map(after.locate, range(4 * step, 4 * step + 20)):
    assert visit == read[name]
    read[name] += 1


def test_records_may_be_read_in_any_order():
  config = {"0": {"web": 3, "art": 1}, "7": {"photos": 1, "art": 1}}
  forwards = take(mixture(config), 60)
  mixed = mixture(config)
  assert [mixed[p] for p in reversed(range(60))] == forwards[::-1]


def test_epochs_differ_and_seeds_differ():
  mixed = mixture({"0": {"web": 1}})
  first, second = take(mixed, 130), take(mixed, 130, 130)
  assert sorted(r[1] for r in first) == sorted(r[1] for r in second)
  orders = [[record[1] for record in epoch] for epoch in (first, second)]
  orders.append([r[1] for r in take(mixture({"0": {"web": 1}}, seed=1), 130)])
  orders.append(list(range(130)))
  assert len({tuple(order) for order in orders}) == 4


def test_sources_of_one_length_have_orders_of_their_own():
  sizes = {"a": 90, "b": 90}
  mixed = mixture({"0": {"a": 1, "b": 1}}, sizes=sizes)
  orders = collections.defaultdict(list)
  for name, index, _ in take(mixed, 900):
    orders[name].append(index)
  epochs = [
    tuple(order[start : start + 90])
    for order in orders.values()
    for start in range(0, 450, 90)
  ]
  assert len(set(epochs)) == 10


def test_other_sources_do_not_change_a_sources_order():
  alone = [r[1] for r in take(mixture({"0": {"web": 1}}), 40)]
  mixed = mixture({"0": {"web": 2, "art": 3}, "6": {"web": 1, "photos": 7}})
  among = [r[1] for r in take(mixed, 150) if r[0] == "web"]
  assert len(among) > 15
  assert among == alone[: len(among)]


def test_a_source_of_weight_zero_is_never_read():
  mixed = mixture({"0": {"web": 1, "art": 0}, "3": {"art": 1}})
  names = [record[0] for record in take(mixed, 20)]
  assert names == ["web"] * 12 + ["art"] * 8


def test_steps_are_of_the_global_batch():
  for batch_size in (1, 3, 8):
    mixed = mixture({"0": {"web": 1}, "5": {"art": 1}}, batch_size)
    names = [record[0] for record in take(mixed, 7 * batch_size)]
    assert names == ["web"] * 5 * batch_size + ["art"] * 2 * batch_size


def test_it_is_endless_and_far_places_are_quick():
  mixed = mixture({"0": {"web": 3, "art": 1}})
  assert len(mixed) == sys.maxsize
  name, index, visit = mixed[10**14]
  assert index < SIZES[name] and visit > 10**13


def test_a_real_proportion():
  mixed = mixture({"0": {"web": 0.7, "art": 0.2, "photos": 0.1}})
  counts = collections.Counter(mixed.locate(p)[0] for p in range(1000))
  assert counts == {"web": 700, "art": 200, "photos": 100}


def test_the_largest_record_is_reserved_for():
  readers = {"a": Records("a", 2, 70), "b": Records("b", 2, 90)}
  schedule = parse_schedule({"0": {"a": 1}})
  mixed = Mixture(readers, schedule, batch_size=2, seed_of=len)
  assert mixed.record_bytes == 90


def test_bad_input_is_refused():
  with pytest.raises(ValueError, match=r"name \['maps'\]; there are \['art'"):
    mixture({"0": {"maps": 1}})
  with pytest.raises(ValueError, match="batch size must be positive, got 0"):
    mixture({"0": {"web": 1}}, batch_size=0)
  with pytest.raises(IndexError, match="begin at 0, got -1"):
    mixture({"0": {"web": 1}})[-1]


def test_the_order_is_the_one_published():
  """The first records of a fixed seed: a change would break running jobs."""
  mixed = mixture({"0": {"web": 2, "art": 1}}, seed=7)
  found = [(name, int(index)) for name, index, _ in take(mixed, 6)]
  assert found == [
    ("web", 70),
    ("art", 55),
    ("web", 99),
    ("web", 35),
    ("art", 58),
    ("web", 93),
  ]


def test_some_rows_of_each_batch_from_a_position_on():
  mixed = mixture({"0": {"web": 2, "art": 1}, "3": {"art": 1}}, batch_size=4)
  rows = mixed.rows([1, 3], start=8)
  assert [rows[i] for i in range(6)] == [
    mixed[position] for position in (9, 11, 13, 15, 17, 19)
  ]


PARTS = st.lists(st.integers(1, 30), min_size=1, max_size=7).map(
  lambda numbers: {f"s{i}": number for i, number in enumerate(numbers)}
)


def cycle(parts, count):
  mixed = Interleave(parts)
  return [mixed.locate(place)[0] for place in range(count)]


def test_small_cycles_by_hand():
  assert cycle({"a": 1}, 3) == ["a", "a", "a"]
  assert cycle({"a": 1, "b": 1}, 4) == ["a", "b", "a", "b"]
  assert cycle({"a": 3, "b": 1}, 8) == [*"aaba", *"aaba"]


@settings(deadline=None, max_examples=150)
@given(parts=PARTS)
# A large share beside many small ones, where sorting by ideal places fails.
@also(parts={"big": 30, **{f"s{i}": 1 for i in range(30)}})
def test_counts_stay_within_one_of_their_share(parts):
  mixed, total = Interleave(parts), sum(parts.values())
  counts = dict.fromkeys(parts, 0)
  bound = 1 - Fraction(1, 2 * len(parts) - 2) if len(parts) > 1 else 0
  for place in range(2 * total):
    assert mixed.counts(place) == counts
    name, earlier = mixed.locate(place)
    assert earlier == counts[name]
    counts[name] += 1
    for key, part in parts.items():
      error = abs(Fraction(part * (place + 1), total) - counts[key])
      assert error <= bound
    assert sum(counts.values()) == place + 1
  assert counts == {name: 2 * part for name, part in parts.items()}


@settings(deadline=None, max_examples=50)
@given(parts=PARTS, place=st.integers(0, 10**15))
def test_far_places_agree_with_their_counts(parts, place):
  mixed = Interleave(parts)
  before, after = mixed.counts(place), mixed.counts(place + 1)
  name, earlier = mixed.locate(place)
  assert sum(before.values()) == place
  assert earlier == before[name]
  assert after == before | {name: earlier + 1}


@pytest.mark.parametrize(
  "parts", [{}, {"a": 0}, {"a": 2, "b": -1}, {"a": MAX_CYCLE, "b": 1}]
)
def test_senseless_parts_are_refused(parts):
  with pytest.raises(
    ValueError, match="must be positive and add up to at most"
  ):
    Interleave(parts)
