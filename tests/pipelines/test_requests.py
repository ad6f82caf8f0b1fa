"""Prompts, image files and questions, from flags and files."""

import json
import warnings

import numpy as np
import pytest
from PIL import Image

from ddit_jax.errors import InputError
from ddit_jax.pipelines.requests import read, read_image


def ask(task, prompts=(), images=(), questions=(), inputs=None):
  return read(
    task,
    prompts=list(prompts),
    images=list(images),
    questions=list(questions),
    inputs=None if inputs is None else str(inputs),
  )


def complaint(function, *args, **named) -> str:
  with pytest.raises(InputError) as caught:
    function(*args, **named)
  assert "\n" not in str(caught.value)
  return str(caught.value)


def test_flags_pair_up():
  assert ask("t2i", ["a", "b"]) == [{"prompt": "a"}, {"prompt": "b"}]
  assert ask("caption", images=["x.png"]) == [{"image": "x.png"}]
  pairs = ask("vqa", images=["x"], questions=["p", "q"])
  assert pairs == [
    {"image": "x", "question": "p"},
    {"image": "x", "question": "q"},
  ]
  pairs = ask("vqa", images=["x", "y"], questions=["p", "q"])
  assert pairs == [
    {"image": "x", "question": "p"},
    {"image": "y", "question": "q"},
  ]


@pytest.mark.parametrize(
  ("task", "given", "message"),
  [
    ("t2i", {}, "nothing to do: give --prompt, or --inputs=FILE.jsonl"),
    ("vqa", {}, "nothing to do: give --image and --question, or --inputs="),
    ("t2i", {"images": ["x"]}, "--task=t2i does not take --image"),
    ("caption", {"questions": ["q"]}, "--task=caption does not take --questi"),
    ("vqa", {"images": ["x"]}, "--question is missing"),
    (
      "vqa",
      {"images": ["x", "y"], "questions": ["p", "q", "r"]},
      "flags do not pair up: repeat --image once or 3 times",
    ),
    ("t2i", {"prompts": [" "]}, "the command line needs a non-empty text 'pr"),
  ],
)
def test_flags_that_make_no_request_are_named(task, given, message):
  assert message in complaint(ask, task, **given)


def test_a_file_adds_its_lines(tmp_path):
  path = tmp_path / "in.jsonl"
  rows = [{"prompt": "ünï", "id": 1}, {"prompt": "b"}]
  path.write_text("\n".join(map(json.dumps, rows)) + "\n\n", encoding="utf-8")
  assert ask("t2i", ["a"], inputs=path) == [
    {"prompt": "a"},
    {"prompt": "ünï"},
    {"prompt": "b"},
  ]


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (b"", "in.jsonl is empty: write one JSON object per line"),
    (b"\n  \n", "in.jsonl is empty"),
    (b'{"prompt": "a"}\n{"prompt": \n', "in.jsonl line 2 is not JSON: "),
    (b'{"promt": "a"}', "in.jsonl line 1 needs a non-empty text 'prompt'"),
    (b'{"prompt": ""}', "line 1 needs a non-empty text 'prompt'"),
    (b'{"prompt": 5}', "line 1 needs a non-empty text 'prompt'"),
    (b'["prompt"]', "line 1 needs a non-empty text 'prompt'"),
    (b"\xff\xfe", "in.jsonl cannot be read: 'utf-8' codec can't decode"),
  ],
)
def test_broken_files_are_named_with_the_line(tmp_path, content, message):
  path = tmp_path / "in.jsonl"
  path.write_bytes(content)
  assert message in complaint(ask, "t2i", inputs=path)


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
  read_back = read_image(path, 8)
  assert read_back.dtype == np.uint8
  np.testing.assert_array_equal(read_back, picture())


def test_modes_that_lose_nothing_are_read(tmp_path):
  grey = Image.fromarray(picture()).convert("L")
  path = saved(tmp_path, grey)
  expected = np.repeat(np.asarray(grey)[:, :, None], 3, axis=2)
  np.testing.assert_array_equal(read_image(path, 8), expected)
  opaque = Image.fromarray(picture()).convert("RGBA")
  path = saved(tmp_path, opaque)
  np.testing.assert_array_equal(read_image(path, 8), picture())
  palette = Image.fromarray(picture()).quantize(16)
  path = saved(tmp_path, palette)
  expected = np.asarray(palette.convert("RGB"))
  np.testing.assert_array_equal(read_image(path, 8), expected)


def transparent():
  image = Image.fromarray(picture()).convert("RGBA")
  image.putpixel((3, 3), (10, 20, 30, 254))
  return image


def deep():
  return Image.fromarray(np.full((8, 8), 40000, np.uint16))


@pytest.mark.parametrize(
  ("make", "name", "message"),
  [
    (transparent, "x.png", "has transparent pixels: put it on a background"),
    (deep, "x.png", "has the colour mode I;16: convert it to 8-bit RGB first"),
    (
      lambda: Image.fromarray(picture()).convert("CMYK"),
      "x.jpg",
      "has the colour mode CMYK: convert it to 8-bit RGB first",
    ),
    (
      lambda: Image.new("F", (8, 8)),
      "x.tiff",
      "has the colour mode F: convert it to 8-bit RGB first",
    ),
  ],
)
def test_modes_that_would_lose_something_are_refused(
  tmp_path, make, name, message
):
  path = saved(tmp_path, make(), name)
  assert complaint(read_image, path, 8) == f"{path} {message}" + (
    " first" if "background" in message else ""
  )


def test_moving_images_are_refused(tmp_path):
  frames = [Image.fromarray(picture()).convert("P"), Image.new("P", (8, 8))]
  path = saved(
    tmp_path, frames[0], "x.gif", save_all=True, append_images=frames[1:]
  )
  assert complaint(read_image, path, 8) == (
    f"{path} has 2 frames: give one still image"
  )


def test_another_size_becomes_the_centre_square_and_says_so(tmp_path, caplog):
  wide = np.zeros((8, 24, 3), np.uint8)
  wide[:, 8:16] = 200  # only the middle third is kept
  path = saved(tmp_path, Image.fromarray(wide))
  caplog.set_level("INFO", "ddit_jax")
  assert (read_image(path, 8) == 200).all()
  assert caplog.messages == [f"{path} is cropped to its centre square"]
  caplog.clear()
  square = saved(tmp_path, Image.fromarray(picture(16)), "square.png")
  assert read_image(square, 8).shape == (8, 8, 3)
  assert caplog.messages == []


def test_the_camera_orientation_is_applied(tmp_path):
  image = Image.fromarray(picture())
  exif = Image.Exif()
  exif[0x0112] = 3  # turned by 180 degrees
  path = saved(tmp_path, image, exif=exif)
  np.testing.assert_array_equal(read_image(path, 8), picture()[::-1, ::-1])


def test_files_that_are_no_images_are_refused(tmp_path):
  missing = tmp_path / "no.png"
  assert complaint(read_image, str(missing), 8) == (
    f"there is no image file {missing}"
  )
  text = tmp_path / "text.png"
  text.write_text("not an image")
  for path in (text, tmp_path):
    assert complaint(read_image, str(path), 8) == (
      f"{path} is not an image that can be read"
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
          assert read_image(str(path), 8).shape == (8, 8, 3)
        except InputError:
          num_refused += 1
  assert num_refused > 60


def test_an_image_of_billions_of_pixels_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
  path = saved(tmp_path, Image.fromarray(picture()))
  assert complaint(read_image, path, 8).startswith(f"{path} is too large: ")
