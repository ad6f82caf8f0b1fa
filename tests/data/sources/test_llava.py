"""LLaVA's conversations become questions with answers."""

import json

import pytest

from ddit_jax.data.example import BadRecord, Example, instruction_of
from ddit_jax.data.sources.llava import open_llava


def turn(speaker, value):
  return {"from": speaker, "value": value}


# The layouts of LLaVA-Pretrain and of LLaVA-1.5's mix.
PRETRAIN = {
  "id": "004539375",
  "image": "00453/004539375.jpg",
  "conversations": [
    turn("human", "Render a clear summary of the photo.\n<image>"),
    turn("gpt", "select luxury furniture"),
  ],
}
MIX = {
  "id": "000000033471",
  "image": "coco/33471.jpg",
  "conversations": [
    turn("human", "<image>\nWhat color is it?\nAnswer with one word."),
    turn("gpt", "Red\nand white."),
    turn("human", "Is it wet?"),
    turn("gpt", "No"),
  ],
}
TEXT_ONLY = {
  "id": "wgByO4Y_0",
  "model": "",
  "conversations": [turn("human", "Who are you?"), turn("gpt", "Nobody.")],
}


@pytest.fixture
def images(tmp_path):
  folder = tmp_path / "images"
  for entry in (PRETRAIN, MIX):
    path = folder / entry["image"]
    path.parent.mkdir(parents=True)
    path.write_bytes(entry["id"].encode())
  return folder


def opened(entries, images, *, name="mix.json", **options):
  path = images.parent / name
  path.write_text(json.dumps(entries))
  return open_llava("mix", path=str(path), images=str(images), **options)


def test_linked_sub_folders_are_read_where_that_is_asked_for(
  images, tmp_path_factory
):
  elsewhere = tmp_path_factory.mktemp("data") / "coco"
  (images / "coco").rename(elsewhere)
  (images / "coco").symlink_to(elsewhere)
  with pytest.raises(BadRecord, match=r"unsafe_path: .* follow_links allows"):
    opened([MIX], images)[0]
  source = opened([MIX], images, follow_links=True)
  assert source[0].image == MIX["id"].encode()


def test_the_first_turn_is_taken_as_the_release_does(images):
  source = opened([PRETRAIN, MIX, TEXT_ONLY], images)
  assert [source[i] for i in range(len(source))] == [
    Example(
      record_id="mix.json:0:0",
      image=b"004539375",
      prompt="Q: Render a clear summary of the photo. A: ",
      texts=("select luxury furniture",),
    ),
    Example(
      record_id="mix.json:1:0",
      image=b"000000033471",
      prompt="Q: What color is it? Answer with one word. A: ",
      texts=("Red\nand white.",),
    ),
    Example(
      record_id="mix.json:2:0",
      image=None,
      prompt="Q: Who are you? A: ",
      texts=("Nobody.",),
    ),
  ]
  assert source.removed == {"later_turn": 1}
  # Each question has its own.
  assert instruction_of(source) is None


def test_all_turns_are_examples_of_their_own(images):
  source = opened([MIX], images, turns="all")
  assert (len(source), source.removed) == (2, {})
  assert source[1] == Example(
    record_id="mix.json:0:1",
    image=b"000000033471",
    prompt="Q: Is it wet? A: ",
    texts=("No",),
  )


LONG = {
  "id": "x",
  "conversations": [
    turn("system", "Be nice."),
    turn("human", "a?"),
    turn("gpt", "One."),
    turn("human", "b?"),
    turn("gpt", "Two\nlines."),
    turn("human", " "),
    turn("gpt", "Blank."),
    turn("human", "c?"),
    turn("gpt", "Three."),
    turn("human", "d?"),
    turn("gpt", "Four."),
  ],
}


@pytest.mark.parametrize(
  ("most", "prompts"),
  [
    (0, ["a?", "b?", "c?", "d?"]),
    # "a? A: One. Q: " has 14 characters, "c? A: Three. Q: " 16.
    (13, ["a?", "b?", "c?", "d?"]),
    (14, ["a?", "a? A: One. Q: b?", "c?", "d?"]),
    (99, ["a?", "a? A: One. Q: b?", "c?", "c? A: Three. Q: d?"]),
  ],
)
def test_whole_earlier_turns_stand_in_the_prompt(most, prompts, images):
  source = opened([LONG], images, turns="all", history_characters=most)
  found = [source[i] for i in range(len(source))]
  assert [example.prompt for example in found] == [
    f"Q: {text} A: " for text in prompts
  ]
  texts = [example.texts for example in found]
  assert texts == [("One.",), ("Two\nlines.",), ("Three.",), ("Four.",)]


