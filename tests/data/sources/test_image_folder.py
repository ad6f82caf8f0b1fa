"""Folders of captioned images: lists, files side by side, filters."""

import csv
import json
import os

import pytest

from ddit_jax.data.example import Example
from ddit_jax.data.sources import paths
from ddit_jax.data.sources.image_folder import open_image_folder
from tests.source_files import encoded

IMAGE = encoded(300, 400)
# As the D-DiT release writes them.
ENTRY = {
  "image_path": "00/a.jpg",
  "caption": "a dog",
  "re_caption": "a brown dog barks",
  "ratio": 0.75,
  "height": 300,
  "width": 400,
}
OFF = {"max_ratio": float("inf"), "min_short_side": 0}


@pytest.fixture
def folder(tmp_path):
  (tmp_path / "00").mkdir()
  (tmp_path / "00" / "a.jpg").write_bytes(IMAGE)
  return tmp_path


def write_list(path, records):
  """The same records as JSON, JSON lines or CSV."""
  if path.suffix == ".json":
    path.write_text(json.dumps(records))
  elif path.suffix == ".jsonl":
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
  else:
    with open(path, "w", newline="") as file:
      rows = csv.DictWriter(file, list(ENTRY))
      rows.writeheader()
      rows.writerows(records)
  return str(path)


def removed_of(folder, records, **options) -> dict:
  """What is left out beside one sound record."""
  path = write_list(folder / "l.json", [ENTRY, *records])
  source = open_image_folder("set", path=path, **options)
  assert len(source) + sum(source.removed.values()) == 1 + len(records)
  return dict(source.removed)


@pytest.mark.parametrize(
  ("name", "number"), [("l.json", 0), ("l.jsonl", 1), ("l.csv", 2)]
)
def test_all_lists_give_the_same_examples(name, number, folder):
  source = open_image_folder("set", path=write_list(folder / name, [ENTRY]))
  assert [source[i] for i in range(len(source))] == [
    Example(
      record_id=f"{name}:{number}",
      image=IMAGE,
      texts=("a dog",),
      rewritten=("a brown dog barks",),
    )
  ]
  assert (source.name, source.removed) == ("set", {})


def test_images_may_lie_elsewhere_and_keys_have_other_names(folder, tmp_path):
  (tmp_path / "lists").mkdir()
  records = [{"file": "a.jpg", "texts": ["one", "two"], "long": None}]
  path = write_list(tmp_path / "lists" / "l.json", records)
  source = open_image_folder(
    "set",
    path=path,
    images=str(folder / "00"),
    image_key="file",
    caption_key="texts",
    rewritten_key="long",
  )
  assert source[0].texts == ("one", "two") and source[0].image == IMAGE


def test_rewritten_captions_stand_in_for_blank_ones(folder):
  path = write_list(folder / "l.json", [ENTRY | {"caption": " "}])
  example = open_image_folder("set", path=path)[0]
  assert example.texts == example.rewritten == ("a brown dog barks",)


def test_blank_captions_can_be_kept(folder):
  entry = {"image_path": "00/a.jpg", "caption": ""}
  assert removed_of(folder, [entry]) == {"empty_caption": 1}
  path = write_list(folder / "l.json", [entry])
  source = open_image_folder(
    "set", path=path, filters={"drop_empty_captions": False}
  )
  assert source[0].texts == ("",)


LEFT_OUT = {
  "no object": (7, "bad_json"),
  "no image": ({"caption": "a"}, "no_image"),
  "image a number": ({"image_path": 7, "caption": "a"}, "bad_text"),
  "caption a number": (ENTRY | {"caption": 7}, "bad_text"),
  "half a pair": (ENTRY | {"caption": "\ud800"}, "bad_text"),
  "half a pair in a name": (ENTRY | {"image_path": "\ud800.jpg"}, "bad_text"),
  "outside": (ENTRY | {"image_path": "../a.jpg"}, "unsafe_path"),
  "absolute": (ENTRY | {"image_path": "/etc/passwd"}, "unsafe_path"),
  "small": (ENTRY | {"height": 255, "width": 255}, "short_side"),
  "wide": (ENTRY | {"height": 256, "width": 1100}, "ratio"),
  "bomb": (ENTRY | {"height": 10**5, "width": 10**5}, "image_too_large"),
  "no caption": ({"image_path": "00/a.jpg"}, "empty_caption"),
}


