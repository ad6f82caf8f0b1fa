"""Folders of captioned images: lists, files side by side, filters."""

import csv
import json
import os
import pathlib

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
    ("image_path,words", "no column 'caption', .* name it with caption_key"),
  ],
)
def test_a_csv_without_a_column_is_refused(header, message, folder):
  (folder / "l.csv").write_text(f"{header}\n00/a.jpg,a dog\n")
  with pytest.raises(ValueError, match=message):
    open_image_folder("set", path=str(folder / "l.csv"))


def write_pair(path, caption=b"a dog"):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(IMAGE)
  path.with_suffix(".txt").write_bytes(caption)


def test_hidden_files_are_no_examples(tmp_path):
  for name in (
    "cat.jpg",
    "sub/dog.jpg",
    "._cat.jpg",
    ".ipynb_checkpoints/cat-checkpoint.jpg",
    "sub/.git/deep/cow.png",
    "__MACOSX/cat.jpg",
    "@eaDir/cat.jpg/thumb.jpg",
  ):
    write_pair(tmp_path / name)
  source = open_image_folder("set", path=str(tmp_path))
  ids = [source[i].record_id for i in range(len(source))]
  assert ids == ["cat.jpg", "sub/dog.jpg"] and source.removed == {"hidden": 5}


def test_a_folder_of_a_hidden_name_can_be_named(tmp_path):
  write_pair(tmp_path / ".cache" / "a.jpg")
  assert len(open_image_folder("set", path=str(tmp_path / ".cache"))) == 1


def test_images_of_other_formats_are_counted(tmp_path):
  write_pair(tmp_path / "a.jpg")
  write_pair(tmp_path / "b.gif")
  write_pair(tmp_path / "c.JFIF")
  source = open_image_folder("set", path=str(tmp_path))
  assert len(source) == 2 and source.removed == {"other_format": 1}


@pytest.mark.parametrize(
  "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32-be"]
)
def test_a_byte_order_mark_names_the_encoding(tmp_path, encoding):
  mark = "\ufeff" if encoding[-3:] in ("-le", "-be") else ""
  write_pair(tmp_path / "a.jpg", f"{mark}Grüße\r\n".encode(encoding))
  assert open_image_folder("set", path=str(tmp_path))[0].texts == ("Grüße",)


def test_utf_16_without_a_mark_is_not_taken_for_utf_8(tmp_path):
  write_pair(tmp_path / "a.jpg", "a dog".encode("utf-16-le"))
  with pytest.raises(ValueError, match="is it UTF-16 without a byte order"):
    open_image_folder("set", path=str(tmp_path))


def test_captions_that_are_not_unicode_are_named(tmp_path, caplog):
  for number in range(9):
    write_pair(tmp_path / f"{number}.jpg", b"caf\xe9")
  with pytest.raises(ValueError, match=r"9 bad_text \(0.txt: bad_text: not UT"):
    open_image_folder("set", path=str(tmp_path))
  write_pair(tmp_path / "good.jpg")
  source = open_image_folder("set", path=str(tmp_path))
  assert [fault.record_id for fault in source.faults] == [
    f"{number}.txt" for number in range(9)
  ]
  assert source.faults[0].detail == (
    "not UTF-8 (byte 3 is 0xe9): save it as UTF-8"
  )
  assert "2.txt: bad_text" in caplog.text and "and 6 more" in caplog.text


HUGGING_FACE = [
  {"file_name": "a.jpg", "text": "a red square"},
  {"file_name": "sub/b.jpg", "text": "a circle"},
]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_hugging_faces_metadata_are_read(tmp_path, encoding):
  lines = "\n".join(map(json.dumps, HUGGING_FACE))
  (tmp_path / "metadata.jsonl").write_text(lines, encoding=encoding)
  (tmp_path / "sub").mkdir()
  for entry in HUGGING_FACE:
    (tmp_path / entry["file_name"]).write_bytes(IMAGE)
  for path in (tmp_path, tmp_path / "metadata.jsonl"):
    source = open_image_folder("set", path=str(path))
    assert [source[i] for i in range(len(source))] == [
      Example(
        record_id=f"metadata.jsonl:{number}",
        image=IMAGE,
        texts=(entry["text"],),
      )
      for number, entry in enumerate(HUGGING_FACE, 1)
    ]
    assert source.removed == {}


