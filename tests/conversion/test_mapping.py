"""The table as a whole: every name in it leads somewhere."""

from ddit_jax.conversion.mapping import (
  COMPONENTS,
  FRESH,
  INTO_DDIT,
  LAYOUTS,
  LEFT_OVER,
  NAMINGS,
)
from ddit_jax.conversion.transforms import MODULE_PATTERNS, TENSOR_PATTERNS


def test_layouts_use_known_namings_and_components():
  used = set()
  for layout in LAYOUTS.values():
    assert layout.places.keys() == layout.namings.keys()
    assert layout.places.keys() <= set(COMPONENTS)
    used |= set(layout.namings.values())
  used |= set(INTO_DDIT.values()) | {"clip_without_projection"}
  assert used == set(NAMINGS)
  assert [layout.letter for layout in LAYOUTS.values()] == ["a", "b", "c"]


def test_places_of_the_published_folders():
  a, b, c = LAYOUTS.values()
  assert a.places["text_encoder"] == "text_encoder_3"
  assert a.plain_folders["tokenizer"] == "tokenizer_3"
  assert b.places["vae"] == "first_stage_model."
  assert c.places["text_encoder"] == "text_encoder"


def test_only_what_needs_it_starts_fresh():
  assert FRESH.keys() == {*INTO_DDIT.values(), "clip_without_projection"}
  assert LEFT_OVER.keys() <= NAMINGS.keys()


def test_every_kind_is_a_pattern():
  kinds = {
    row.kind
    for sections in NAMINGS.values()
    for section in sections
    for row in section.rows
  }
  # No pattern is left that nothing uses, either.
  assert kinds == MODULE_PATTERNS.keys() | TENSOR_PATTERNS.keys()


def test_prefixes_of_the_single_file_do_not_overlap():
  prefixes = list(LAYOUTS["single_file"].places.values())
  for first in prefixes:
    assert sum(other.startswith(first) for other in prefixes) == 1
