"""Reads ArrayRecord files from tensorflow-datasets without TensorFlow.

Nothing is downloaded: a missing data set raises an error with the command that
prepares it.
"""

import contextlib
import hashlib
import io
import os
import re
from collections.abc import Mapping
from typing import Any

from ddit_jax.data.example import BadRecord, Example
from ddit_jax.data.sources.annotations import texts_of
from ddit_jax.files import local_path

_PATH = re.compile(
  r"tfds:(?P<name>\w+(/[\w.\-+]+)?(:\d+\.\d+\.\d+)?)(:(?P<split>.+))?"
)
_DETAIL_LENGTH = 200


class _TfdsSource:
  """The examples of one split."""

  def __init__(
    self,
    name: str,
    builder: Any,
    *,
    split: str,
    image_key: str | None,
    text_key: str,
  ):
    """Opens no shard yet.

    Args:
      name: name in the config.
      builder: a `tfds.core.DatasetBuilder` whose data is on disk.
      split: in TFDS's notation, e.g. "train[:50%]".
      image_key: a top-level `Image` feature; None for texts without images.
      text_key: a `Text` or `ClassLabel` feature or a sequence of these;
        "captions/text" is the feature "text" within "captions".

    Raises:
      ValueError: no such split or feature, or one of another type.
    """
    import tensorflow_datasets as tfds

    self.name = name
    self.removed: dict[str, int] = {}
    self._image_key, self._text_path = image_key, text_key.split("/")
    self._place = f"{builder.info.full_name}:{split}"
    features = builder.info.features
    self._label_names = _label_names(features, text_key)
    keys = [self._text_path[0]]
    self._decoders = {}
    if image_key is not None:
      _require_image(features, image_key)
      keys.append(image_key)
      self._decoders[image_key] = tfds.decode.SkipDecoding()
    # Other features are never parsed: some need TensorFlow.
    self._features = tfds.features.FeaturesDict(
      {key: features[key] for key in keys}
    )
    self._shards = builder.info.splits[split].file_instructions
    self._records = builder.as_data_source(
      split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
    )

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> Example:
    """One example.

    Raises:
      BadRecord: corrupt_shard, not_an_image, bad_text or empty_text.
      IndexError: index outside 0..len-1.
    """
    if not 0 <= index < len(self):
      raise IndexError(f"{self.name} has {len(self)} records, not {index}")
    record_id = f"{self._place}:{index}"
    try:
      values = self._features.deserialize_example_np(
        self._records[index], decoders=self._decoders
      )
    # Reading and parsing damaged records may raise any exception.
    except Exception as error:
      detail = " ".join(f"{type(error).__name__}: {error}".split())
      detail = detail[:_DETAIL_LENGTH]
      raise BadRecord("corrupt_shard", detail, record_id) from error
    return Example(
      record_id=record_id,
      image=self._image(values, record_id),
      texts=self._texts(values, record_id),
    )

  def fingerprint(self) -> str:
    """Digest of version, split, features and the files' sizes and times."""
    keys = f"{self._place} {self._image_key} {self._text_path}\n"
    digest = hashlib.blake2b(keys.encode(), digest_size=16)
    for shard in self._shards:
      status = os.stat(shard.filename)
      facts = (
        os.path.basename(shard.filename),
        shard.skip,
        shard.take,
        status.st_size,
        status.st_mtime_ns,
      )
      digest.update(f"{facts}\n".encode())
    return digest.hexdigest()

  def _image(self, values: Mapping[str, Any], record_id: str) -> bytes | None:
    if self._image_key is None:
      return None
    image = values[self._image_key]
    if not isinstance(image, bytes) or not image:
      detail = f"a {type(image).__name__} instead of an encoded image"
      raise BadRecord("not_an_image", detail, record_id)
    return image

  def _texts(
    self, values: Mapping[str, Any], record_id: str
  ) -> tuple[str, ...]:
    value: Any = values
    for key in self._text_path:
      value = value[key]
    if self._label_names is None:
      return texts_of(value, record_id)
    labels = value if isinstance(value, list) else [value]
    names = self._label_names
    # TFDS marks examples without a label by -1.
    return texts_of([names[i] for i in labels if i >= 0], record_id)


