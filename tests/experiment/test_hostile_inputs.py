"""Seventy hostile or broken inputs in one run: none crashes or hangs it.

Each is a source of its own beside a sound record. `-s` prints what became of
each.
"""

import collections
import contextlib
import json
import math
import signal

import numpy as np
import pytest
from PIL import Image

from ddit_jax.config.load import from_dict
from ddit_jax.data.bad_records import TooManyBadRecords
from ddit_jax.data.sources.registry import open_source
from ddit_jax.experiment.config import Config
from ddit_jax.experiment.data import open_data, open_sources
from ddit_jax.experiment.vocabulary import make_tokenizer
from tests.experiment import hostile_pictures, hostile_shards, hostile_texts
from tests.experiment.hostile_inputs import (
  ANY_SIZE,
  LEFT_OUT,
  REFUSED,
  REPLACED,
  USED,
)

HOSTILE = {
  one.name: one
  for group in (hostile_pictures, hostile_texts, hostile_shards)
  for one in group.HOSTILE
}
BATCHES = 4
SECONDS = 15.0


@contextlib.contextmanager
def within(seconds: float, what: str):
  """Fails, instead of hanging, where something waits for ever."""

  def ring(number, frame):
    raise TimeoutError(f"{what} takes more than {seconds} s")

  before = signal.signal(signal.SIGALRM, ring)
  signal.setitimer(signal.ITIMER_REAL, seconds)
  try:
    yield
  finally:
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def settings_of(sources, **data):
  """Texts of all sources in turn, as many a batch as there are."""
  off = {"batch_size": 0}
  on = {
    "batch_size": len(sources),
    "image_size": 16,
    "text_length": 24,
    "mixture": {"0": dict.fromkeys(sources, 1.0)},
  }
  given = {"sources": sources, "tokenizer": "words", "max_bad_share": 1.0}
  streams = {"text_to_image": off, "image_to_text": on}
  return from_dict(Config, {"data": given | streams | data})


def opened_data(settings, sources, workdir):
  tokenizer = make_tokenizer(settings.data, None, sources)
  return open_data(settings, tokenizer, sources, workdir)


def open_all(folder):
  """(spec of each source that opens, source, line of each that does not)."""
  specs, sources, refused = {}, {}, {}
  for number, one in enumerate(HOSTILE.values()):
    place = folder / f"{number:02}"
    place.mkdir()
    spec = one.write(place)
    try:
      with within(SECONDS, one.name):
        sources[one.name] = open_source(one.name, spec)
      specs[one.name] = spec
    except ValueError as error:
      refused[one.name] = str(error)
  return specs, sources, refused


def read_all(data, num_batches):
  stream = data.training_loader()
  with within(SECONDS, "reading"):
    batches = [next(stream)[0] for _ in range(num_batches)]
    stream.close()
  return batches


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """(batches, what became of each input, listed records)."""
  folder = tmp_path_factory.mktemp("hostile")
  specs, sources, refused = open_all(folder)
  data = opened_data(settings_of(specs), sources, folder)
  # Packed rows are counted when the stream is made.
  data.training_loader().close()
  for number, one in enumerate(HOSTILE.values()):
    if one.spoil is not None:
      one.spoil(folder / f"{number:02}")
  batches = read_all(data, BATCHES)
  lines = (folder / "bad_records.0.jsonl").read_text().splitlines()
  listed = [json.loads(line) for line in lines]
  became = {
    name: outcome(name, sources, refused, data.log.counts()) for name in HOSTILE
  }
  return batches, became, listed


def outcome(name, sources, refused, counts):
  """(what became of an input, reason or message, how often)."""
  if name in refused:
    return REFUSED, refused[name], 1
  bad = {
    key.removeprefix(f"{name}/bad/"): count
    for key, count in counts.items()
    if key.startswith(f"{name}/bad/")
  }
  if bad:
    ((reason, count),) = bad.items()
    return REPLACED, reason, count
  if removed := dict(removed_of(sources[name])):
    ((reason, count),) = removed.items()
    return LEFT_OUT, reason, count
  return USED, "", counts[f"{name}/reads"]


def removed_of(source):
  """What a source left out, packing included."""
  if not getattr(source, "has_images", True):
    (rows,) = source._rows.values()
    return rows.removed
  return source.removed


