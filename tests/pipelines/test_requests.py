"""Prompts, image files and questions, from flags and files."""

import io
import json
import os
import warnings

import numpy as np
import pytest
from PIL import Image

from ddit_jax.data.image import ImageConfig, ImageTransform
from ddit_jax.errors import InputError
from ddit_jax.pipelines.requests import read, read_square_image
from tests.data.pictures import encoded, png


def ask(task, inputs=None, **given):
  columns = {"prompt": [], "image": [], "question": []} | given
  return read(task, columns, None if inputs is None else str(inputs))


def complaint(function, *args, **named) -> str:
  with pytest.raises(InputError) as caught:
    function(*args, **named)
  assert "\n" not in str(caught.value)
  return str(caught.value)


def test_flags_pair_up():
  assert ask("t2i", prompt=["a", "b"]) == [{"prompt": "a"}, {"prompt": "b"}]
  assert ask("caption", image=["x.png"]) == [{"image": "x.png"}]
  pairs = ask("vqa", image=["x"], question=["p", "q"])
  assert pairs == [
    {"image": "x", "question": "p"},
    {"image": "x", "question": "q"},
  ]
  pairs = ask("vqa", image=["x", "y"], question=["p", "q"])
  assert pairs == [
    {"image": "x", "question": "p"},
    {"image": "y", "question": "q"},
  ]


@pytest.mark.parametrize(
  ("task", "given", "message"),
  [
    ("t2i", {}, "nothing to do: give --prompt, or --inputs=FILE.jsonl"),
    ("vqa", {}, "nothing to do: give --image and --question, or --inputs="),
    ("t2i", {"image": ["x"]}, "--prompt is missing"),
    ("t2i", {"question": ["q"]}, "--task=t2i does not take --question"),
    (
      "t2i",
      {"prompt": ["a"], "mask_image": ["m"]},
      "m needs an image that it keeps",
    ),
    ("caption", {"question": ["q"]}, "--task=caption does not take --questi"),
    ("vqa", {"image": ["x"]}, "--question is missing"),
    (
      "vqa",
      {"image": ["x", "y"], "question": ["p", "q", "r"]},
      "flags do not pair up: repeat --image once or 3 times",
    ),
    (
      "vqa",
      {"image": ["x"], "question": [" "]},
      "the command line needs a non-empty text 'question'",
    ),
  ],
)
def test_flags_that_make_no_request_are_named(task, given, message):
  assert message in complaint(ask, task, **given)


def test_the_empty_prompt_is_one():
  assert ask("t2i", prompt=[""]) == [{"prompt": ""}]


def test_a_file_adds_its_lines(tmp_path, caplog):
  path = tmp_path / "in.jsonl"
  rows = [{"prompt": "ünï", "id": 1}, {"prompt": "b", "id": 2, "negative": "c"}]
  path.write_text("\n".join(map(json.dumps, rows)) + "\n\n", encoding="utf-8")
  assert ask("t2i", prompt=["a"], inputs=path) == [
    {"prompt": "a"},
    {"prompt": "ünï"},
    {"prompt": "b"},
  ]
  assert caplog.messages == [
    f"{path} has keys that this task does not read: 'id' (2 times), 'negative' "
    "(1 times)"
  ]


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (b"", "in.jsonl is empty: write one JSON object per line"),
    (b"\n  \n", "in.jsonl is empty"),
    (b'{"prompt": "a"}\n{"prompt": \n', "in.jsonl line 2 is not valid JSON: "),
    (b'{"promt": "a"}', "in.jsonl line 1 needs a text 'prompt'"),
    (b'{"prompt": 5}', "line 1 needs a text 'prompt'"),
    (b'["prompt"]', "in.jsonl line 1 is not an object but list"),
    (b"\xff\xfe", "in.jsonl is empty"),
    (b"\xff\xfe\0", "in.jsonl cannot be read: "),
    (b'{"prompt": "\xe9"}', "in.jsonl line 1 is not valid JSON: "),
    (b"[" * 100_000, "in.jsonl line 1 is not valid JSON: "),
    (b'{"prompt": %s}' % (b"9" * 5000), "in.jsonl line 1 is not valid JSON: "),
  ],
)
def test_broken_files_are_named_with_the_line(tmp_path, content, message):
  path = tmp_path / "in.jsonl"
  path.write_bytes(content)
  assert message in complaint(ask, "t2i", inputs=path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_only_line_feeds_end_a_line(tmp_path, encoding):
  """JSON needs no escapes for other line separators in its strings."""
  path = tmp_path / "in.jsonl"
  rows = [{"prompt": "one\u2028two\x85"}, {"prompt": "b"}]
  lines = [json.dumps(row, ensure_ascii=False) for row in rows]
  path.write_bytes("\r\n".join(lines).encode(encoding))
  assert ask("t2i", inputs=path) == rows


def test_a_pipe_is_not_waited_for(tmp_path):
  pipe = tmp_path / "pipe"
  os.mkfifo(pipe)
  assert "is not a regular file" in complaint(ask, "t2i", inputs=pipe)
  assert "pipe is not a file" in complaint(read_square_image, str(pipe), 8)


def test_a_file_that_is_not_there_is_named(tmp_path):
  path = tmp_path / "no.jsonl"
  assert f"--inputs={path} cannot be read" in complaint(ask, "t2i", inputs=path)


def picture(side=8):
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (side, side, 3), np.uint8)


def saved(tmp_path, image, name="x.png", **options):
  path = tmp_path / name
  image.save(path, **options)
  return str(path)


