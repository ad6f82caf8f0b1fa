"""One shape for each batch: exact pictures, kept weights, one position."""

import collections
import dataclasses
import errno
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ddit_jax.data import aspect_buckets
from ddit_jax.data.aspect_buckets import (
  BucketMixture,
  assign_shapes,
  image_sizes,
  lost_share,
  nearest_shape,
)
from ddit_jax.data.bad_records import ReadLog
from ddit_jax.data.config import DataConfig, TaskConfig
from ddit_jax.data.example import BadRecord, Example
from ddit_jax.data.image import ImageConfig, ImageTransform
from ddit_jax.data.mixture import Mixture, source_seed
from ddit_jax.data.schedule import parse_schedule
from ddit_jax.data.text import TextConfig, TextTransform
from ddit_jax.data.tokenizers import word_tokenizer
from ddit_jax.data.training_data import TrainingData
from ddit_jax.data.transforms import ImageToTextTransform, TextToImageTransform
from ddit_jax.errors import InputError
from ddit_jax.experiment.config import Config
from ddit_jax.losses.dual import DualLoss
from tests.data.test_mixture import Records

SHAPES = ImageConfig(image_size=512, crop="bucket").shapes
NUMBERS = [f"n{i}" for i in range(40)]
TOKENIZER = word_tokenizer(NUMBERS)


def test_shapes_are_the_largest_of_the_area_on_either_side():
  # By hand: 64 * 6 = 384, 512^2 // 384 // 64 * 64 = 640, and so on.
  wide = [(384, 640), (448, 576), (512, 512)]
  assert set(SHAPES) == {*wide, *((w, h) for h, w in wide)}
  for height, width in SHAPES:
    assert height * width <= 512**2 < (height + 64) * (width + 64)
  tall = ImageConfig(image_size=512, crop="bucket", max_aspect_ratio=4.0)
  assert (256, 1024) in tall.shapes
  assert ImageConfig(image_size=512).shapes == ((512, 512),)


@given(st.integers(1, 3000), st.integers(1, 3000))
@settings(max_examples=200, deadline=None)
def test_the_loss_is_what_covering_leaves_over(height, width):
  for shape in SHAPES:
    # A scale at which the image covers the shape, in exact thousandths.
    scale = max(shape[0] / height, shape[1] / width)
    over = height * scale * width * scale - shape[0] * shape[1]
    want = over / (height * scale * width * scale)
    assert lost_share((height, width), shape) == pytest.approx(want, abs=1e-9)
  best = nearest_shape((height, width), SHAPES)
  losses = [lost_share((height, width), shape) for shape in SHAPES]
  assert lost_share((height, width), best) == min(losses)


def test_a_shape_of_too_few_images_is_given_up():
  sizes = {"web": [(640, 384)] * 3 + [(384, 640)] * 2 + [(1, 1), None]}
  (numbers,) = assign_shapes(sizes, SHAPES, square=(512, 512), least=3).values()
  square, tall = SHAPES.index((512, 512)), SHAPES.index((640, 384))
  assert numbers.tolist() == [tall] * 3 + [square] * 4


def bucket_mixture(config, numbers, batch_size=4):
  """Records that know their number, in buckets 0, 1, ..."""

  def mixture_of(number, schedule):
    readers = {
      name: Records(f"{name}/{number}", int((found == number).sum()))
      for name, found in numbers.items()
      if (found == number).any()
    }
    return Mixture(
      readers,
      schedule,
      batch_size=batch_size,
      seed_of=lambda name: source_seed(number, name),
    )

  return BucketMixture(
    numbers,
    parse_schedule(config),
    batch_size=batch_size,
    mixture_of=mixture_of,
  )


CONFIG = {"0": {"web": 3, "art": 1}, "100": {"art": 1}, "150": {"web": 1}}
FOUND = {
  "web": np.repeat([0, 1, 2], [10, 60, 30]),
  # No record of the first shape, and one of the last.
  "art": np.repeat([1, 2, 3], [20, 15, 5]),
}


