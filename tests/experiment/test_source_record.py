"""A resumed run notices sources that hold something else."""

import logging

import pytest

from ddit_jax.data.sources.image_folder import open_image_folder
from ddit_jax.errors import InputError
from ddit_jax.experiment.source_record import (
  changed_sources,
  check_shapes,
  shape_files,
  source_files,
)
from tests.source_files import encoded


class Texts:
  def __init__(self, name, *texts):
    self.name, self.removed, self._texts = name, {}, texts

  def __len__(self):
    return len(self._texts)

  def __getitem__(self, index):
    raise NotImplementedError

  def fingerprint(self):
    return "/".join(self._texts)


SAVED = source_files({"a": Texts("a", "x", "y"), "b": Texts("b", "z")})
BEFORE = "is not as it was when the checkpoint was saved"


def changed(sources, *changeable):
  now = source_files(sources)
  return changed_sources(SAVED, now, changeable=changeable)


def test_equal_sources_are_not_named():
  assert changed({"a": Texts("a", "x", "y"), "b": Texts("b", "z")}) == []
  assert changed({}) == [] and source_files({}) == {}


@pytest.mark.parametrize(
  ("sources", "cause"),
  [
    ({"a": Texts("a", "x")}, "(it had 2 records and has 1)"),
    ({"a": Texts("a", "x", "w")}, "(2 records as before, but other texts, "),
    ({"c": Texts("c", "x")}, "(nothing is known about it there)"),
  ],
)
def test_a_changed_source_is_refused_or_accepted_by_name(
  sources, cause, caplog
):
  (name,) = sources
  key = f"data.sources.{name}"
  for wrong in ((), (f"{key}.path",), ("data.sources.b", f"{key}x")):
    with pytest.raises(InputError) as caught:
      changed(sources, *wrong)
    assert str(caught.value).startswith(f"{key} {BEFORE} {cause}"[:60])
    keys = ",".join([*wrong, key])
    assert f"--config.resume_changes={keys}, or" in str(caught.value)
  for names in ((key,), ("data.sources",), ("seed", "data")):
    caplog.clear()
    with caplog.at_level(logging.WARNING):
      assert changed(sources, *names) == [name]
    assert caplog.messages[0].startswith(f"{key} has changed since the checkp")


def test_a_changed_source_of_validation_is_refused_or_accepted():
  saved, now = (
    source_files({"a": Texts("a", text)}, is_validation=True) for text in "xy"
  )
  assert changed_sources(saved, saved, changeable=()) == []
  key = "data.validation_sources.a"
  with pytest.raises(InputError, match=f"^{key} {BEFORE}"):
    changed_sources(saved, now, changeable=("data.sources",))
  # No word of training's sources has changed.
  assert changed_sources(saved, now, changeable=(key,)) == []
  # Checkpoints of before hold nothing about it.
  assert changed_sources({}, now, changeable=()) == []


def test_other_images_of_the_same_names_are_noticed(tmp_path):
  def files(height):
    (tmp_path / "x.jpg").write_bytes(encoded(height, 9))
    (tmp_path / "x.txt").write_text("a cat")
    off = {"max_ratio": 9.0, "min_short_side": 0}
    source = open_image_folder("web", path=str(tmp_path), filters=off)
    return source_files({"web": source})

  saved = files(7)
  assert changed_sources(saved, files(7), changeable=()) == []
  with pytest.raises(InputError, match=r"\(1 records .* but other images\)"):
    changed_sources(saved, files(8), changeable=())


def test_other_shapes_of_a_sources_images_are_refused_or_accepted(caplog):
  saved = shape_files({"text_to_image": {"web": "1a", "art": "2b"}})
  new = shape_files({"text_to_image": {"web": "1a", "more": "3c"}})
  check_shapes(saved, new, changeable=())
  assert shape_files({}) == {}
  # A checkpoint without several shapes knows none.
  check_shapes({}, new, changeable=())
  other = shape_files({"text_to_image": {"web": "4d"}})
  with pytest.raises(InputError) as caught:
    check_shapes(saved, other, changeable=("seed",))
  assert str(caught.value) == (
    "data.sources.web is not as it was when the checkpoint was saved (other "
    "shapes of its images in batches of text_to_image): restore it, accept it "
    "with --config.resume_changes=seed,data.sources.web, or choose another "
    "--workdir"
  )
  with caplog.at_level(logging.WARNING):
    check_shapes(saved, other, changeable=("data.sources.web",))
  assert caplog.messages[0].startswith("data.sources.web has changed since")