@pytest.mark.parametrize(
  ("entry", "reason"), LEFT_OUT.values(), ids=LEFT_OUT.keys()
)
def test_what_is_left_out_is_counted(entry, reason, folder):
  assert removed_of(folder, [entry, entry]) == {reason: 2}


def test_everything_is_kept_or_counted(folder):
  removed = removed_of(folder, [entry for entry, _ in LEFT_OUT.values()])
  assert sum(removed.values()) == len(LEFT_OUT)


@pytest.mark.parametrize(
  ("data", "reason"),
  [
    (encoded(100, 100), "short_side"),
    (encoded(300, 1300), "ratio"),
    (IMAGE[:20], "truncated_image"),
    (b"hello", "not_an_image"),
    (None, "missing_file"),
  ],
)
def test_sides_that_the_list_lacks_come_from_the_header(data, reason, folder):
  if data is not None:
    (folder / "b.jpg").write_bytes(data)
  entry = {"image_path": "b.jpg", "caption": "a"}
  assert removed_of(folder, [entry]) == {reason: 1}
  assert removed_of(folder, [entry], filters=OFF) == {}


def test_links_that_leave_the_folder_are_left_out(folder, tmp_path_factory):
  outside = tmp_path_factory.mktemp("outside") / "secret.jpg"
  outside.write_bytes(IMAGE)
  (folder / "b.jpg").symlink_to(outside)
  entry = {"image_path": "b.jpg", "caption": "a"}
  assert removed_of(folder, [entry]) == {"unsafe_path": 1}


def test_no_file_is_opened_where_the_list_says_enough(folder, monkeypatch):
  monkeypatch.setattr(paths.SafeFolder, "image_size", None)
  assert removed_of(folder, [ENTRY | {"image_path": "none.jpg"}]) == {}
  bare = {"image_path": "none.jpg", "caption": "a"}
  assert removed_of(folder, [bare], filters=OFF) == {}
  by_ratio = {"min_short_side": 0}
  wide = [bare | {"ratio": 5}, bare | {"ratio": 0.2}, bare | {"ratio": "4"}]
  assert removed_of(folder, wide, filters=by_ratio) == {"ratio": 2}


@pytest.mark.parametrize(
  "ratio", [0, -1, "wide", None, [], float("nan"), 10**400]
)
def test_a_ratio_that_is_none_does_not_count(ratio, folder):
  entry = {"image_path": "00/a.jpg", "caption": "a", "ratio": ratio}
  assert removed_of(folder, [entry], filters={"min_short_side": 0}) == {}


def test_images_and_texts_side_by_side(tmp_path):
  for name, caption in (
    ("b/one.jpg", "first"),
    ("b/two.JPEG", "second"),
    ("a.webp", "third"),
    ("c.PNG", "fourth"),
  ):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(IMAGE)
    suffix = ".TXT" if name == "c.PNG" else ".txt"
    (tmp_path / name).with_suffix(suffix).write_text(f"\ufeff{caption}\r\n")
  source = open_image_folder("set", path=str(tmp_path))
  found = [source[i] for i in range(len(source))]
  assert [(e.record_id, e.texts[0]) for e in found] == [
    ("a.webp", "third"),
    ("c.PNG", "fourth"),
    ("b/one.jpg", "first"),
    ("b/two.JPEG", "second"),
  ]
  assert all(e.image == IMAGE for e in found) and source.removed == {}


