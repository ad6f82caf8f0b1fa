"""TFDS: a data set that TFDS itself wrote, read back without TensorFlow."""

import concurrent.futures
import io
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from ddit_jax.data.example import BadRecord
from ddit_jax.data.sources.tfds import open_tfds

COUNT = 9


def png(number: int) -> bytes:
  file = io.BytesIO()
  Image.new("RGB", (8, 6), (number, 0, 0)).save(file, "PNG")
  return file.getvalue()


# Read-only: the code is not found again, as with data of other projects.
class TinyPets(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  VERSION = tfds.core.Version("1.2.0")
  pkg_dir_path = pathlib.Path(__file__).parent
  # TFDS would look for it with a library that it does not bring.
  code_path = None

  def _info(self):
    features = tfds.features
    return tfds.core.DatasetInfo(
      builder=self,
      features=features.FeaturesDict(
        {
          "image": features.Image(shape=(None, None, 3)),
          "caption": features.Text(),
          "label": features.ClassLabel(names=["cat", "dog"]),
          "answers": features.Sequence(features.Text()),
          "captions": features.Sequence(
            {"text": features.Text(), "id": np.int64}
          ),
          "number": np.int64,
        }
      ),
    )

  def _split_generators(self, manager):
    del manager
    return {"train": self._generate_examples(COUNT)}

  def _generate_examples(self, count):
    for i in range(count):
      yield (
        i,
        {
          "image": io.BytesIO(png(i)),
          "caption": f"pet {i} é",
          "label": -1 if i == 8 else i % 2,
          "answers": ["yes", "ja"][: i % 3],
          "captions": [{"text": "a", "id": 1}, {"text": "b", "id": 2}],
          "number": i,
        },
      )


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  folder = tmp_path_factory.mktemp("tfds")
  TinyPets(
    data_dir=str(folder), file_format="array_record"
  ).download_and_prepare()
  return str(folder)


@pytest.fixture
def opened(data_dir):
  def open_with(path="tfds:tiny_pets", text_key="caption", **options):
    return open_tfds(
      "pets", path=path, text_key=text_key, data_dir=data_dir, **options
    )

  return open_with


def read(source):
  return [source[i] for i in range(len(source))]


def number(example) -> int:
  """Which example TFDS's shuffle put here."""
  return int(example.texts[0].split()[1])


def test_images_come_as_the_bytes_that_were_written(opened):
  source = opened()
  examples = read(source)
  assert sorted(map(number, examples)) == list(range(COUNT))
  for example in examples:
    assert example.image == png(number(example))
    assert example.texts == (f"pet {number(example)} é",)
  assert examples[3].record_id == "tiny_pets/1.2.0:train:3"
  assert (source.name, source.removed) == ("pets", {})
  for index in (-1, COUNT):
    with pytest.raises(IndexError, match="pets has 9 records"):
      source[index]


def test_labels_lists_and_features_within_features(opened):
  numbers = list(map(number, read(opened())))

  def texts(source):
    values = []
    for index in range(len(source)):
      try:
        values.append(source[index].texts)
      except BadRecord as error:
        values.append(error.reason)
    return values

  labels = {8: "empty_text"}
  assert texts(opened(text_key="label")) == [
    labels.get(n, ("cat", "dog")[n % 2 : n % 2 + 1]) for n in numbers
  ]
  assert texts(opened(text_key="answers")) == [
    ("empty_text", ("yes",), ("yes", "ja"))[n % 3] for n in numbers
  ]
  assert texts(opened(text_key="captions/text")) == [("a", "b")] * COUNT


def test_texts_without_images(opened):
  assert {e.image for e in read(opened(image_key=None))} == {None}


def test_splits_and_versions(opened):
  whole = read(opened("tfds:tiny_pets:1.2.0:train"))
  part = opened("tfds:tiny_pets:train[:4]")
  assert [e.image for e in read(part)] == [e.image for e in whole[:4]]
  prints = {
    source.fingerprint() for source in [opened(), opened(image_key=None), part]
  }
  assert len(prints) == 3
  assert opened().fingerprint() == opened().fingerprint()


def test_threads_read_at_once(opened):
  source = opened()
  with concurrent.futures.ThreadPoolExecutor(8) as threads:
    parallel = list(threads.map(source.__getitem__, list(range(COUNT)) * 20))
  assert parallel == read(source) * 20


def test_damaged_records_are_bad_records(opened, monkeypatch):
  source = opened()

  class Damaged:
    def __init__(self, records):
      self.records = records

    def __len__(self):
      return len(self.records)

    def __getitem__(self, index):
      if isinstance(self.records[index], Exception):
        raise self.records[index]
      return self.records[index]

  damaged = [b"garbage", RuntimeError("Corrupted\nfile"), b""]
  monkeypatch.setattr(source, "_records", Damaged(damaged))
  reasons = []
  for index in range(len(damaged)):
    with pytest.raises(BadRecord, match=r"^tiny_pets/1\.2\.0:train:") as caught:
      source[index]
    assert "\n" not in caught.value.detail
    reasons.append(caught.value.reason)
  assert reasons == ["corrupt_shard", "corrupt_shard", "not_an_image"]


@pytest.mark.parametrize(
  ("path", "options", "message"),
  [
    ("tiny_pets", {}, "must be tfds:NAME"),
    (7, {}, r"path must be tfds:NAME.* not 7"),
    ("tfds:", {}, "must be tfds:NAME"),
    ("tfds:huggingface:mnist/x", {}, "no TFDS data set 'huggingface'"),
    ("tfds:tiny_petz", {}, "there is no TFDS data set 'tiny_petz', neither"),
    ("tfds:tiny_pets:test", {}, r"no split 'test': it has \['train'\]"),
    ("tfds:tiny_pets:train[", {}, "no split"),
    (
      "tfds:tiny_pets",
      {"image_key": "jpg"},
      r"'jpg' is not an image .*\['image'",
    ),
    ("tfds:tiny_pets", {"text_key": "text"}, "no feature 'text': there are"),
    ("tfds:tiny_pets", {"text_key": "captions/x"}, "no feature 'captions/x'"),
    ("tfds:tiny_pets", {"text_key": "caption/x"}, "no feature 'caption/x'"),
    ("tfds:tiny_pets", {"text_key": "number"}, "'number' is Tensor: texts"),
    ("tfds:tiny_pets", {"text_key": 3}, "text_key must name a feature, not 3"),
    ("tfds:tiny_pets", {"image_key": 3}, "image_key must name a feature"),
    ("tfds:mnist", {}, "mnist is not prepared in .* downloads and prepares"),
  ],
)
def test_what_cannot_be_opened(opened, path, options, message):
  with pytest.raises(ValueError, match=message) as caught:
    opened(path, **options)
  assert "\n" not in str(caught.value)


def test_a_builder_that_needs_what_is_absent_is_one_line(opened, monkeypatch):
  import tensorflow_datasets as tfds

  def builder(*_, **__):
    raise ImportError("no module\nnamed tensorflow")

  monkeypatch.setattr(tfds, "builder", builder)
  message = "tiny_pets cannot be opened in .*no module named tensorflow"
  with pytest.raises(ValueError, match=message) as caught:
    opened("tfds:tiny_pets")
  assert "\n" not in str(caught.value)


def test_tensorflow_and_jax_are_not_imported(data_dir):
  program = (
    "import sys; from ddit_jax.data.sources.tfds import open_tfds; "
    "s = open_tfds('p', path='tfds:tiny_pets', text_key='caption', "
    f"data_dir={data_dir!r}); s[0]; "
    "print({'tensorflow', 'jax'} & set(sys.modules))"
  )
  done = subprocess.run(
    [sys.executable, "-c", program], capture_output=True, text=True
  )
  assert (done.returncode, done.stdout) == (0, "set()\n"), done.stderr
