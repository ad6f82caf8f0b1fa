"""`ddit sample` writes what it prints."""

import json

import numpy as np
import pytest
from PIL import Image

from ddit_jax.errors import InputError
from ddit_jax.experiment.config import SampleConfig
from ddit_jax.pipelines import generating
from ddit_jax.pipelines.generated_images import GeneratedImages


def generate(trained, out, task, rows, **options):
  return generating.generate(
    str(trained),
    task,
    rows,
    out=str(out),
    weights="ema",
    step=None,
    options=generating.Options(**options),
  )


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


def test_image_files_are_changed(trained, tmp_path, image, caplog):
  mask = tmp_path / "mask.png"
  Image.fromarray(np.repeat(np.uint8([[0], [255]]), 16, 1).repeat(8, 0)).save(
    mask
  )
  rows = [
    {"prompt": "a red seven", "image": image, "mask_image": str(mask)},
    {"prompt": "a red seven"},
    {"prompt": "a red seven", "image": image},
    {"prompt": "", "image": str(tmp_path / "no.png")},
  ]
  sample = {"image.strength": "0.7"}
  out = tmp_path / "out"
  assert generate(trained, out, "t2i", rows, sample=sample, seed=4) == 1
  found = results(out)
  assert [row.get("edited_image") for row in found[:3]] == [image, None, image]
  assert found[0]["image"] == str(out / "00000.png") and found[0]["seed"] == 4
  assert "there is no image file" in found[3]["error"]
  source, drawn = (
    np.asarray(Image.open(x)) for x in (image, found[0]["image"])
  )
  np.testing.assert_array_equal(source[:8], drawn[:8])
  assert (source[8:] != drawn[8:]).any()
  settings = json.loads((out / "settings.json").read_text())
  assert settings["image"]["strength"] == 0.7


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


def test_options_reach_the_samplers(trained, tmp_path, image, monkeypatch):
  calls = []

  class Spy:
    input_size, input_crop = 16, "centre"

    def prompts(self, *_):
      return [""]

    def template(self, prompt):
      return prompt

    def sides(self, size):
      return size

    def __getattr__(self, name):
      def method(*args, **named):
        calls.append((name, args, named))
        if name != "text_to_image":
          return [""]
        return GeneratedImages(
          images=np.zeros((1, 8, 8, 3), np.uint8),
          prompts=[""],
          negative_prompts=[""],
          indices=[0],
          seed=3,
          settings=SampleConfig(),
        )

      return method

  monkeypatch.setattr(generating, "load", lambda *_, **__: Spy())
  common = {"seed": 3, "sample": {"batch_size": "2"}, "indices": (0,)}
  row = {"image": image, "question": "is it red?"}
  generate(trained, tmp_path, "vqa", [row], instruction="Briefly.", **common)
  generate(trained, tmp_path, "caption", [row], **common)
  row = {"prompt": "", "negative_prompt": "a dog"}
  generate(trained, tmp_path, "t2i", [row], size=(8, 8), **common)
  answer, caption, drawn = calls
  assert answer[1][1] == ["is it red?"]
  assert answer[0] == "answer" and caption[0] == "caption"
  assert answer[2] == {**common, "instruction": "Briefly."}
  assert caption[2] == common
  options = {"size": (8, 8), "negative_prompt": ["a dog"]}
  assert drawn == ("text_to_image", ([""],), options | common)


