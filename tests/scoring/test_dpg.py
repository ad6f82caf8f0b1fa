"""DPG-Bench's files to figures."""

import json

import pytest

from ddit_jax.errors import InputError
from ddit_jax.scoring.dpg import dpg_files, dpg_official_bugs

HEADER = (
  "item_id,text,keywords,proposition_id,dependency,category_broad,"
  "category_detailed,tuple,question_natural_language\n"
)
ROWS = (
  'a,"one, two",,1,0,entity,whole,"entity - whole (cat)",Is there a cat?\n'
  'a,"one, two",,2,1,attribute,color,"attribute - color (cat, red)",Red?\n'
  'b,three,,1,0,global,,"global (dark)",Dark?\n'
)
ANSWERS = {
  "a": [{"1": "yes", "2": "no"}] * 4,
  "b": [{"1": "yes"}] * 3 + [{"1": "no"}],
}


@pytest.fixture
def files(tmp_path):
  def write(rows=ROWS, answers=ANSWERS, header=HEADER):
    (tmp_path / "t.csv").write_text(header + rows)
    (tmp_path / "a.json").write_text(json.dumps({"answers": answers}))
    return tmp_path / "a.json", [tmp_path / "t.csv"]

  return write


def test_every_row_counts(files):
  scored = dpg_files(*files())
  assert scored.figures["score"] == 62.5  # (0.5 + 0.75) / 2
  assert scored.figures["level_1"] == {
    "entity": 100,
    "attribute": 0,
    "global": 0,
  }
  assert scored.items["score"].scores == (50, 75)


def test_the_published_reader_skips_a_row_and_loses_its_image(files):
  scored = dpg_official_bugs(*files())
  assert scored.figures["score"] == 75
  assert scored.figures["dropped_items"] == 1
  assert "a" in scored.notes[0]
  # A row to sacrifice keeps all.
  scored = dpg_official_bugs(*files("x,,,1,0,,,,\n" + ROWS))
  assert scored.figures["score"] == 62.5


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"answers": {"a": ANSWERS["a"]}}, "1 of 2 items have no answers"),
    ({"answers": ANSWERS | {"b": [{}]}}, "tile 1 has no answer to 1"),
    ({"answers": ANSWERS | {"b": [{"x": "y"}]}}, "keys must be proposition"),
    ({"answers": ANSWERS | {"b": [{"1": True}]}}, "answers must be texts"),
    ({"answers": ANSWERS | {"b": []}}, "the list is empty"),
    ({"answers": 3}, "must hold an object with"),
    ({"rows": ""}, "has no rows"),
    ({"header": "item_id,text\n"}, "has no column dependency"),
    ({"rows": "a,,,one,0,,,,\n"}, "must be whole numbers, got 'one'"),
    ({"rows": "a,,,1\n"}, "too few columns"),
    ({"rows": "a,,,1,7,,,,\n"}, "depend on propositions that they lack"),
    ({"rows": "a,,,1,0,,,,\n" * 2}, "propositions are repeated"),
  ],
)
def test_bad_files_are_refused(files, change, message):
  with pytest.raises(InputError, match=message):
    dpg_files(*files(**change))


def test_another_number_of_tiles_is_said(files):
  answers = ANSWERS | {"b": ANSWERS["b"][:1]}
  assert "number of tiles" in dpg_files(*files(answers=answers)).notes[0]
