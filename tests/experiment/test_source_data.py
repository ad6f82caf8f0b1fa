"""A run on image files with captions: read, mixed, trained on, sampled."""

import copy
import dataclasses
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from ddit_jax.checkpoint.store import CheckpointStore, checkpoints_in
from ddit_jax.data.config import DataConfig
from ddit_jax.errors import InputError
from ddit_jax.experiment.data import open_data, open_sources
from ddit_jax.experiment.trainer import train
from ddit_jax.experiment.vocabulary import make_tokenizer
from ddit_jax.pipelines.load import load
from tests import tiny_run

COLORS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
NUM_IMAGES = 12


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
  """Plain coloured squares with captions, one of them cut short."""
  folder = tmp_path_factory.mktemp("pictures")
  for i in range(NUM_IMAGES):
    color = list(COLORS)[i % 3]
    path = folder / f"{i:02}.png"
    Image.new("RGB", (24, 20), COLORS[color]).save(path)
    path.with_suffix(".txt").write_text(f"a {color} square, number {i}.")
  broken = folder / "05.png"
  broken.write_bytes(broken.read_bytes()[:-30])
  return folder


def settings(pictures, **changes):
  base = tiny_run.settings()
  source = {
    "kind": "image_folder",
    "path": str(pictures),
    "filters": {"min_short_side": 16},
  }
  mixture = {"0": {"squares": 1.0}}
  data = dataclasses.replace(
    base.data,
    sources={"squares": source},
    tokenizer="words",
    max_bad_share=0.5,
    text_to_image=dataclasses.replace(
      base.data.text_to_image, image_size=16, mixture=mixture
    ),
    image_to_text=dataclasses.replace(
      base.data.image_to_text, image_size=16, mixture=mixture
    ),
  )
  return dataclasses.replace(base, data=dataclasses.replace(data, **changes))