def test_hugging_faces_metadata_may_be_parquet(tmp_path):
  pyarrow = pytest.importorskip("pyarrow")
  from pyarrow import parquet

  columns = {
    "file_name": ["a.jpg", "sub/b.jpg", None],
    "text": ["a red square", "a circle", "nothing"],
    "objects": [{"bbox": [0.0, 1.0]}] * 3,
    "thumbnail": [IMAGE] * 3,
    # Beyond the year 9999.
    "taken": pyarrow.array([2**40] * 3, pyarrow.timestamp("s")),
  }
  path = tmp_path / "metadata.parquet"
  parquet.write_table(pyarrow.table(columns), path, row_group_size=2)
  (tmp_path / "sub").mkdir()
  for entry in HUGGING_FACE:
    (tmp_path / entry["file_name"]).write_bytes(IMAGE)
  for place in (tmp_path, path):
    source = open_image_folder("set", path=str(place))
    assert [source[i] for i in range(len(source))] == [
      Example(
        record_id=f"metadata.parquet:{number}",
        image=IMAGE,
        texts=(entry["text"],),
      )
      for number, entry in enumerate(HUGGING_FACE)
    ]
    assert source.removed == {"no_image": 1}
  path.write_bytes(path.read_bytes()[:-9])
  with pytest.raises(ValueError, match="is not a whole parquet file"):
    open_image_folder("set", path=str(tmp_path))


def test_names_that_are_not_utf_8_are_named_and_blanks_are_kept(tmp_path):
  bad = os.fsencode(tmp_path) + b"/caf\xe9"
  os.mkdir(bad)
  for name in (bad + b"/a.jpg", bad + b".jpg", tmp_path / " b .jpg"):
    pathlib.Path(os.fsdecode(name)).write_bytes(IMAGE)
  filters = {"drop_empty_captions": False}
  source = open_image_folder("set", path=str(tmp_path), filters=filters)
  assert [source[i].record_id for i in range(len(source))] == [" b .jpg"]
  assert source.removed == {"bad_text": 2}
  assert all("caf\\udce9" in fault.record_id for fault in source.faults)
  for text in (bad + b".txt", tmp_path / " b .txt"):
    pathlib.Path(os.fsdecode(text)).write_text("a cup")
  source = open_image_folder("set", path=str(tmp_path))
  assert len(source) == 1 and source[0].texts == ("a cup",)
  assert source.removed == {"no_text": 1, "bad_text": 1}


@pytest.mark.parametrize("make", [os.mkfifo, lambda x: x.symlink_to("../m")])
def test_metadata_outside_of_the_folder_is_not_read(tmp_path, make):
  (tmp_path / "m").write_text('{"file_name": "a.jpg", "text": "a secret"}\n')
  for name in ("bad", "good"):
    (tmp_path / "pictures" / name).mkdir(parents=True)
    (tmp_path / "pictures" / name / "a.jpg").write_bytes(IMAGE)
  (tmp_path / "pictures" / "good" / "a.txt").write_text("a dog")
  make(tmp_path / "pictures" / "bad" / "metadata.jsonl")
  source = open_image_folder("set", path=str(tmp_path / "pictures"))
  assert len(source) == 1 and source[0].texts == ("a dog",)
  (fault,) = source.faults
  assert fault.record_id == "bad/metadata.jsonl"
  assert source.removed == {fault.reason: 1}


