"""Nothing outside of a folder is read, whatever a list names."""

import os

import pytest

from ddit_jax.data.example import BadRecord
from ddit_jax.data.sources import paths
from ddit_jax.data.sources.paths import SafeFolder
from ddit_jax.files import is_unsafe
from tests.source_files import encoded


@pytest.fixture
def folder(tmp_path):
  """A folder with links in and out, beside a secret."""
  (tmp_path / "secret.jpg").write_bytes(b"secret")
  inside = tmp_path / "images"
  (inside / "sub").mkdir(parents=True)
  (inside / "a.jpg").write_bytes(encoded(30, 40))
  (inside / "sub" / "b.jpg").write_bytes(b"b")
  (inside / "link_in.jpg").symlink_to("sub/b.jpg")
  (inside / "link_out.jpg").symlink_to(tmp_path / "secret.jpg")
  (inside / "folder_out").symlink_to(tmp_path)
  (inside / "loop.jpg").symlink_to("loop.jpg")
  (inside / "dangling.jpg").symlink_to("nothing")
  os.mkfifo(inside / "pipe.jpg")
  (tmp_path / "images_more").mkdir()
  (tmp_path / "images_more" / "c.jpg").write_bytes(b"secret")
  (inside / "sibling.jpg").symlink_to(tmp_path / "images_more" / "c.jpg")
  return inside


@pytest.mark.parametrize(
  ("path", "reason"),
  [
    ("../secret.jpg", "unsafe_path"),
    ("sub/../../secret.jpg", "unsafe_path"),
    ("sub/../a.jpg", "unsafe_path"),
    ("/etc/passwd", "unsafe_path"),
    ("", "unsafe_path"),
    ("a.jpg\0.png", "unsafe_path"),
    ("sub/", "unsafe_path"),
    ("link_out.jpg", "unsafe_path"),
    ("folder_out/secret.jpg", "unsafe_path"),
    ("sibling.jpg", "unsafe_path"),
    ("none.jpg", "missing_file"),
    ("a.jpg/b.jpg", "missing_file"),
    ("dangling.jpg", "missing_file"),
    ("loop.jpg", "unreadable_file"),
    ("sub", "unreadable_file"),
    ("pipe.jpg", "unreadable_file"),
    ("x" * 300, "unreadable_file"),
  ],
)
def test_what_must_not_be_read_is_a_bad_record(path, reason, folder):
  for function in (SafeFolder(folder).read, SafeFolder(folder).image_size):
    with pytest.raises(BadRecord) as caught:
      function(path, "list.json:7")
    assert caught.value.reason == reason
    assert caught.value.record_id == "list.json:7"


def test_files_inside_are_read(folder):
  safe = SafeFolder(folder)
  assert safe.read("sub/b.jpg", "") == b"b" == safe.read("link_in.jpg", "")
  assert safe.read("./sub//b.jpg", "") == b"b"
  assert safe.image_size("a.jpg", "") == (30, 40)


def test_links_out_are_followed_where_that_is_asked_for(folder):
  safe = SafeFolder(folder, follow_links=True)
  for path in ("link_out.jpg", "folder_out/secret.jpg", "sibling.jpg"):
    assert safe.read(path, "") == b"secret"
  assert safe.read("link_in.jpg", "") == b"b"
  for path in ("../secret.jpg", "/etc/passwd", "loop.jpg", "pipe.jpg"):
    with pytest.raises(BadRecord):
      safe.read(path, "")
  with pytest.raises(BadRecord, match="which follow_links allows"):
    SafeFolder(folder).read("link_out.jpg", "")
  with pytest.raises(ValueError, match="follow_links is True or False, not 1"):
    SafeFolder(folder, follow_links=1)


def test_the_folder_itself_may_be_a_link(folder, tmp_path):
  (tmp_path / "linked").symlink_to(folder)
  safe = SafeFolder(tmp_path / "linked")
  assert safe.path == str(folder) and safe.read("sub/b.jpg", "") == b"b"


def test_what_is_no_image_has_no_size(folder):
  for data, reason in (
    (b"b", "not_an_image"),
    (encoded(3, 4)[:9], "truncated"),
  ):
    (folder / "c.jpg").write_bytes(data)
    with pytest.raises(BadRecord, match=reason):
      SafeFolder(folder).image_size("c.jpg", "")


def test_large_files_are_not_read(folder, monkeypatch):
  monkeypatch.setattr(paths, "MAX_IMAGE_BYTES", 100)
  with pytest.raises(BadRecord, match="image_too_large"):
    SafeFolder(folder).read("a.jpg", "")


def test_no_file_stays_open(folder):
  safe = SafeFolder(folder)
  before = len(os.listdir("/proc/self/fd"))
  safe.read("a.jpg", "")
  safe.image_size("a.jpg", "")
  for path in ("pipe.jpg", "sub", "link_out.jpg"):
    with pytest.raises(BadRecord):
      safe.read(path, "")
  assert len(os.listdir("/proc/self/fd")) == before


def test_dots_within_names_are_harmless():
  for path in ("a..b.jpg", "..a/b.jpg", "a../b.jpg", "~/a.jpg", "...jpg"):
    assert not is_unsafe(path)
