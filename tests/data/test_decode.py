"""Any file becomes an upright RGB picture, or a bad record with its reason."""

import io
import tracemalloc
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from ddit_jax.data.example import BadRecord
from ddit_jax.data.image import decode_image
from ddit_jax.data.image_header import image_size_of_bytes
from tests.data import pictures
from tests.data.pictures import chunk, encoded, jpeg, pixels, png

RED, BLUE = (255, 0, 0), (0, 0, 255)


def decoded(data, **options):
  image = decode_image(data, "here", **options)
  assert image.mode == "RGB"
  return np.asarray(image)


@pytest.mark.parametrize("name", pictures.HOSTILE)
def test_a_hostile_file_is_refused_with_its_reason(name):
  data, reason = pictures.HOSTILE[name]
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    with pytest.raises(BadRecord) as caught:
      decode_image(data, "shard-3:17")
  error = caught.value
  assert (error.reason, error.record_id) == (reason, "shard-3:17")
  assert error.detail and "\n" not in error.detail
  assert len(error.detail) <= 250


def test_no_prefix_of_a_file_decodes_or_escapes():
  """Cut anywhere, a file is refused, never half used."""
  for data in (pictures.JPEG, pictures.PNG, pictures.LOSSLESS_WEBP):
    for length in range(0, len(data) - 16, 7):
      with pytest.raises(BadRecord):
        decode_image(data[:length], "x")


def test_flipped_bytes_raise_nothing_but_bad_records():
  rng = np.random.default_rng(0)
  for data in (pictures.JPEG, pictures.PNG, pictures.WEBP):
    for _ in range(150):
      damaged = bytearray(data)
      for place in rng.integers(0, len(data), 3):
        damaged[place] = rng.integers(256)
      try:
        assert decode_image(bytes(damaged), "x").mode == "RGB"
      except BadRecord as error:
        assert error.reason in (
          "not_an_image",
          "truncated_image",
          "image_too_large",
        )


def test_a_bomb_is_refused_before_memory_is_taken():
  data = pictures.HOSTILE["PNG bomb"][0]
  tracemalloc.start()
  with pytest.raises(
    BadRecord, match=r"60000 x 60000 pixels, at most 89478485"
  ):
    decode_image(data, "x")
  assert tracemalloc.get_traced_memory()[1] < 2**20
  tracemalloc.stop()


@pytest.mark.parametrize(
  "data", [pictures.JPEG, pictures.PNG, pictures.WEBP, pictures.LOSSLESS_WEBP]
)
def test_the_limit_counts_pixels(data):
  assert decoded(data, max_pixels=40 * 30).shape == (30, 40, 3)
  with pytest.raises(BadRecord, match="40 x 30 pixels, at most 1199"):
    decode_image(data, "x", max_pixels=40 * 30 - 1)