def test_a_batch_has_one_shape_and_sources_keep_their_weights():
  mixture = bucket_mixture(CONFIG, FOUND)
  records = [mixture[place] for place in range(4 * 200)]
  shapes = [int(name.split("/")[1]) for name, _, _ in records]
  for batch in range(200):
    assert len(set(shapes[4 * batch : 4 * batch + 4])) == 1
  names = [name.split("/")[0] for name, _, _ in records]
  phases = [names[:400], names[400:600], names[600:]]
  share = [phase.count("web") / len(phase) for phase in phases]
  # Whole batches of a shape come and go: 2 % of 100 batches.
  assert share == pytest.approx([0.75, 0, 1], abs=0.02)
  # Web's shapes in the last phase are those of its records.
  last = collections.Counter(shapes[600:])
  assert last[0] / 200 == pytest.approx(0.1, abs=0.02)
  assert last[1] / 200 == pytest.approx(0.6, abs=0.02)


def test_every_record_comes_once_an_epoch():
  mixture = bucket_mixture({"0": {"web": 1}}, {"web": FOUND["web"]}, 1)
  counts = collections.Counter(mixture[i][:2] for i in range(200))
  assert len(counts) == 100
  assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize("start", [0, 17 * 4, 130 * 4])
def test_processes_read_the_rows_of_one_order(start):
  mixture = bucket_mixture(CONFIG, FOUND)
  halves = [mixture.rows(rows, start) for rows in ((0, 1), (2, 3))]
  for batch in range(30):
    found = [half[2 * batch + i] for half in halves for i in (0, 1)]
    place = start + 4 * batch
    assert found == [mixture[place + i] for i in range(4)]


class Pictures:
  """Pictures of several sizes, two of them unreadable."""

  def __init__(self, sizes=((8, 8), (12, 6), (6, 13))):
    self.name, self.removed = "web", {}
    self._sizes, self.num_reads = sizes, collections.Counter()

  def __len__(self):
    return 40

  def __getitem__(self, index):
    self.num_reads[index] += 1
    height, width = self._sizes[index % 3]
    values = np.random.default_rng(index).integers(0, 256, (height, width, 3))
    file = io.BytesIO()
    Image.fromarray(values.astype(np.uint8)).save(file, "PNG")
    image = b"nothing" if index in (5, 6) else file.getvalue()
    return Example(record_id=f"{index}", image=image, texts=(NUMBERS[index],))

  def fingerprint(self):
    return ""


def training_data(tmp_path, source=None, *, has_both_tasks=False):
  source = source or Pictures()
  task = TaskConfig(
    batch_size=4,
    mixture={"0": {"web": 1.0}},
    image_size=8,
    crop="bucket",
    bucket_step=2,
    text_length=1,
  )
  config = DataConfig(
    sources={"web": {}},
    text_to_image=task
    if has_both_tasks
    else dataclasses.replace(task, batch_size=0),
    image_to_text=task,
    validation_size=4,
    held_out_share=0.1,
    max_bad_share=0.5,
  )
  parts = {
    "images": ImageTransform(config=task),
    "texts": TextTransform(
      tokenizer=TOKENIZER, config=TextConfig(text_length=1)
    ),
  }
  return source, TrainingData.of_sources(
    config,
    {"web": source},
    transforms={
      "text_to_image": TextToImageTransform(**parts),
      "image_to_text": ImageToTextTransform(**parts),
    },
    caches={},
    seed=0,
    log=ReadLog(tmp_path / "bad.jsonl", config),
  )