def test_one_image_of_many_is_drawn_again(trained, tmp_path):
  rows = [{"prompt": "a red seven"}, {"prompt": ""}]
  whole, part = tmp_path / "whole", tmp_path / "part"
  generate(trained, whole, "t2i", rows, num_images_per_prompt=2)
  prompts = [row["prompt"] for row in results(whole)]
  assert prompts == ["a red seven", "a red seven", "", ""]
  images = {path.name: path.read_bytes() for path in whole.glob("*.png")}
  assert len(set(images.values())) == len(images) == 4
  generate(trained, part, "t2i", rows, num_images_per_prompt=2, indices=(3, 1))
  found = results(part)
  assert [row["prompt"] for row in found] == ["", "a red seven"]
  for name in ("00003.png", "00001.png"):
    assert (part / name).read_bytes() == images[name]
  assert len(list(part.glob("*.png"))) == 2
  with pytest.raises(
    InputError, match="--indices has 4, but the results are n"
  ):
    generate(trained, part, "t2i", rows, num_images_per_prompt=2, indices=(4,))


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (
      {"num_images_per_prompt": 0},
      "--num_images_per_prompt must be in 1 to 100000, got 0",
    ),
    ({"seed": -1}, "seed must be in 0 to"),
    ({"indices": (1, 1)}, "--indices names a result twice"),
    ({"sample": {"order": "x"}}, "sample: unknown config key order"),
    ({"sample": {"text.num_steps": "0"}}, "text.num_steps must be in 1 to"),
    (
      {"sample": {"image.num_inference_steps": "1000000000"}},
      "num_inference_steps must be at most 10000",
    ),
    ({"sample": {"image.shift": "x"}}, "image.shift must be float, got 'x'"),
  ],
)
def test_options_are_checked_at_once(options, message):
  with pytest.raises(ValueError, match=message):
    generating.Options(**options)


def test_requests_that_cannot_be_run_leave_the_others(
  trained, tmp_path, image, caplog
):
  rows = [
    {"image": image, "question": "what color is the dog?"},
    {"image": image, "question": "what color is it?"},
    {"image": str(tmp_path / "no.png"), "question": "what color is it?"},
    {"image": image, "question": "is it red? " * 9},
  ]
  assert generate(trained, tmp_path / "some", "vqa", rows) == 1
  found = results(tmp_path / "some")
  keys = ["error", "answer", "error", "error"]
  assert [set(row) for row in found] == [{"image", "question", k} for k in keys]
  assert [row["question"] for row in found] == [r["question"] for r in rows]
  assert "does not know 'dog' in" in found[0]["error"]
  assert "there is no image file" in found[2]["error"]
  assert "leaves no room" in found[3]["error"]
  left_out = [line for line in caplog.messages if "is left out" in line]
  assert [line.split()[1] for line in left_out] == ["0", "2", "3"]
  # The others' draws do not depend on it.
  generate(trained, tmp_path / "all", "vqa", [rows[1]] * 2)
  assert results(tmp_path / "all")[1] == found[1]


@pytest.mark.parametrize("size", [(-8, 8), (0, 8), (9, 8)])
def test_a_size_that_does_not_fit_is_refused_before_images_are_resized(
  trained, tmp_path, image, size
):
  row = {"prompt": "a red seven", "image": image}
  with pytest.raises(InputError, match="do not fit this model"):
    generate(trained, tmp_path / "out", "t2i", [row], size=size)


def test_a_step_cache_is_calibrated_as_the_images_are_drawn(
  trained, tmp_path, monkeypatch
):
  given = []

  def calibrate(self, prompts, **options):
    given.append((prompts, options["negative_prompt"]))
    raise InputError("enough")

  monkeypatch.setattr(generating.Pipeline, "calibrate_step_cache", calibrate)
  rows = [
    {"prompt": "a red seven"},
    {"prompt": "a blue two", "negative_prompt": "a red seven"},
    {"prompt": ""},
  ]
  sample = {"batch_size": "2"}
  with pytest.raises(InputError, match="enough"):
    generate(trained, tmp_path, "t2i", rows, sample=sample, step_cache=0.1)
  assert given == [(["a red seven", "a blue two"], ["", "a red seven"])]


def test_prompts_that_cannot_be_drawn_leave_the_others(trained, tmp_path):
  rows = [{"prompt": "a red dog"}, {"prompt": "a red seven"}]
  assert generate(trained, tmp_path, "t2i", rows) == 1
  bad, good = results(tmp_path)
  assert "does not know 'dog'" in bad["error"] and "image" not in bad
  assert good["image"] == str(tmp_path / "00001.png")


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
  assert not (tmp_path / "out").exists()
