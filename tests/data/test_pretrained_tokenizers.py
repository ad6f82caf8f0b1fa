"""T5's and GPT-2's tokenizers, on tiny ones trained here."""

import collections
import json
import random
import shutil
import sys

import pytest
import sentencepiece
import tokenizers
import transformers
from tokenizers import decoders, models, pre_tokenizers, trainers

import ddit_jax.data.tokenizers as our_tokenizers
from ddit_jax.data.text import caption_tokens
from ddit_jax.data.tokenizers import (
  check_text_head,
  from_files,
  pretrained_tokenizer,
  word_tokenizer,
)
from tests.damage import damaged_bytes, damaged_json

SENTENCES = [
  "a red cat sits on the table",
  "how many birds are there?",
  "two cats and a lamp",
  "the seven dogs ran over the hill, and a bird sang",
]
TEXTS = [*SENTENCES, "two  cats ", "a dog's lamp!", "", " "]
NUM_PIECES = 48


@pytest.fixture(scope="module")
def t5_folder(tmp_path_factory):
  """A sentencepiece model alone, as T5's is made."""
  folder = tmp_path_factory.mktemp("t5")
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(SENTENCES * 4),
    model_prefix=str(folder / "spiece"),
    vocab_size=NUM_PIECES,
    model_type="unigram",
    pad_id=0,
    eos_id=1,
    unk_id=2,
    bos_id=-1,
    hard_vocab_limit=False,
    minloglevel=2,
  )
  (folder / "spiece.vocab").unlink()
  return folder


@pytest.fixture(scope="module")
def gpt2_folder(tmp_path_factory):
  """A byte-level BPE as GPT-2's: vocab.json and merges.txt."""
  folder = tmp_path_factory.mktemp("gpt2")
  backend = tokenizers.Tokenizer(models.BPE())
  backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  backend.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=300,
    special_tokens=["<|endoftext|>"],
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  backend.train_from_iterator(SENTENCES, trainer)
  backend.model.save(str(folder))
  return folder


def test_t5_is_its_sentencepiece_model_with_sentinels(t5_folder):
  tokenizer = pretrained_tokenizer("t5", t5_folder)
  model = sentencepiece.SentencePieceProcessor(
    model_file=str(t5_folder / "spiece.model")
  )
  num_pieces = model.get_piece_size()
  for text in TEXTS:
    assert tokenizer.encode(text) == model.encode(text)
  for text in SENTENCES:
    assert tokenizer.decode(model.encode(text)) == text
  assert tokenizer.end_id == model.eos_id() == 1
  # T5 adds a hundred sentinels; the first of them comes last.
  assert tokenizer.vocab_size == num_pieces + 100
  assert tokenizer.mask_id == tokenizer.vocab_size - 1
  assert tokenizer.tokens([tokenizer.mask_id, num_pieces]) == [
    "<extra_id_0>",
    "<extra_id_99>",
  ]


def test_t5_from_its_json_is_the_same(t5_folder, tmp_path):
  transformers.T5Tokenizer.from_pretrained(t5_folder).save_pretrained(tmp_path)
  (tmp_path / "spiece.model").unlink(missing_ok=True)
  ours = pretrained_tokenizer("t5", t5_folder)
  again = pretrained_tokenizer("t5", str(tmp_path))
  assert [again.encode(t) for t in TEXTS] == [ours.encode(t) for t in TEXTS]
  assert (again.end_id, again.mask_id) == (ours.end_id, ours.mask_id)


def test_a_word_tokenizer_in_transformers_files_is_read_as_it_is(tmp_path):
  words = word_tokenizer(["a", "red", "dog"])
  transformers.PreTrainedTokenizerFast(
    tokenizer_object=words.backend
  ).save_pretrained(tmp_path)
  again = pretrained_tokenizer("t5", tmp_path)
  assert again.encode("a red dog") == words.encode("a red dog") == [3, 4, 5]


