"""Easy-VQA as its authors describe it."""

import importlib.util
import json
import pathlib
import sys

import pytest

from ddit_jax.data.image_header import image_size_of_bytes
from ddit_jax.data.sources.vqa import open_easy_vqa

HAS_PACKAGE = importlib.util.find_spec("easy_vqa") is not None
needs_package = pytest.mark.skipif(
  not HAS_PACKAGE, reason="pip install easy-vqa"
)


@needs_package
def test_counts_are_those_published():
  assert len(open_easy_vqa("shapes")) == 38_575
  source = open_easy_vqa("shapes", split="test")
  assert len(source) == 9_673 and source.removed == {}
  answers = [source[i].texts[0] for i in range(len(source))]
  assert len(set(answers)) == 13
  assert sum(answer in ("yes", "no") for answer in answers) == 7_136


@needs_package
def test_examples_are_those_of_the_package_s_files():
  import easy_vqa

  folder = pathlib.Path(easy_vqa.__file__).parent / "data" / "train"
  asked = json.loads((folder / "questions.json").read_text())
  source = open_easy_vqa("shapes")
  for index in (0, 777, 38_574):
    question, answer, image = asked[index]
    example = source[index]
    assert example.record_id == f"easy_vqa/train:{index}"
    assert example.prompt == f"Q: {question} A: "
    assert example.texts == (answer,)
    assert example.image == (folder / "images" / f"{image}.png").read_bytes()
    assert image_size_of_bytes(example.image) == (64, 64)


@needs_package
def test_an_instruction_can_be_added():
  source = open_easy_vqa("shapes", split="test", instruction="Be short.")
  assert source[0].prompt.endswith("? Be short. A: ")


def test_other_splits_are_refused():
  with pytest.raises(ValueError, match=r"split must be one of .*not 'val'"):
    open_easy_vqa("shapes", split="val")


def test_without_the_package_the_way_out_is_told(monkeypatch):
  monkeypatch.setitem(sys.modules, "easy_vqa", None)
  with pytest.raises(ValueError, match="pip install easy-vqa"):
    open_easy_vqa("shapes")