def test_sizes_are_read_once_for_both_tasks_in_their_order(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(aspect_buckets, "_CHUNK", 7)
  source, data = training_data(tmp_path, has_both_tasks=True)
  assert source.num_reads == dict.fromkeys(range(40), 1)
  assert data.shape_digests.keys() == {"text_to_image", "image_to_text"}
  want = [[(8, 8), (12, 6), (6, 13)][i % 3] for i in range(40)]
  want[5] = want[6] = None
  assert image_sizes(source, 3) == want


def test_equal_digests_mean_equal_shapes_of_all_records(tmp_path):
  def digest(sizes):
    _, data = training_data(tmp_path, Pictures(sizes))
    return data.shape_digests["image_to_text"]["web"]

  first = digest([(8, 8), (12, 6), (6, 13)])
  # (16, 8) is cut to the shape of (12, 6).
  assert digest([(8, 8), (16, 8), (6, 13)]) == first
  assert digest([(8, 8), (6, 13), (12, 6)]) != first


class Failing(Pictures):
  """A source one of whose files cannot be read."""

  def __init__(self, cause, *, is_bad_record=True):
    super().__init__()
    self._cause, self._is_bad_record = cause, is_bad_record

  def __getitem__(self, index):
    if index != 9:
      return super().__getitem__(index)
    if not self._is_bad_record:
      raise self._cause
    raise BadRecord("unreadable_file", "9.png", "9") from self._cause


@pytest.mark.parametrize("is_bad_record", [True, False])
def test_a_disk_that_fails_for_a_moment_makes_no_squares(is_bad_record):
  cause = OSError(errno.EIO, "Input/output error")
  source = Failing(cause, is_bad_record=is_bad_record)
  with pytest.raises(InputError, match="web: the size of an image cannot be"):
    image_sizes(source, 1)


@pytest.mark.parametrize(
  "cause",
  [
    None,
    FileNotFoundError(errno.ENOENT, "No such file or directory"),
    PermissionError(errno.EACCES, "Permission denied"),
    # As pyarrow says that a file is damaged.
    OSError("Corrupt snappy compressed data."),
  ],
)
def test_a_bad_record_has_no_size(cause):
  assert image_sizes(Failing(cause), 1)[9] is None


def covering_crop(image, shape):
  """Resized to cover the (height, width), its centre cut out, by Pillow."""
  scale = max(shape[0] / image.height, shape[1] / image.width)
  # Sides are whole numbers here, so that rounding plays no part.
  sides = [side * scale for side in image.size]
  assert sides == pytest.approx([round(side) for side in sides], abs=0.9)
  large = image.resize([int(side + 1e-9) for side in sides], 3)
  left = (large.width - shape[1]) // 2
  top = (large.height - shape[0]) // 2
  return np.asarray(large.crop((left, top, left + shape[1], top + shape[0])))


def test_batches_hold_the_pictures_in_their_shapes(tmp_path):
  source, data = training_data(tmp_path)
  loader = data.training_loader()
  seen, positions, tokens = collections.Counter(), [], []
  for _ in range(24):
    batch, position = next(loader)
    texts = batch.image_to_text
    positions.append(position)
    tokens.append(texts.tokens)
    shape = texts.images.shape[1:3]
    seen[shape] += 1
    for pixels, ids in zip(texts.images, texts.tokens, strict=True):
      index = NUMBERS.index(TOKENIZER.tokens(ids)[0])
      image = Image.open(io.BytesIO(source[index].image))
      assert nearest_shape((image.height, image.width), list(seen)) == shape
      np.testing.assert_array_equal(pixels, covering_crop(image, shape))
  # (6, 13) is cut to (6, 10): 8 * 8 pixels at most, in steps of 2.
  assert set(seen) == {(8, 8), (10, 6), (6, 10)}
  # A restart goes on with the same batches.
  loader.seek(positions[10])
  again, position = next(loader)
  assert position == positions[11]
  np.testing.assert_array_equal(again.image_to_text.tokens, tokens[11])
  validation = data.validation_batch().image_to_text.images
  assert validation.shape == (4, 8, 8, 3)
  line = data.description.splitlines()[-1]
  assert "8x8" in line and "10x6" in line and "6x10" in line
  loader.close()


def test_it_excludes_merging_and_steps_that_do_not_divide():
  data = DataConfig(sources={"web": {}})
  task = dataclasses.replace(
    data.text_to_image, crop="bucket", mixture={"0": {"web": 1.0}}
  )
  data = dataclasses.replace(data, text_to_image=task)
  with pytest.raises(ValueError, match="crop is bucket, and loss"):
    Config(data=data, loss=DualLoss(is_merged=True))
  with pytest.raises(ValueError, match="does not divide image_size = 256"):
    ImageConfig(crop="bucket", bucket_step=48)
  with pytest.raises(ValueError, match=r"must be in \[1, 100\]"):
    ImageConfig(max_aspect_ratio=float("inf"))