def test_gpt2_gets_a_mask_as_its_last_id(gpt2_folder):
  tokenizer = pretrained_tokenizer("gpt2", gpt2_folder)
  vocabulary = json.loads((gpt2_folder / "vocab.json").read_text())
  assert tokenizer.end_id == vocabulary["<|endoftext|>"]
  assert tokenizer.mask_id == len(vocabulary) == tokenizer.vocab_size - 1
  text = "Two  cats' é 中\n"
  ids = tokenizer.encode(text)
  assert tokenizer.decode([*ids, tokenizer.mask_id]) == text + "<extra_id_0>"
  # A byte is a character of the vocabulary; "the" was merged from its bytes.
  assert tokenizer.encode("the") == [vocabulary["the"]]
  assert tokenizer.unknown_pieces("x <|endoftext|>") == ["<|endoftext|>"]


@pytest.mark.parametrize("kind", ["t5", "gpt2"])
def test_a_checkpoint_keeps_them(kind, t5_folder, gpt2_folder):
  folder = {"t5": t5_folder, "gpt2": gpt2_folder}[kind]
  tokenizer = pretrained_tokenizer(kind, folder)
  again = from_files(tokenizer.files())
  assert [again.encode(t) for t in TEXTS] == [
    tokenizer.encode(t) for t in TEXTS
  ]
  assert (again.end_id, again.mask_id, again.vocab_size) == (
    *(tokenizer.end_id, tokenizer.mask_id, tokenizer.vocab_size),
  )


def test_stored_truncation_and_padding_are_switched_off(gpt2_folder, tmp_path):
  backend = pretrained_tokenizer("gpt2", gpt2_folder).backend
  backend.enable_truncation(3)
  backend.enable_padding(length=5)
  backend.save(str(tmp_path / "tokenizer.json"))
  tokenizer = pretrained_tokenizer("gpt2", tmp_path)
  assert len(tokenizer.encode(SENTENCES[3])) > 5
  assert len(tokenizer.encode("the")) == 1
  with pytest.raises(ValueError, match="but the text length is 5"):
    caption_tokens(tokenizer, SENTENCES[3], 5)


def test_the_text_head_must_have_a_row_for_every_id(t5_folder):
  tokenizer = pretrained_tokenizer("t5", t5_folder)
  check_text_head(tokenizer, tokenizer.vocab_size)
  with pytest.raises(ValueError, match="head has 7 rows but the tokenizer 1"):
    check_text_head(tokenizer, 7)


def copied(source, target):
  shutil.copytree(source, target, dirs_exist_ok=True)
  return target


def test_an_empty_folder_names_the_files(tmp_path):
  for kind, files in (
    ("t5", "tokenizer.json or spiece.model"),
    ("gpt2", "tokenizer.json or vocab.json with merges.txt"),
  ):
    with pytest.raises(ValueError, match=f"needs {files}, found"):
      pretrained_tokenizer(kind, tmp_path)


def test_damaged_files_are_refused(t5_folder, gpt2_folder, tmp_path):
  empty = tmp_path / "empty"
  empty.mkdir()
  (empty / "spiece.model").write_bytes(b"")
  with pytest.raises(ValueError, match="damaged files"):
    pretrained_tokenizer("t5", empty)
  (empty / "tokenizer.json").write_text("{")
  with pytest.raises(ValueError, match="damaged tokenizer"):
    pretrained_tokenizer("t5", empty)
  merges = copied(gpt2_folder, tmp_path / "merges") / "merges.txt"
  merges.write_text("\n".join(merges.read_text().split("\n")[:5]))
  with pytest.raises(ValueError, match=r"come from no line of merges\.txt"):
    pretrained_tokenizer("gpt2", merges.parent)
  vocabulary = copied(gpt2_folder, tmp_path / "vocab") / "vocab.json"
  vocabulary.write_text(vocabulary.read_text()[:50])
  with pytest.raises(ValueError, match=r"vocab\.json is not JSON"):
    pretrained_tokenizer("gpt2", vocabulary.parent)


