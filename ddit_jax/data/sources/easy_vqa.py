"""Easy-VQA: shapes on 64 x 64 images, from the PyPI package `easy-vqa`.

4,000 images with 38,575 questions for training, 1,000 with 9,673 for testing,
13 answers. It needs no download, so it is a real data set for tests.
"""

import os

from ddit_jax.data.sources.file_source import FileSource
from ddit_jax.data.sources.question_rows import QuestionRows
from ddit_jax.data.sources.safe_files import SafeFolder

SPLITS = ("train", "test")


def open_easy_vqa(
  name: str, *, split: str = "train", instruction: str = ""
) -> FileSource:
  """Opens a split of the installed package.

  Args:
    name: as the config calls it.
    split: "train" or "test".
    instruction: stands between question and "A:"; "" for none.

  Raises:
    ValueError: no such split, or the package is not installed.
  """
  if split not in SPLITS:
    raise ValueError(f"split must be one of {SPLITS}, not {split!r}")
  try:
    import easy_vqa
  except ImportError as error:
    raise ValueError(
      f"Easy-VQA needs its package ({error}): pip install easy-vqa"
    ) from error
  if split == "train":
    asked, paths = easy_vqa.get_train_questions, easy_vqa.get_train_image_paths
  else:
    asked, paths = easy_vqa.get_test_questions, easy_vqa.get_test_image_paths
  files = paths()
  folder = os.path.commonpath(map(os.path.dirname, files.values()))
  rows = QuestionRows(name, instruction=instruction)
  for number, (question, answer, image_id) in enumerate(
    zip(*asked(), strict=True)
  ):
    rows.add(
      f"easy_vqa/{split}:{number}",
      question=question,
      answers=answer,
      image=os.path.relpath(files[image_id], folder),
    )
  return rows.source(SafeFolder(folder))