def test_there_are_enough_different_inputs():
  assert len(HOSTILE) >= 40
  outcomes = collections.Counter(one.outcome for one in HOSTILE.values())
  assert min(outcomes.values()) >= 5


def test_each_input_becomes_what_is_promised(run):
  _, became, _ = run
  print("\n    input, what became of it, how often, reason")
  for number, (name, (what, reason, count)) in enumerate(became.items(), 1):
    print(f"{number:2}  {name:36} {what:9} {count:2}  {reason}")
  for name, (what, reason, _) in became.items():
    wanted = HOSTILE[name]
    assert what == wanted.outcome, name
    if what == REFUSED:
      assert wanted.reason in reason, name
    else:
      assert reason == wanted.reason, name


def test_every_replaced_record_is_counted_and_listed(run):
  _, became, listed = run
  found = collections.Counter((row["source"], row["reason"]) for row in listed)
  for name, (what, reason, count) in became.items():
    num_listed = found.pop((name, reason), 0)
    if what == REPLACED:
      assert num_listed == count
    elif what == LEFT_OUT:
      # Filters are no faults, and packed rows list nothing.
      assert num_listed in (0, count)
  assert not found
  for row in listed:
    assert row["record_id"] and 0 < len(row["detail"]) <= 400
    assert "\n" not in row["detail"]


def test_what_is_refused_is_one_clear_line(run):
  _, became, _ = run
  for name, (what, message, _) in became.items():
    if what == REFUSED:
      assert message.startswith(f"{name}: ") and "\n" not in message
      assert len(message) < 600


def test_batches_are_whole_and_of_sound_records(run):
  batches, became, _ = run
  size = sum(what != REFUSED for what, _, _ in became.values())
  for batch in batches:
    texts = batch.image_to_text
    assert texts.images.shape == (size, 16, 16, 3)
    assert texts.images.dtype == np.uint8
    assert texts.tokens.shape == texts.loss_mask.shape == (size, 24)
    assert texts.has_image.sum() >= size - 3


def test_above_one_percent_the_run_stops_with_one_line(tmp_path):
  count, num_bad = 200, 5
  for i in range(count):
    Image.new("RGB", (16, 16), (i, 0, 0)).save(tmp_path / f"{i}.png")
    (tmp_path / f"{i}.txt").write_text("a red square")
  for i in range(num_bad):
    (tmp_path / f"{i}.png").write_bytes(b"no picture")
  spec = {"kind": "image_folder", "path": str(tmp_path), "filters": ANY_SIZE}
  sources = {"mine": open_source("mine", spec)}
  text = {"batch_size": 50, "image_size": 16, "text_length": 8}
  settings = settings_of(
    {"mine": spec},
    image_to_text=text | {"mixture": {"0": {"mine": 1.0}}},
    max_bad_share=0.01,
  )
  data = opened_data(settings, sources, tmp_path)
  with pytest.raises(TooManyBadRecords) as caught:
    read_all(data, 40)
  message = str(caught.value)
  counts = data.log.counts()
  assert counts["mine/reads"] >= 1000
  assert counts["mine/bad"] / counts["mine/reads"] > 0.01
  assert "of 'mine' could not be read, the last for not_an_image" in message
  assert "at most 1.00% may fail" in message and "\n" not in message


@pytest.mark.parametrize(
  ("data", "message"),
  [
    (
      {"max_bad_share": math.nan},
      "max_bad_share must be a finite number, got nan",
    ),
    (
      {"filters": {"max_ratio": math.nan}},
      "max_ratio must be a finite number, got nan",
    ),
    ({"weight": math.nan}, "nan"),
    ({"weight": -1.0}, "-1"),
  ],
)
def test_settings_that_are_no_numbers_are_refused(data, message, tmp_path):
  (tmp_path / "a.png").write_bytes(hostile_shards.SOUND["sound.png"])
  (tmp_path / "a.txt").write_text("a red square")
  spec = {"kind": "image_folder", "path": str(tmp_path), "filters": ANY_SIZE}
  spec["filters"] = data.pop("filters", ANY_SIZE)
  weight = data.pop("weight", 1.0)
  text = {"batch_size": 2, "mixture": {"0": {"mine": weight}}}
  with pytest.raises(ValueError, match=message):
    settings = settings_of({"mine": spec}, image_to_text=text, **data)
    sources = open_sources(settings.data)
    opened_data(settings, sources, tmp_path)