@pytest.fixture(scope="module")
def finished(pictures, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("squares") / "run"
  with pytest.MonkeyPatch.context() as monkeypatch:
    tiny_run.use_first_device(monkeypatch)
    assert train(settings(pictures), str(workdir))
  return workdir


def test_the_instructions_of_the_questions_are_known(pictures, tmp_path):
  run = settings(pictures)
  sources = open_sources(run.data)
  tokenizer = make_tokenizer(run.data, None, sources)
  assert open_data(run, tokenizer, sources, tmp_path).instructions == ()
  sources["squares"].instruction = "Briefly."
  # No mixture names it.
  sources["other"] = copy.copy(sources["squares"])
  sources["other"].instruction = "At length."
  data = open_data(run, tokenizer, sources, tmp_path)
  assert data.instructions == ("Briefly.",)


def test_batches_hold_the_pictures_with_their_own_captions(pictures, tmp_path):
  run = settings(pictures)
  sources = open_sources(run.data)
  tokenizer = make_tokenizer(run.data, None, sources)
  data = open_data(run, tokenizer, sources, tmp_path)
  stream = data.training_loader()
  batch, position = next(stream)
  stream.close()
  assert {name: list(p.values()) for name, p in position.items()} == {
    "text_to_image": [8],
    "image_to_text": [8],
  }
  assert batch.image_to_text.has_image.all()
  for part in (batch.text_to_image, batch.image_to_text):
    assert part.images.shape == (8, 16, 16, 3)
    for image, tokens in zip(part.images, part.tokens, strict=True):
      color = tokenizer.decode(tokens).split()[1]
      np.testing.assert_array_equal(
        image, np.broadcast_to(COLORS[color], (16, 16, 3))
      )


def test_the_unreadable_picture_is_replaced_listed_and_counted(finished):
  lines = (finished / "bad_records.0.jsonl").read_text().splitlines()
  found = {
    tuple(json.loads(line)[k] for k in ("source", "reason")) for line in lines
  }
  assert found == {("squares", "truncated_image")}
  logged = (finished / "scalars.jsonl").read_text().splitlines()
  last = max((json.loads(line) for line in logged), key=lambda row: row["step"])
  counts = {k: v for row in logged for k, v in json.loads(row).items()}
  assert (
    counts["data/squares/bad"] == counts["data/squares/bad/truncated_image"]
  )
  assert counts["data/squares/bad"] >= 1
  assert last["step"] == tiny_run.NUM_STEPS


def test_common_filters_reach_the_kinds_that_take_filters(pictures):
  folder = {"kind": "image_folder", "path": str(pictures)}
  sources = {
    "plain": folder,
    "own": {**folder, "filters": {"min_short_side": 0}},
    "digits": {"kind": "digits"},
  }
  data = DataConfig(sources=sources, filters={"min_short_side": 20})
  opened = open_sources(data)
  assert [len(source) for source in opened.values()] == [12, 12, 64]
  data = dataclasses.replace(data, filters={"min_short_side": 21})
  with pytest.raises(ValueError, match=r"plain: .* 12 short_side"):
    open_sources(data)


@pytest.mark.slow
@pytest.mark.usefixtures("on_one_device")
def test_a_resumed_run_is_bit_identical(pictures, finished, tmp_path):
  early = dataclasses.replace(
    settings(pictures),
    train=dataclasses.replace(settings(pictures).train, num_steps=4),
  )
  assert train(early, str(tmp_path))
  assert train(settings(pictures), str(tmp_path))
  last = tiny_run.NUM_STEPS
  ours = tiny_run.stored_arrays(tmp_path, last)
  theirs = tiny_run.stored_arrays(finished, last)
  different = [n for n, a in theirs.items() if a.tobytes() != ours[n].tobytes()]
  assert different == []
  assert tiny_run.data_position(tmp_path, last) == tiny_run.data_position(
    finished, last
  )


@pytest.mark.slow
def test_buckets_are_trained_on_and_resumed(
  pictures, tmp_path, on_one_device, caplog
):
  """Wide and square pictures in turn; the pictures are 24 x 20."""
  folder = tmp_path / "both"
  shutil.copytree(pictures, folder)
  for i in range(NUM_IMAGES):
    path = folder / f"wide {i}.png"
    Image.new("RGB", (48, 24), COLORS["red"]).save(path)
    path.with_suffix(".txt").write_text("a red square, number 1.")
  run = settings(folder)
  in_buckets = dataclasses.replace(
    run.data.text_to_image, crop="bucket", bucket_step=4
  )
  run = dataclasses.replace(
    run,
    data=dataclasses.replace(run.data, text_to_image=in_buckets),
    loss=dataclasses.replace(run.loss, is_merged=False),
    model=dataclasses.replace(run.model, max_grid=8),
  )
  early = dataclasses.replace(
    run, train=dataclasses.replace(run.train, num_steps=4)
  )
  caplog.set_level("INFO", "ddit_jax")
  assert train(run, str(tmp_path / "whole"))
  # One of the 24 is held out.
  assert "of their batches: 12x20 11, 16x16 12" in caplog.text
  assert train(early, str(tmp_path / "resumed"))
  assert train(run, str(tmp_path / "resumed"))
  with CheckpointStore(checkpoints_in(tmp_path / "whole")) as store:
    shapes = json.loads(store.files(tiny_run.NUM_STEPS)["image_shapes.json"])
  assert [*shapes] == ["text_to_image"] and [*shapes["text_to_image"]] == [
    "squares"
  ]
  tiny_run.assert_bit_identical(
    tmp_path / "resumed", tmp_path / "whole", tiny_run.NUM_STEPS
  )


def test_its_checkpoint_knows_its_words_and_its_image_size(finished):
  pipeline = load(str(finished))
  images = pipeline.text_to_image(["a red square"])
  assert images.images.shape == (1, 16, 16, 3)
  assert len(pipeline.caption(images)) == 1
  with pytest.raises(InputError, match="does not know 'dog'"):
    pipeline.text_to_image(["a red dog"])


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"tokenizer": ""}, "data.tokenizer is '': write KIND:FOLDER"),
    ({"tokenizer": "gpt"}, "data.tokenizer is 'gpt': write KIND:FOLDER"),
    (
      {"sources": {"squares": {"kind": "image_foldr", "path": "x"}}},
      "did you mean 'image_folder'",
    ),
    (
      {"sources": {"squares": {"kind": "image_folder", "path": "nowhere"}}},
      "nowhere",
    ),
  ],
)
def test_bad_data_sections_are_one_line(pictures, tmp_path, changes, message):
  with pytest.raises(InputError, match=message):
    train(settings(pictures, **changes), str(tmp_path))


def test_unknown_sources_in_a_mixture_are_refused(pictures, tmp_path):
  run = settings(pictures)
  stream = dataclasses.replace(
    run.data.image_to_text, mixture={"0": {"squars": 1.0}}
  )
  data = dataclasses.replace(run.data, image_to_text=stream)
  with pytest.raises(InputError, match="'squars': did you mean 'squares'"):
    train(dataclasses.replace(run, data=data), str(tmp_path))
