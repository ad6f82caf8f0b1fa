"""A run that starts from another keeps its tokens, or names those it adds."""

import dataclasses
import logging
import shutil

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from PIL import Image

from ddit_jax.checkpoint.store import CheckpointStore
from ddit_jax.config.load import load_config
from ddit_jax.data.tokenizers import word_tokenizer, words_of
from ddit_jax.errors import InputError
from ddit_jax.experiment.config import Config
from ddit_jax.experiment.data import open_sources
from ddit_jax.experiment.pretrained import PretrainedParams, stored_tokenizer
from ddit_jax.experiment.trainer import Trainer, train
from ddit_jax.experiment.vocabulary import kept_tokenizer, new_tokenizer
from ddit_jax.experiment.workdir import RunFolder
from ddit_jax.sharding.mesh import MeshConfig
from tests import tiny_run

BASE = ["a red square", "a red circle", "a blue square", "a blue circle"]
# The same number of words, in another order by frequency.
SAME = ["a red square", "a red square", "a red square", "a blue circle"]
NEW = [*BASE, "a purple hexagon"]


def pictures(folder, captions):
  folder.mkdir()
  for i, caption in enumerate(captions):
    Image.new("RGB", (16, 16)).save(folder / f"{i}.png")
    (folder / f"{i}.txt").write_text(caption)
  return folder


def settings(folder, **changes) -> Config:
  overrides = {
    "data.sources.mine.path": str(folder),
    "data.text_to_image.batch_size": "8",
    "data.image_to_text.batch_size": "8",
    "data.validation_size": "8",
    "optimizer.warmup_steps": "0",
    "train.num_steps": "1",
    "train.sample_grid_size": "0",
  }
  dotted = {name.replace("__", "."): text for name, text in changes.items()}
  config = tiny_run.ROOT / "configs" / "own_images.py"
  return load_config(Config, str(config), overrides | dotted)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
  """(workdir, words) of a run on `BASE`."""
  folder = tmp_path_factory.mktemp("base")
  config = settings(pictures(folder / "A", BASE))
  with pytest.MonkeyPatch.context() as monkeypatch:
    tiny_run.use_first_device(monkeypatch)
    assert train(config, str(folder / "run"))
  tokenizer = stored_tokenizer(str(folder / "run"), "ema")
  return folder / "run", words_of(tokenizer)


def warnings_of(caplog) -> list[str]:
  """This package's."""
  return [
    record.getMessage()
    for record in caplog.records
    if record.name.startswith("ddit_jax")
  ]


def tokenizer_for(config):
  sources = open_sources(config.data)
  return new_tokenizer(config, config.init_from, None, sources)


def test_other_texts_of_the_same_words_keep_the_ids(base, tmp_path):
  run, words = base
  folder = pictures(tmp_path / "B", SAME)
  assert words_of(tokenizer_for(settings(folder))) != words
  for changes in ({}, {"lora__rank": "2"}, {"data__tokenizer": ""}):
    config = settings(folder, init_from=str(run), **changes)
    assert words_of(tokenizer_for(config)) == words


def test_new_words_follow_the_known_ones_and_get_new_rows(base, tmp_path):
  run, words = base
  folder = pictures(tmp_path / "B", NEW)
  config = settings(folder, init_from=str(run), init_weights="params")
  tokenizer = tokenizer_for(config)
  assert words_of(tokenizer) == [*words, "hexagon", "purple"]

  mesh = MeshConfig().make()
  network = config.make_model(tokenizer).network
  with CheckpointStore(tmp_path / "new") as store:
    pretrained = PretrainedParams.of_run(
      *(str(run), "params", network, store, tokenizer), is_kept=False
    )
  assert pretrained.report().splitlines()[1:] == [
    "newly initialised rows of text_head.project.bias and "
    "text_head.project.kernel and token_embedding.tokens: 'hexagon', 'purple'"
  ]
  fresh = jax.tree.map(
    lambda x: np.full(x.shape, 7, x.dtype),
    network.abstract_variables()["params"],
  )
  taken = flatten_dict(
    pretrained.load(fresh, network.shardings(mesh)["params"])
  )
  stored = tiny_run.stored_arrays(run, 1)
  count = 3 + len(words)
  for path, axis in [
    (("token_embedding", "tokens"), 0),
    (("text_head", "project", "kernel"), 1),
    (("text_head", "project", "bias"), 0),
  ]:
    key = "params" + "".join(f"['{name}']" for name in path)
    ours = np.moveaxis(np.asarray(taken[path]), axis, 0)
    theirs = np.moveaxis(stored[key], axis, 0)
    np.testing.assert_array_equal(ours[:count], theirs[:count])
    np.testing.assert_array_equal(ours[-1], theirs[-1])  # the mask
    assert (ours[count:-1] == 7).all() and len(ours) == count + 3