def test_the_nearest_turns_are_kept_and_marks_of_images_removed(images):
  more = [turn("human", "By whom?"), turn("gpt", "Me")]
  entry = MIX | {"conversations": MIX["conversations"] + more}
  source = opened([entry], images, turns="all", history_characters=30)
  assert source[2].prompt == "Q: Is it wet? A: No Q: By whom? A: "
  source = opened([entry], images, turns="all", history_characters=200)
  assert source[2].prompt == (
    "Q: What color is it? Answer with one word. A: Red and white. "
    "Q: Is it wet? A: No Q: By whom? A: "
  )
  without = entry | {"image": None}
  source = opened(
    [without, TEXT_ONLY], images, turns="all", history_characters=200
  )
  # Earlier turns tell of an image that is not there.
  assert source.removed == {"no_image": 3}


def test_json_lines_are_read(images):
  source = opened(MIX, images, name="mix.jsonl")
  assert source[0].record_id == "mix.jsonl:1:0"


HUMAN, GPT = turn("human", "Why?"), turn("gpt", "Because.")


@pytest.mark.parametrize(
  ("conversations", "removed", "kept"),
  [
    ([], {"bad_json": 1}, 0),
    (None, {"bad_json": 1}, 0),
    ("Why?", {"bad_json": 1}, 0),
    ([GPT, HUMAN], {"no_question": 1, "no_answer": 1}, 0),
    ([GPT, HUMAN, GPT], {"no_question": 1}, 1),
    ([GPT], {"no_question": 1}, 0),
    ([HUMAN, HUMAN], {"bad_json": 1}, 0),
    ([HUMAN, 7], {"bad_json": 1}, 0),
    ([turn("human", 7), GPT], {"bad_json": 1}, 0),
    ([turn("system", "Be nice."), HUMAN, GPT], {}, 1),
    ([turn("system", "Be nice.")], {"no_question": 1}, 0),
    ([turn("user", "Why?"), turn("assistant", "So.")], {}, 1),
    ([turn("human", "<video>Why?"), GPT], {"no_image": 1}, 0),
    ([HUMAN], {"no_answer": 1}, 0),
    ([HUMAN, GPT, HUMAN], {"no_answer": 1}, 1),
    ([HUMAN, turn("gpt", " ")], {"empty_text": 1}, 0),
    ([turn("human", "<image>Why?"), GPT], {"no_image": 1}, 0),
    ([turn("human", " "), GPT, HUMAN, GPT], {"empty_text": 1}, 1),
  ],
)
def test_turns_that_are_no_pair_are_counted(
  conversations, removed, kept, images
):
  broken = {"id": "x", "conversations": conversations}
  source = opened([TEXT_ONLY, broken], images, turns="all")
  assert source.removed == removed and len(source) == 1 + kept


@pytest.mark.parametrize(
  ("entry", "reason"),
  [
    (7, "bad_json"),
    ({}, "bad_json"),
    (MIX | {"image": "../a.jpg"}, "unsafe_path"),
    (MIX | {"image": ["a.jpg", "b.jpg"]}, "several_images"),
    (MIX | {"image": [7]}, "bad_text"),
    (MIX | {"image": []}, "no_image"),
    (MIX | {"image": None}, "no_image"),
    (MIX | {"image": ""}, "no_image"),
  ],
)
def test_entries_that_cannot_be_used_are_counted(entry, reason, images):
  source = opened([TEXT_ONLY, entry], images)
  source.removed.pop("later_turn", 0)
  assert source.removed == {reason: 1}


@pytest.mark.parametrize(
  ("image", "expected"),
  [(MIX["image"], MIX["id"]), ([MIX["image"]], MIX["id"]), ("", None)],
)
def test_one_image_may_be_a_list_and_none_a_blank(image, expected, images):
  source = opened([TEXT_ONLY | {"image": image}], images)
  assert source[0].image == (expected and expected.encode())
  assert source.removed == {}


def test_openais_names_are_read(images):
  messages = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "<image>\nWhat is it?"},
    {"role": "assistant", "content": "A bus"},
  ]
  entry = {"messages": messages, "images": [MIX["image"]]}
  odd = {"messages": [{"role": "user", "content": [{"type": "text"}]}]}
  source = opened([entry, odd], images)
  assert source[0].prompt == "Q: What is it? A: "
  assert source[0].texts == ("A bus",)
  assert source[0].image == MIX["id"].encode()
  assert source.removed == {"bad_json": 1}


def test_wrong_settings_are_refused(images):
  with pytest.raises(ValueError, match=r"turns must be one of .*, not 'last'"):
    opened([MIX], images, turns="last")
  for options in (
    {"history_characters": 9},
    {"history_characters": -1, "turns": "all"},
  ):
    with pytest.raises(ValueError, match=r"history_characters is -?[19] and"):
      opened([MIX], images, **options)
  with pytest.raises(ValueError, match="must hold a JSON list"):
    opened({"a": 1}, images)
  with pytest.raises(ValueError, match="images must be a folder"):
    open_llava("mix", path=str(images.parent / "mix.json"), images="none")
  with pytest.raises(ValueError, match="path must be a file"):
    open_llava("mix", path="none", images=str(images))