def open_tfds(
  name: str,
  *,
  path: str,
  text_key: str,
  image_key: str | None = "image",
  data_dir: str | None = None,
) -> _TfdsSource:
  """Opens a data set that TFDS prepared with file_format="array_record".

  Args:
    name: name in the config.
    path: "tfds:NAME[/config][:version][:split]"; the split defaults to "train"
      and may be a part, such as "train[:50%]".
    text_key: feature that holds the texts, "/" for features within features;
      class labels give their names.
    image_key: feature that holds the image; None if there are only texts.
    data_dir: folder of the data; TFDS's default if None.

  Raises:
    ValueError: a path of another form, tensorflow-datasets is absent, data
      that is not on disk or of another format, or what `_TfdsSource` raises.
  """
  match = _PATH.fullmatch(path) if isinstance(path, str) else None
  if match is None:
    raise ValueError(
      "path must be tfds:NAME[/config][:version][:split], for example "
      f"tfds:coco_captions:train; not {path!r}"
    )
  keys = {"text_key": text_key, "image_key": image_key or ""}
  for key, value in keys.items():
    if not isinstance(value, str):
      raise ValueError(f"{key} must name a feature, not {value!r}")
  if not isinstance(data_dir, str | os.PathLike | None):
    raise ValueError(f"data_dir must be a folder, not {data_dir!r}")
  builder = _builder(match["name"], data_dir)
  split = match["split"] or "train"
  try:
    # The sub-split's notation is checked where it is looked up.
    builder.info.splits[split]
  except (KeyError, ValueError) as error:
    raise ValueError(
      f"{match['name']} has no split {split!r}: it has "
      f"{sorted(builder.info.splits)}"
    ) from error
  return _TfdsSource(
    name, builder, split=split, image_key=image_key, text_key=text_key
  )


def _builder(dataset: str, data_dir: str | None):
  """A builder whose data is on disk as ArrayRecord."""
  try:
    import tensorflow_datasets as tfds
  except ImportError as error:
    raise ValueError(
      f"reading {dataset} needs tensorflow-datasets ({error}): "
      "pip install tensorflow-datasets"
    ) from error
  place = "TFDS's own folder"
  if data_dir is not None:
    data_dir = place = str(local_path(data_dir, what="data_dir"))
  try:
    # It prints advice about packages that are absent.
    with contextlib.redirect_stdout(io.StringIO()):
      builder = tfds.builder(dataset, data_dir=data_dir)
      splits = builder.info.splits
  except tfds.core.DatasetNotFoundError as error:
    raise ValueError(
      f"there is no TFDS data set {dataset!r}, neither known to TFDS nor in "
      f"{place}"
    ) from error
  # Builders of data that is not on disk import what downloads it, TensorFlow
  # for instance, and may raise anything.
  except Exception as error:
    cause = " ".join(f"{type(error).__name__}: {error}".split())
    raise ValueError(
      f"{dataset} cannot be opened in {place} ({cause[:_DETAIL_LENGTH]}): "
      'prepare it there with file_format="array_record", on a machine that has '
      "what it needs"
    ) from error
  if not splits:
    raise ValueError(
      f"{dataset} is not prepared in {place}: tfds.data_source({dataset!r}, "
      f"data_dir={data_dir!r}) downloads and prepares it"
    )
  found = builder.info.file_format
  if found is not tfds.core.FileFormat.ARRAY_RECORD:
    raise ValueError(
      f"{dataset} in {place} is stored as {found.value}: prepare it with "
      'file_format="array_record"'
    )
  return builder


def _require_image(features: Mapping[str, Any], key: str) -> None:
  import tensorflow_datasets as tfds

  image = tfds.features.Image
  images = [k for k, value in features.items() if isinstance(value, image)]
  if key not in images:
    raise ValueError(f"{key!r} is not an image feature: there are {images}")


def _label_names(features: Mapping[str, Any], path: str) -> list[str] | None:
  """Names by label, or None where the feature is text.

  Raises:
    ValueError: it is neither, or does not exist.
  """
  import tensorflow_datasets as tfds

  feature: Any = features
  for key in path.split("/"):
    try:
      feature = feature[key]
    except (KeyError, TypeError, AttributeError) as error:
      raise ValueError(
        f"there is no feature {path!r}: there are {sorted(features)}"
      ) from error
  if isinstance(feature, tfds.features.Sequence):
    feature = feature.feature
  if isinstance(feature, tfds.features.ClassLabel):
    return list(feature.names)
  if not isinstance(feature, tfds.features.Text):
    raise ValueError(
      f"feature {path!r} is {type(feature).__name__}: texts are taken from "
      "Text, ClassLabel and sequences of them"
    )
  return None