def test_an_image_of_the_right_size_is_read_as_it_is(tmp_path):
  path = saved(tmp_path, Image.fromarray(picture()))
  read_back = read_square_image(path, 8)
  assert read_back.dtype == np.uint8
  np.testing.assert_array_equal(read_back, picture())


def test_modes_that_lose_nothing_are_read(tmp_path):
  grey = Image.fromarray(picture()).convert("L")
  path = saved(tmp_path, grey)
  expected = np.repeat(np.asarray(grey)[:, :, None], 3, axis=2)
  np.testing.assert_array_equal(read_square_image(path, 8), expected)
  opaque = Image.fromarray(picture()).convert("RGBA")
  path = saved(tmp_path, opaque)
  np.testing.assert_array_equal(read_square_image(path, 8), picture())
  palette = Image.fromarray(picture()).quantize(16)
  path = saved(tmp_path, palette)
  expected = np.asarray(palette.convert("RGB"))
  np.testing.assert_array_equal(read_square_image(path, 8), expected)


def mpo():
  """Two pictures in one file, as phones write them."""
  file = io.BytesIO()
  second = Image.fromarray(picture()[::-1])
  first = Image.fromarray(picture(32))
  first.save(file, "MPO", save_all=True, append_image=[second])
  return file.getvalue()


def cmyk():
  return encoded(Image.new("CMYK", (8, 8), (0, 0, 0, 255)), "JPEG")


def transparent():
  image = Image.fromarray(picture()).convert("RGBA")
  image.putalpha(51)
  return encoded(image)


def deep():
  return encoded(Image.fromarray(np.full((8, 8), 40_000, np.uint16)))


def animated():
  frames = [Image.fromarray(picture()), Image.new("RGB", (8, 8))]
  return encoded(frames[0], save_all=True, append_images=frames[1:])


@pytest.mark.parametrize("make", [mpo, cmyk, transparent, deep, animated])
def test_an_image_is_read_as_training_reads_it(tmp_path, make):
  path = tmp_path / "x"
  path.write_bytes(make())
  trained = ImageTransform(config=ImageConfig(image_size=8))(
    make(), np.random.default_rng(0), record_id="x", may_flip=False
  )
  np.testing.assert_array_equal(read_square_image(str(path), 8), trained)


def test_an_animation_is_named(tmp_path, caplog):
  path = tmp_path / "x.png"
  path.write_bytes(animated())
  caplog.set_level("INFO", "ddit_jax")
  np.testing.assert_array_equal(read_square_image(str(path), 8), picture())
  assert caplog.messages == [f"{path} is an animation: its first frame is used"]


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not PostScript (not_an_image)"),
    (encoded(picture(), "GIF"), "not GIF (not_an_image)"),
    (png(13_000, 13_000, b""), "at most 89478485 are allowed (image_too_large"),
  ],
)
def test_what_training_refuses_is_refused(tmp_path, content, message):
  path = tmp_path / "x.png"
  path.write_bytes(content)
  assert message in complaint(read_square_image, str(path), 8)


def test_another_size_becomes_the_centre_square_and_says_so(tmp_path, caplog):
  wide = np.zeros((8, 24, 3), np.uint8)
  wide[:, 8:16] = 200  # only the middle third is kept
  path = saved(tmp_path, Image.fromarray(wide))
  caplog.set_level("INFO", "ddit_jax")
  assert (read_square_image(path, 8) == 200).all()
  assert caplog.messages == [f"{path} is cropped to its centre square"]
  caplog.clear()
  square = saved(tmp_path, Image.fromarray(picture(16)), "square.png")
  assert read_square_image(square, 8).shape == (8, 8, 3)
  assert caplog.messages == []


def test_a_run_on_padded_images_reads_whole_images(tmp_path, caplog):
  wide = np.full((8, 32, 3), 200, np.uint8)
  path = saved(tmp_path, Image.fromarray(wide))
  caplog.set_level("INFO", "ddit_jax")
  found = read_square_image(path, 8, "pad")
  assert (found[3:5] == 200).all() and not found[:3].any()
  assert not found[5:].any() and caplog.messages == []


def test_the_camera_orientation_is_applied(tmp_path):
  image = Image.fromarray(picture())
  exif = Image.Exif()
  exif[0x0112] = 3  # turned by 180 degrees
  path = saved(tmp_path, image, exif=exif)
  np.testing.assert_array_equal(
    read_square_image(path, 8), picture()[::-1, ::-1]
  )


def test_files_that_are_no_images_are_refused(tmp_path):
  missing = tmp_path / "no.png"
  assert complaint(read_square_image, str(missing), 8) == (
    f"there is no image file {missing}"
  )
  text = tmp_path / "text.png"
  text.write_text("not an image")
  assert complaint(read_square_image, str(text), 8) == (
    f"{text} cannot be used: JPEG, PNG or WebP expected, not b'not an i' "
    "(not_an_image)"
  )
  assert f"{tmp_path} cannot be used" in complaint(
    read_square_image, str(tmp_path), 8
  )


def test_no_damage_gives_a_traceback(tmp_path):
  whole = (tmp_path / "x.png", tmp_path / "x.jpg", tmp_path / "x.gif")
  rng = np.random.default_rng(0)
  num_refused = 0
  for path in whole:
    saved(tmp_path, Image.fromarray(picture(32)), path.name)
    content = path.read_bytes()
    for _ in range(60):
      damaged = bytearray(content[: rng.integers(1, len(content) + 1)])
      for position in rng.integers(0, len(damaged), 3):
        damaged[position] = rng.integers(256)
      path.write_bytes(damaged)
      with warnings.catch_warnings(action="ignore"):
        try:
          assert read_square_image(str(path), 8).shape == (8, 8, 3)
        except InputError:
          num_refused += 1
  assert num_refused > 60
