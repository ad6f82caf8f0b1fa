"""`ddit sample` writes what it prints."""

import json

import numpy as np
import pytest
from PIL import Image

from ddit_jax.digits import questions
from ddit_jax.errors import InputError
from ddit_jax.pipelines import requests


def generate(trained, out, task, rows, **options):
  options = {"weights": "ema", "step": None, "seed": 0} | options
  return requests.generate(str(trained), task, rows, out=str(out), **options)


@pytest.fixture
def image(tmp_path):
  rng = np.random.default_rng(0)
  path = tmp_path / "x.png"
  Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(path)
  return str(path)


def results(out):
  lines = (out / "results.jsonl").read_text().splitlines()
  return [json.loads(line) for line in lines]


def test_every_prompt_gets_an_image_file(trained, tmp_path, capsys):
  prompts = ["a red seven", "a blue two"]
  rows = [{"prompt": prompt} for prompt in prompts]
  out = tmp_path / "out"
  assert generate(trained, out, "t2i", rows) == 0
  found = results(out)
  assert [row["prompt"] for row in found] == prompts
  assert capsys.readouterr().out.splitlines() == list(map(json.dumps, found))
  for row in found:
    assert np.asarray(Image.open(row["image"])).shape == (16, 16, 3)
  again = tmp_path / "again"
  generate(trained, again, "t2i", rows)
  for name in ("00000.png", "00001.png"):
    assert (out / name).read_bytes() == (again / name).read_bytes()


def test_images_are_captioned_and_questioned_in_order(
  trained, tmp_path, image, capsys
):
  generate(trained, tmp_path, "caption", [{"image": image}] * 2)
  found = results(tmp_path)
  assert [sorted(row) for row in found] == [["caption", "image"]] * 2
  rows = [
    {"image": image, "question": "what color is it?"},
    {"image": image, "question": "what number is it?"},
  ]
  generate(trained, tmp_path, "vqa", rows)
  found = results(tmp_path)
  assert [row["question"] for row in found] == [r["question"] for r in rows]
  assert all(isinstance(row["answer"], str) for row in found)


def test_questions_are_put_as_in_training(
  trained, tmp_path, image, monkeypatch
):
  asked = []

  class Spy:
    image_size = 16

    def answer(self, images, prompts, *, seed):
      asked.extend(prompts)
      return ["" for _ in prompts]

  monkeypatch.setattr(requests, "load", lambda *_, **__: Spy())
  question = questions.presence_question(7, is_present=True)
  row = {"image": image, "question": question.text}
  generate(trained, tmp_path, "vqa", [row])
  assert asked == [questions.prompt_text(question)]


def test_the_folder_is_checked_before_the_checkpoint_is_read(tmp_path):
  (tmp_path / "file").touch()
  with pytest.raises(InputError, match="cannot be written"):
    generate("nowhere", tmp_path / "file", "t2i", [{"prompt": "a"}])


def test_a_bad_request_writes_no_results(trained, tmp_path, image):
  for task, row, message in [
    ("t2i", {"prompt": "a red dog"}, "does not know 'dog'"),
    ("caption", {"image": str(tmp_path / "no.png")}, "there is no image file"),
    ("vqa", {"image": image, "question": "is it sad?"}, "know 'sad'"),
  ]:
    with pytest.raises(InputError, match=message):
      generate(trained, tmp_path / "out", task, [row])
  assert list((tmp_path / "out").iterdir()) == []