def test_adapters_refuse_new_words_and_name_them(base, tmp_path, caplog):
  run, words = base
  folder = pictures(tmp_path / "B", NEW)
  start = {"init_from": str(run), "lora__rank": "2"}
  with pytest.raises(InputError, match="no row for 'hexagon', 'purple'"):
    train(settings(folder, **start), str(tmp_path / "run"))
  kept = settings(folder, **start, data__tokenizer="")
  with caplog.at_level(logging.WARNING):
    assert words_of(tokenizer_for(kept)) == words
  assert warnings_of(caplog) == [
    "source mine: 1 of 5 texts hold words without an id ('purple', 'hexagon'), "
    "which are read as <unk> and never learned"
  ]


def test_a_stage_keeps_the_tokens_of_the_stage_before(base, tmp_path):
  run, words = base
  config = settings(pictures(tmp_path / "B", SAME), init_from="stage:run")
  with RunFolder(run.parent / "next") as opened, opened.open_store(2) as store:
    trainer = Trainer.build(config, opened, store)
  assert words_of(trainer.tokenizer) == words
  assert trainer.pretrained.token_rows is None


def test_the_digit_worlds_words_are_added_too():
  stored = word_tokenizer(["a", "blue", "hexagon"])
  tokenizer = kept_tokenizer(stored, Config().data)
  assert words_of(tokenizer)[:3] == ["a", "blue", "hexagon"]
  assert tokenizer.unknown_pieces("a picture of a red seven") == []
  again = kept_tokenizer(tokenizer, Config().data, may_extend=False)
  assert again is tokenizer


def test_another_kind_of_tokenizer_is_refused(tmp_path, base):
  run, _ = base
  folder = pictures(tmp_path / "B", SAME)
  other = tmp_path / "t5"
  other.mkdir()
  files = word_tokenizer(["a", "red"]).files()
  (other / "tokenizer.json").write_bytes(files["tokenizer.json"])
  config = settings(folder, init_from=str(run))
  data = dataclasses.replace(config.data, tokenizer=f"t5:{other}")
  with pytest.raises(ValueError, match=r"id 4 is '\w+' there and 'red' here"):
    tokenizer_for(dataclasses.replace(config, data=data))


def test_a_resumed_run_refuses_other_texts_unless_they_are_named(
  base, tmp_path, caplog
):
  run, words = base
  copy, folder = tmp_path / "run", pictures(tmp_path / "B", NEW)
  shutil.copytree(run, copy)

  def build(**changes):
    config = settings(folder, train__num_steps="2", **changes)
    with RunFolder(copy) as opened, opened.open_store(2) as store:
      return Trainer.build(config, opened, store)

  path = "data.sources.mine.path"
  with pytest.raises(InputError, match=rf"\({path} was .* and is .*B'\)"):
    build()
  with pytest.raises(InputError, match=r"mine is not .* \(it had 4 .* has 5\)"):
    build(resume_changes=path)
  caplog.clear()
  with caplog.at_level(logging.WARNING):
    trainer = build(resume_changes="data.sources.mine,optimizer.learning_rate")
  assert words_of(trainer.tokenizer) == words
  assert "1 of 5 texts hold words without an id ('purple', 'hexagon')" in (
    caplog.text
  )
  # The same texts elsewhere, with another learning rate.
  elsewhere = pictures(tmp_path / "A", BASE)
  caplog.clear()
  config = settings(
    elsewhere,
    train__num_steps="2",
    optimizer__learning_rate="1e-5",
    resume_changes=f"{path},optimizer.learning_rate",
  )
  with caplog.at_level(logging.WARNING), RunFolder(copy) as opened:
    with opened.open_store(2) as store:
      assert Trainer.build(config, opened, store).resumed_step == 1
  assert [line.split(",")[0] for line in warnings_of(caplog)] == [
    "from step 1 on"
  ] * 2