def test_another_kind_is_refused(t5_folder, gpt2_folder, tmp_path):
  with pytest.raises(ValueError, match=r"unknown tokenizer 'bert'; there are"):
    pretrained_tokenizer("bert", t5_folder)
  transformers.T5Tokenizer.from_pretrained(t5_folder).save_pretrained(tmp_path)
  with pytest.raises(ValueError, match="ends texts with </s>, a gpt2"):
    pretrained_tokenizer("gpt2", tmp_path)
  pretrained_tokenizer("gpt2", gpt2_folder).backend.save(
    str(tmp_path / "tokenizer.json")
  )
  with pytest.raises(ValueError, match=r"ends texts with <\|endoftext\|>"):
    pretrained_tokenizer("t5", tmp_path)


def test_a_missing_package_is_named(t5_folder, monkeypatch):
  monkeypatch.setitem(sys.modules, "sentencepiece", None)
  with pytest.raises(ValueError, match="pip install sentencepiece"):
    pretrained_tokenizer("t5", t5_folder)


def test_a_missing_folder_is_not_looked_up_on_the_hub(tmp_path):
  with pytest.raises(ValueError, match="there is no folder"):
    pretrained_tokenizer("t5", tmp_path / "nothing")


def test_a_name_is_fetched_from_the_hub(t5_folder, monkeypatch):
  asked = []

  def snapshot_download(name, *, allow_patterns):
    asked.append((name, allow_patterns))
    if name != "some/t5":
      raise OSError("no connection\nsecond line")
    return str(t5_folder)

  monkeypatch.setattr(
    "huggingface_hub.snapshot_download", snapshot_download, raising=True
  )
  tokenizer = pretrained_tokenizer("t5", "some/t5")
  assert tokenizer.end_id == 1
  assert asked[0][0] == "some/t5" and "spiece.model" in asked[0][1]
  with pytest.raises(ValueError, match=r"did not give it \(no connection\)"):
    pretrained_tokenizer("t5", "other")


def test_no_id_is_a_constant_in_the_code():
  with open(our_tokenizers.__file__, encoding="utf-8") as file:
    source = file.read()
  assert not any(text in source for text in ("32099", "32100", "50256", "255"))


def damaged(change):
  """The contents of a word tokenizer's file after a change."""
  body = json.loads(word_tokenizer(["a", "red"]).backend.to_str())
  change(body)
  return json.dumps(body).encode()


def set_pattern(body, pattern):
  steps = body["pre_tokenizer"]["pretokenizers"]
  steps[1]["pattern"] = {"Regex": pattern}


@pytest.mark.parametrize(
  "data",
  [
    b"",
    b"\xff",
    b"[" * 100_000,
    b'{"version": ' + b"9" * 5000 + b"}",
    damaged(lambda body: set_pattern(body, "(")),
    damaged(lambda body: set_pattern(body, "\ud800")),
    damaged(lambda body: body["model"]["vocab"].update({"a": -1})),
    damaged(lambda body: body["model"].update({"type": "BPE", "merges": [1]})),
    damaged(
      lambda body: body.update(
        normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}
      )
    ),
    damaged(
      lambda body: body.update(
        decoder={"type": "Replace", "pattern": {"Regex": "["}, "content": ""}
      )
    ),
  ],
)
def test_a_damaged_tokenizer_json_is_one_line(data, tmp_path, capfd):
  with pytest.raises(ValueError, match=r"damaged tokenizer\.json") as caught:
    from_files({"tokenizer.json": data})
  assert "\n" not in str(caught.value)
  (tmp_path / "tokenizer.json").write_bytes(data)
  with pytest.raises(ValueError, match=r"damaged tokenizer\.json"):
    pretrained_tokenizer("t5", tmp_path)
  assert capfd.readouterr().err == ""


@pytest.mark.slow
def test_damaged_tokenizers_are_read_or_refused_by_a_line(t5_folder, capfd):
  rng, counts = random.Random(4), collections.Counter()
  text = (
    pretrained_tokenizer("t5", t5_folder).files()["tokenizer.json"].decode()
  )
  for number in range(3000):
    damage = damaged_json(text, rng)
    if number % 3 == 0:
      damage = damaged_bytes(text.encode(), rng)
    try:
      from_files({"tokenizer.json": damage})
      counts["read"] += 1
    except ValueError:
      counts["refused"] += 1
  assert counts.total() == 3000 and min(counts.values()) > 100
  assert capfd.readouterr().err == ""