def test_plain_pictures_are_as_pillow_opens_them():
  for data in (pictures.JPEG, pictures.PNG, pictures.WEBP):
    expected = np.asarray(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(decoded(data), expected)
  np.testing.assert_array_equal(decoded(pictures.PNG), pixels(40, 30))
  np.testing.assert_array_equal(decoded(pictures.LOSSLESS_WEBP), pixels(40, 30))


def test_a_progressive_jpeg_is_whole():
  plain, progressive = jpeg(quality=90), jpeg(quality=90, progressive=True)
  assert plain != progressive
  np.testing.assert_array_equal(decoded(plain), decoded(progressive))


def test_grey_and_one_bit_become_three_equal_channels():
  grey = np.arange(48, dtype=np.uint8).reshape(6, 8)
  found = decoded(encoded(grey))
  assert (found == grey[..., None]).all()
  one_bit = Image.fromarray(grey > 20)
  found = decoded(encoded(one_bit))
  assert (found == np.where(grey > 20, 255, 0)[..., None]).all()
  grey_jpeg = encoded(np.full((8, 8), 77, np.uint8), "JPEG", quality=100)
  assert (decoded(grey_jpeg) == 77).all()


def test_cmyk_inks_become_light():
  """No ink is white, full black ink is black (Adobe's inverted files)."""
  for inks, colour in (((0, 0, 0, 0), 255), ((0, 0, 0, 255), 0)):
    image = Image.new("CMYK", (16, 16), inks)
    assert (decoded(encoded(image, "JPEG", quality=100)) == colour).all()


def test_sixteen_bits_keep_their_upper_eight():
  samples = b"\0" + b"\x12\xff" + b"\x80\x01" + b"\xff\x00"
  grey = decoded(png(3, 1, samples, bits=16, colour=0))
  assert grey[0, :, 0].tolist() == [0x12, 0x80, 0xFF]
  assert (grey == grey[..., :1]).all()
  colour = decoded(png(1, 1, samples, bits=16, colour=2))
  assert colour.tolist() == [[[0x12, 0x80, 0xFF]]]


def test_a_palette_gives_its_colours():
  image = Image.new("P", (2, 1))
  image.putpalette([*RED, *BLUE])
  image.putdata([0, 1])
  assert decoded(encoded(image)).tolist() == [[list(RED), list(BLUE)]]


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_alpha_lies_on_white(kind):
  rgba = np.array([[[255, 0, 0, 255], [0, 0, 0, 0], [0, 0, 255, 51]]], np.uint8)
  options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
  found = decoded(encoded(Image.fromarray(rgba), kind, **options))
  # A fifth of blue and four fifths of white.
  assert found.tolist() == [[[255, 0, 0], [255, 255, 255], [204, 204, 255]]]


def test_grey_with_alpha_lies_on_white():
  image = Image.fromarray(np.array([[[0, 255], [0, 0]]], np.uint8), "LA")
  assert decoded(encoded(image))[0, :, 0].tolist() == [0, 255]


def test_transparent_colours_and_palette_entries_are_white():
  row = b"\0" + bytes([9, 9, 9, 7, 7, 7])
  key = chunk(b"tRNS", b"\0\x07\0\x07\0\x07")
  assert decoded(png(2, 1, row, more=key))[0].tolist() == [[9] * 3, [255] * 3]
  key = chunk(b"tRNS", b"\0\x07")
  found = decoded(png(2, 1, b"\0\x09\x07", colour=0, more=key))
  assert found[0].tolist() == [[9] * 3, [255] * 3]
  key = chunk(b"tRNS", b"\x07\x08")
  found = decoded(png(2, 1, b"\0\x07\x09\x07\x08", bits=16, colour=0, more=key))
  assert found[0].tolist() == [[7] * 3, [255] * 3]
  # Sixteen bits, whose upper eight are kept.
  row = b"\0" + b"\x12\x01" * 3 + b"\x34\x01" * 3
  key = chunk(b"tRNS", b"\x34\x01" * 3)
  found = decoded(png(2, 1, row, bits=16, colour=2, more=key))
  assert found[0].tolist() == [[0x12] * 3, [255] * 3]
  palette = chunk(b"PLTE", bytes([*RED, *BLUE]))
  key = chunk(b"tRNS", b"\xff\0")
  found = decoded(png(2, 1, b"\0\0\x01", colour=3, more=palette + key))
  assert found[0].tolist() == [list(RED), [255] * 3]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_picture_is_turned_upright(kind, orientation):
  exif = Image.Exif()
  exif[0x0112] = orientation
  data = encoded(pixels(20, 12), kind, exif=exif.tobytes())
  expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
  found = decoded(data)
  np.testing.assert_array_equal(found, np.asarray(expected))
  assert found.shape == ((20, 12, 3) if orientation > 4 else (12, 20, 3))


def test_orientation_six_was_taken_with_the_camera_on_its_side():
  """By hand: the first stored row is the right side of the scene."""
  stored = np.zeros((2, 3, 3), np.uint8)
  stored[0] = RED
  exif = Image.Exif()
  exif[0x0112] = 6
  found = decoded(encoded(stored, exif=exif.tobytes()))
  assert (found[:, 1] == RED).all() and (found[:, 0] == 0).all()


@pytest.mark.parametrize(
  "exif", [b"Exif\0\0", b"Exif\0\0MM\0\x2a\xff\xff\xff\xff", b"Exif\0\0noise"]
)
def test_broken_exif_data_do_not_lose_a_picture(exif):
  data = jpeg(exif=exif)
  np.testing.assert_array_equal(decoded(data), decoded(pictures.JPEG))


@pytest.mark.parametrize("place", ["before", "behind"])
@pytest.mark.parametrize(
  "metadata",
  [
    chunk(b"iCCP", b"name\0\0" + zlib.compress(bytes(2**21))),
    chunk(b"zTXt", b"name\0\0" + zlib.compress(bytes(2**21))),
    chunk(b"iTXt", b"name\0\1\0\0\0" + zlib.compress(bytes(2**21))),
    chunk(b"tEXt", b"a wrong checksum")[:-4] + b"\0\0\0\0",
    chunk(b"gAMA", b"\0"),
  ],
  ids=["profile", "text", "unicode", "checksum", "gamma"],
)
def test_metadata_do_not_lose_a_png(metadata, place):
  """Pillow refuses profiles and texts of over a megabyte."""
  data = pictures.PNG
  split = data.index(b"IDAT") - 4 if place == "before" else len(data) - 12
  found = decoded(data[:split] + metadata + data[split:])
  np.testing.assert_array_equal(found, decoded(data))


def test_bytes_between_the_parts_of_a_jpeg_do_not_lose_it():
  data = pictures.JPEG
  for junk in (b"\0", b"\0" * 70_000, b"\xff\0noise", b"\xff" * 9000):
    odd = data[:20] + junk + data[20:]
    assert data[20:22] == b"\xff\xdb"
    np.testing.assert_array_equal(decoded(odd), decoded(data))
    assert image_size_of_bytes(odd) == (30, 40)


def test_an_unknown_orientation_is_left_alone():
  exif = Image.Exif()
  exif[0x0112] = 99
  found = decoded(encoded(pixels(20, 12), exif=exif.tobytes()))
  np.testing.assert_array_equal(found, pixels(20, 12))


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_an_animation_gives_its_first_frame(kind):
  frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE)]
  options = {"lossless": True} if kind == "WEBP" else {}
  data = encoded(
    frames[0], kind, save_all=True, append_images=frames[1:], **options
  )
  assert (decoded(data) == RED).all()


def test_a_file_of_several_jpegs_gives_its_first():
  first, second = pixels(16, 16, 1), pixels(16, 16, 2)
  file = io.BytesIO()
  Image.fromarray(first).save(
    file, "MPO", save_all=True, append_images=[Image.fromarray(second)]
  )
  found = decoded(file.getvalue())
  alone = decoded(encoded(first, "JPEG"))
  np.testing.assert_array_equal(found, alone)


def test_a_draft_keeps_at_least_the_side_asked_for():
  data = jpeg(160, 120)
  assert decoded(data).shape == (120, 160, 3)
  assert decoded(data, draft_side=60).shape == (60, 80, 3)
  assert decoded(data, draft_side=31).shape == (60, 80, 3)
  assert decoded(data, draft_side=30).shape == (30, 40, 3)
  assert decoded(data, draft_side=61).shape == (120, 160, 3)
  assert decoded(pictures.PNG, draft_side=5).shape == (30, 40, 3)
