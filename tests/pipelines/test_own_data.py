"""One's own images, captions and questions, evaluated by the command line."""

import json

import numpy as np
import pytest

from ddit_jax.cli.main import BAD_INPUT, main
from ddit_jax.pipelines import own_data
from ddit_jax.protocols.item import Item
from tests.pipelines import clip_files
from tests.pipelines.test_benchmarks import flags, journal
from tests.protocols import official_files

COUNT = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Captioned images, and questions in the files of VQA v2."""
  folder = tmp_path_factory.mktemp("own")
  captions = official_files.prompts(COUNT)
  for number, caption in enumerate(captions):
    official_files.picture(folder / "images" / f"{number}.png", number)
    (folder / "images" / f"{number}.txt").write_text(caption)
  official_files.vqa(folder / "questions", COUNT)
  return folder


def own_flags(checkpoint, folder, out, tasks, **more) -> list[str]:
  asked = folder / "questions"
  sources = {
    "mine": {"kind": "image_folder", "path": str(folder / "images")},
    "asked": {
      "kind": "vqav2",
      "questions": str(asked / "v2_OpenEnded_mscoco_val2014_questions.json"),
      "annotations": str(asked / "v2_mscoco_val2014_annotations.json"),
      "images": str(asked / "images"),
      "instruction": "",
    },
  }
  changes = {
    "data__sources": json.dumps(sources),
    "data__filters": '{"min_short_side": 16}',
    "benchmarks__records": "all",
    "evaluate__likelihood__text_passes": 2,
    "evaluate__likelihood__image_draws": 2,
    "evaluate__likelihood__ode_steps": 1,
  }
  return flags(checkpoint, folder, out, tasks, **changes | more)


def test_answers_are_scored_and_counted(trained, folder, tmp_path):
  assert main(own_flags(trained, folder, tmp_path, ["answers:asked"])) == 0
  metrics = json.loads((tmp_path / "metrics.json").read_text())["metrics"]
  rows = metrics["checkpoint"]
  assert {"answers:asked/accuracy", "answers:asked/own/exact_match"} <= (
    rows.keys()
  )
  outputs = journal(tmp_path / "answers_asked")
  assert [row["key"] for row in outputs] == ["0", "1", "2", "3"]
  manifest = json.loads((tmp_path / "manifest.json").read_text())
  assert manifest["tasks"]["answers:asked"]["notes"][0] == "all 4 records"


def test_images_are_generated_from_captions(trained, folder, tmp_path):
  assert main(own_flags(trained, folder, tmp_path, ["images:mine"])) == 0
  assert len(list((tmp_path / "images_mine" / "images").glob("*.png"))) == COUNT
  notes = json.loads((tmp_path / "manifest.json").read_text())["tasks"]
  assert any(
    "images:mine.features=FILE" in note
    for note in notes["images:mine"]["notes"]
  )
  # Nothing is drawn again.
  outputs = tmp_path / "images_mine" / "outputs.jsonl"
  before = outputs.read_bytes()
  clip = clip_files.write(tmp_path / "clip")
  changes = {"benchmarks__image_features": clip}
  argv = own_flags(trained, folder, tmp_path, ["images:mine"], **changes)
  assert main(argv) == 0
  assert outputs.read_bytes() == before
  metrics = json.loads((tmp_path / "metrics.json").read_text())["metrics"]
  distance = metrics["checkpoint"]["images:mine/frechet_distance"]["value"]
  drawn, real = (
    np.load(tmp_path / "images_mine" / f"{role}.npz")["features"].astype(float)
    for role in ("features", "reference_features")
  )
  assert drawn.shape == real.shape == (COUNT, clip_files.CONFIG.projection_dim)
  first, second = np.cov(drawn.T), np.cov(real.T)
  roots = np.sqrt(np.linalg.eigvals(first @ second).real.clip(0)).sum()
  want = ((drawn.mean(0) - real.mean(0)) ** 2).sum()
  want += np.trace(first + second) - 2 * roots
  assert distance == pytest.approx(want, rel=1e-3)
  manifest = json.loads((tmp_path / "manifest.json").read_text())
  assert any(
    "not FID: the features are of CLIP's image encoder, BLAKE2b" in note
    for note in manifest["tasks"]["images:mine"]["notes"]
  )


@pytest.mark.slow
def test_likelihoods_of_texts_and_images(trained, folder, tmp_path):
  argv = own_flags(trained, folder, tmp_path, ["likelihoods:mine"])
  assert main(argv) == 0
  rows = json.loads((tmp_path / "metrics.json").read_text())["metrics"]
  rows = rows["checkpoint"]
  # Random words of the digit world, and 8-bit values around ln 256.
  assert 1 < rows["likelihoods:mine/text_nats"]["value"] < 60
  value = rows["likelihoods:mine/image_nats_per_dimension"]["value"]
  assert 4 < value < 8
  first = journal(tmp_path / "likelihoods_mine")[0]["output"]
  assert first["text_standard_error"] > 0


def test_records_in_training_are_not_evaluated_by_default(
  trained, folder, tmp_path, capsys
):
  argv = own_flags(
    trained, folder, tmp_path, ["answers:asked"], benchmarks__records="held_out"
  )
  assert main(argv) == BAD_INPUT
  assert "none is held out from training" in capsys.readouterr().err
  more = {"data__held_out_share": 0.5, "benchmarks__records": "held_out"}
  assert (
    main(own_flags(trained, folder, tmp_path, ["answers:asked"], **more)) == 0
  )
  manifest = json.loads((tmp_path / "manifest.json").read_text())
  assert manifest["tasks"]["answers:asked"]["notes"][0] == (
    "2 of 4 records, held out from training"
  )


def test_records_of_another_kind_are_counted(trained, folder, tmp_path, capsys):
  (folder / "images" / "0.txt").write_text("a picture of a red two")
  argv = own_flags(trained, folder, tmp_path, ["answers:mine"])
  assert main(argv) == BAD_INPUT
  error = capsys.readouterr().err
  assert "4 of 4 records are left out: 4 without question" in error
  argv = own_flags(trained, folder, tmp_path, ["captions:mina"])
  assert main(argv) == BAD_INPUT
  assert "data.sources has no 'mina': did you mean 'mine'?" in (
    capsys.readouterr().err
  )


@pytest.mark.slow
def test_retrieval_among_all_records(trained, folder, tmp_path):
  argv = own_flags(trained, folder, tmp_path, ["retrieval:mine"])
  assert main(argv) == 0
  rows = json.loads((tmp_path / "metrics.json").read_text())["metrics"]
  recalls = rows["checkpoint"]
  # Four of each.
  assert recalls["retrieval:mine/text_to_image/recall@5"]["value"] == 100
  assert len(journal(tmp_path / "retrieval_mine")[0]["output"]) == COUNT


def test_exact_match_and_yes_no_by_hand():
  items = [
    Item(key=key, text="", draw=0, facts={"texts": texts})
    for key, texts in {
      "a": ["Yes"],
      "b": ["no"],
      "c": ["two", "2"],
      "d": ["The red one"],
    }.items()
  ]
  outputs = {"a": "yes", "b": "yes", "c": "2", "d": "red one."}
  scored = own_data._answer_scores(items, outputs)["own"]
  assert scored.figures == {"exact_match": 75.0, "yes_no_accuracy": 50.0}
  assert scored.items["yes_no_accuracy"].ids == ("a", "b")