def test_each_split_has_its_own_metadata(tmp_path):
  for split in ("test", "train"):
    (tmp_path / split).mkdir()
    (tmp_path / split / "a.jpg").write_bytes(IMAGE)
    (tmp_path / split / "metadata.csv").write_text(
      f"file_name,text\na.jpg,{split}\n../a.jpg,outside\n"
    )
  source = open_image_folder("set", path=str(tmp_path))
  found = [source[i] for i in range(len(source))]
  assert [(e.record_id, *e.texts) for e in found] == [
    ("test/metadata.csv:2", "test"),
    ("train/metadata.csv:2", "train"),
  ]
  assert all(example.image == IMAGE for example in found)
  assert source.removed == {"unsafe_path": 2}


def test_texts_beside_images_come_before_metadata(tmp_path, caplog):
  write_pair(tmp_path / "a.jpg", b"beside")
  (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.jpg"}')
  source = open_image_folder("set", path=str(tmp_path))
  assert source[0].texts == ("beside",) and len(source) == 1
  assert "metadata.jsonl is not read" in caplog.text


@pytest.mark.parametrize(
  ("entry", "message"),
  [
    (
      {"path": "a.jpg", "text": "x"},
      "'image_path', it has path, text: .*e_key",
    ),
    ({"file_name": "a.jpg", "x": "x"}, "'caption', it has .*with caption_key"),
  ],
)
def test_keys_that_records_lack_are_named(entry, message, tmp_path):
  (tmp_path / "l.jsonl").write_text(json.dumps(entry))
  with pytest.raises(ValueError, match=message):
    open_image_folder("set", path=str(tmp_path / "l.jsonl"))


COCO = {
  "info": {},
  "images": [
    {"id": 7, "file_name": "00/a.jpg", "height": 300, "width": 400},
    {"id": 8, "file_name": "00/a.jpg", "height": 30, "width": 40},
    {"id": 9, "file_name": "00/a.jpg", "height": 300, "width": 400},
    "no image",
  ],
  "annotations": [
    {"image_id": 7, "id": 1, "caption": "a dog"},
    {"image_id": 8, "id": 2, "caption": "small"},
    {"image_id": 7, "id": 3, "caption": "it barks\n"},
    {"image_id": 10, "id": 4, "caption": "of no image"},
    {"image_id": [7], "caption": "of what?"},
  ],
}


def test_cocos_captions_are_read(folder):
  path = folder / "captions_val2017.json"
  path.write_text(json.dumps(COCO))
  source = open_image_folder("set", path=str(path))
  assert len(source) == 1 and source[0].texts == ("a dog", "it barks")
  assert source[0].image == IMAGE
  assert source.removed == {
    "bad_json": 2,
    "short_side": 1,
    "no_image": 1,
    "empty_caption": 1,
  }
  path.write_text(json.dumps(COCO | {"annotations": [{"image_id": 7}]}))
  with pytest.raises(ValueError, match=r"no 'caption': give COCO's captions_"):
    open_image_folder("set", path=str(path))


def test_images_alone_are_records_where_that_is_asked_for(tmp_path):
  (tmp_path / "a.jpg").write_bytes(IMAGE)
  with pytest.raises(ValueError, match=r"no_text \(filters.drop_empty_capt"):
    open_image_folder("set", path=str(tmp_path))
  (tmp_path / "l.jsonl").write_text('{"file_name": "a.jpg"}')
  for path in (tmp_path, tmp_path / "l.jsonl"):
    source = open_image_folder(
      "set", path=str(path), filters={"drop_empty_captions": False}
    )
    assert len(source) == 1 and source[0].texts == ("",)


def test_names_in_two_unicode_forms_belong_together(tmp_path):
  composed, combining = "caf\u00e9", "cafe\u0301"
  (tmp_path / f"{combining}.jpg").write_bytes(IMAGE)
  (tmp_path / f"{composed}.txt").write_text("a cup")
  (example,) = open_image_folder("set", path=str(tmp_path))
  assert example.texts == ("a cup",) and example.image == IMAGE
