"""The order of records: fixed by the seed, continued by one integer."""

import threading

import jax
import numpy as np
import pytest

from ddit_jax.data.loader import ArrayRecords, DualStream, Stream, dual_batch

# Grain shuffles small sources slowly: a thousand cost less than twenty.
NUM_IMAGES, NUM_TEXTS = 1000, 700
IMAGE_BATCH, TEXT_BATCH = 96, 64


def numbered(count, **more):
  """Records whose images (modulo 256) and tokens say their own number."""
  numbers = np.arange(count)
  arrays = {
    "images": np.broadcast_to(
      numbers[:, None, None, None], (count, 2, 2, 3)
    ).astype(np.uint8),
    "tokens": numbers[:, None].repeat(5, axis=1).astype(np.int32),
  }
  return ArrayRecords(arrays | more)


def dual(seed=0, rows_of=range):
  loss_mask = np.ones((NUM_TEXTS, 5), bool)
  return DualStream(
    Stream(numbered(NUM_IMAGES), IMAGE_BATCH, seed),
    Stream(numbered(NUM_TEXTS, loss_mask=loss_mask), TEXT_BATCH, seed + 1),
    rows_of=rows_of,
  )


def take(stream, count):
  """The record numbers of the next batches, and the positions after them."""
  images, texts, positions = [], [], []
  for _ in range(count):
    batch, position = next(stream)
    images.append(batch.text_to_image.tokens[:, 0].tolist())
    texts.append(batch.image_to_text.tokens[:, 0].tolist())
    positions.append(position)
  return images, texts, positions


def test_batches_have_their_own_sizes_and_kinds():
  batch, _ = next(dual())
  assert batch.text_to_image.images.shape == (IMAGE_BATCH, 2, 2, 3)
  assert batch.text_to_image.images.dtype == np.uint8
  assert batch.image_to_text.tokens.shape == (TEXT_BATCH, 5)
  assert batch.image_to_text.loss_mask.dtype == bool
  rows = batch.text_to_image
  assert (rows.images[:, 0, 0, 0] == rows.tokens[:, 0] % 256).all()


def test_the_position_is_one_integer_a_stream():
  stream = dual()
  positions = [stream.position(), *take(stream, 3)[2]]
  for name in ("text_to_image", "image_to_text"):
    numbers = [list(position[name].values()) for position in positions]
    assert all(len(n) == 1 and type(n[0]) is int for n in numbers)
    steps = np.diff([n[0] for n in numbers])
    assert (steps == steps[0]).all() and steps[0] > 0


def test_every_epoch_holds_each_record_once_in_a_new_order():
  stream = dual()
  flat = np.concatenate(take(stream, 2 * NUM_IMAGES // IMAGE_BATCH + 1)[0])
  first, second = flat[:NUM_IMAGES], flat[NUM_IMAGES : 2 * NUM_IMAGES]
  assert sorted(first) == sorted(second) == list(range(NUM_IMAGES))
  assert first.tolist() != second.tolist()
  assert first.tolist() != sorted(first)


def test_the_order_depends_on_the_seed_alone():
  assert take(dual(3), 8) == take(dual(3), 8)
  assert take(dual(3), 8)[0] != take(dual(4), 8)[0]


@pytest.mark.parametrize("steps", [0, 1, 3, 4, 9])
def test_a_stream_continues_exactly_where_another_stopped(steps):
  reference = take(dual(), 15)
  stopped = dual()
  take(stopped, steps)
  position = stopped.position()
  assert steps == 0 or position == reference[2][steps - 1]
  resumed = dual()
  take(resumed, 2)  # it does not matter where it was
  resumed.seek(position)
  images, texts, positions = take(resumed, 15 - steps)
  assert images == reference[0][steps:]
  assert texts == reference[1][steps:]
  assert positions == reference[2][steps:]


def test_two_processes_read_what_one_reads():
  whole = take(dual(), 6)
  halves = []
  for index in (0, 1):

    def rows_of(size, index=index):
      return range(index * size // 2, (index + 1) * size // 2)

    halves.append(take(dual(rows_of=rows_of), 6))
  assert halves[0][2] == halves[1][2] == whole[2]
  for stream in (0, 1):
    for step in range(6):
      both = halves[0][stream][step] + halves[1][stream][step]
      assert both == whole[stream][step]


def test_a_position_of_other_streams_is_refused():
  stream = dual()
  with pytest.raises(ValueError, match=r"is of \['audio'\], the streams are"):
    stream.seek({"audio": {"next_index": 0}})


@pytest.mark.parametrize("name", ["text_to_image", "image_to_text"])
def test_a_stream_that_is_off_gives_none_and_has_no_position(name):
  both, _ = next(dual())
  streams = {
    "text_to_image": Stream(numbered(NUM_IMAGES), IMAGE_BATCH, 0),
    "image_to_text": Stream(
      numbered(NUM_TEXTS, loss_mask=np.ones((NUM_TEXTS, 5), bool)),
      TEXT_BATCH,
      1,
    ),
  }
  (other,) = streams.keys() - {name}
  single = DualStream(**streams | {name: None})
  batch, position = next(single)
  assert getattr(batch, name) is None and set(position) == {other}
  jax.tree.map(
    np.testing.assert_array_equal, getattr(batch, other), getattr(both, other)
  )
  second, _ = next(single)
  single.seek(position)
  again, _ = next(single)
  jax.tree.map(np.testing.assert_array_equal, second, again)
  with pytest.raises(ValueError, match="switch on what was on"):
    dual().seek(position)
  single.close()


def test_one_stream_must_be_on():
  with pytest.raises(ValueError, match="both streams are off"):
    DualStream()


def test_texts_alone_have_no_images():
  rows = {"tokens": np.zeros((2, 5), np.int32), "loss_mask": np.ones((2, 5))}
  batch = dual_batch(image_to_text=rows)
  assert batch.text_to_image is None
  assert batch.image_to_text.images is batch.image_to_text.has_image is None
  assert batch.image_to_text.tokens.shape == (2, 5)


def test_an_empty_source_is_refused():
  with pytest.raises(ValueError, match="has no records"):
    DualStream(Stream(numbered(0), 2, 0), Stream(numbered(4), 2, 0))


def test_closing_leaves_no_threads_and_no_noise(capfd):
  before = set(threading.enumerate())
  stream = dual()
  take(stream, 5)
  stream.close()
  assert set(threading.enumerate()) - before == set()
  assert capfd.readouterr() == ("", "")