def test_linked_subfolders_are_counted_or_followed(tmp_path, tmp_path_factory):
  outside = tmp_path_factory.mktemp("outside")
  for place in (tmp_path / "own", outside / "deep"):
    place.mkdir()
    (place / "a.jpg").write_bytes(IMAGE)
    (place / "a.txt").write_text(place.name)
  (tmp_path / "more").symlink_to(outside)
  (tmp_path / "own" / "same").symlink_to(outside)
  (tmp_path / "inside").symlink_to(tmp_path / "own")
  # Circles, of the two folders and of all that lies above them.
  (outside / "deep" / "back").symlink_to(tmp_path)
  (outside / "deep" / "again").symlink_to(outside)
  source = open_image_folder("set", path=str(tmp_path))
  assert [source[i].texts[0] for i in range(len(source))] == ["own"]
  assert source.removed == {"linked_folder": 2}
  source = open_image_folder("set", path=str(tmp_path), follow_links=True)
  found = [source[i] for i in range(len(source))]
  assert [e.record_id for e in found] == ["more/deep/a.jpg", "own/a.jpg"]
  assert [e.texts[0] for e in found] == ["deep", "own"]
  assert all(e.image == IMAGE for e in found) and source.removed == {}


def test_what_lacks_its_other_half_is_counted(tmp_path):
  for name, data in (
    ("good.jpg", IMAGE),
    ("good.txt", b"a"),
    ("alone.jpg", IMAGE),
    ("lonely.txt", b"a"),
    ("blank.jpg", IMAGE),
    ("blank.txt", b" \n"),
    ("latin.jpg", IMAGE),
    ("latin.txt", b"caf\xe9"),
    ("broken.jpg", b"x"),
    ("broken.txt", b"a"),
    ("notes.md", b"no part of it"),
  ):
    (tmp_path / name).write_bytes(data)
  (tmp_path / "out.jpg").write_bytes(IMAGE)
  (tmp_path / "out.txt").symlink_to("/etc/passwd")
  source = open_image_folder("set", path=str(tmp_path))
  assert len(source) == 1
  assert source.removed == {
    "no_text": 1,
    "no_image": 1,
    "empty_caption": 1,
    "bad_text": 1,
    "not_an_image": 1,
    "unsafe_path": 1,
  }


def test_names_that_are_not_unicode_are_counted(tmp_path):
  for name in (b"good", b"caf\xe9"):
    for suffix, data in ((b".jpg", IMAGE), (b".txt", b"a")):
      with open(
        os.path.join(os.fsencode(tmp_path), name + suffix), "wb"
      ) as file:
        file.write(data)
  source = open_image_folder("set", path=str(tmp_path))
  assert len(source) == 1 and source.removed == {"bad_text": 1}


def test_linked_folders_are_not_entered(tmp_path):
  (tmp_path / "x.jpg").write_bytes(IMAGE)
  (tmp_path / "x.txt").write_text("a")
  (tmp_path / "again").symlink_to(tmp_path)
  assert len(open_image_folder("set", path=str(tmp_path))) == 1


def test_the_fingerprint_sees_filters_and_records(folder):
  small = ENTRY | {"height": 200, "width": 200}
  path = write_list(folder / "l.json", [ENTRY, small])
  one = open_image_folder("set", path=path)
  assert one.fingerprint() == open_image_folder("set", path=path).fingerprint()
  two = open_image_folder("set", path=path, filters=OFF)
  assert one.fingerprint() != two.fingerprint()


def test_what_cannot_be_opened_is_refused(folder):
  path = write_list(folder / "l.json", [ENTRY])
  for options, message in (
    ({"path": str(folder / "none.json")}, "path must be a file, but .* exist"),
    ({"path": path, "images": "none"}, "images must be a folder"),
    ({"path": str(folder / "00"), "images": str(folder)}, "needs a list"),
    ({"path": str(folder / "00")}, "skipped: 1 no_text"),
    ({"path": str(folder / "00" / "a.jpg")}, "must end in one of"),
    ({"path": path, "filters": {"ratio": 3}}, "did you mean 'max_ratio'"),
    ({"path": 7}, "path must be a file or folder, not 7"),
  ):
    with pytest.raises(ValueError, match=message):
      open_image_folder("set", **options)


@pytest.mark.parametrize(
  ("header", "message"),
  [
    ("path,caption", "no column 'image_path', it has path, caption: name it"),
    ("image_path,text", "no column 'caption', .* name it with caption_key"),
  ],
)
def test_a_csv_without_a_column_is_refused(header, message, folder):
  (folder / "l.csv").write_text(f"{header}\n00/a.jpg,a dog\n")
  with pytest.raises(ValueError, match=message):
    open_image_folder("set", path=str(folder / "l.csv"))
