"""Tables of metrics given by hand."""

import pytest

from ddit_jax.digits.prompts import TAGS
from ddit_jax.digits.tables import as_markdown


def metric(value):
  return {
    "value": value,
    "interval": (value - 0.1, value + 0.1),
    "oracle": 0.9,
    "prior_baseline": 0.2,
  }


@pytest.fixture(scope="module")
def tables():
  """Title -> rows of cells."""
  names = ["overall", "strict", "soft_tifa", TAGS[0]]
  metrics = {f"generation/{name}": metric(0.5) for name in names}
  metrics |= {
    "vqa/accuracy": metric(0.25),
    "mme/existence": metric(0.75),
    "caption/cider": metric(2.0),
    "vqa/accuracy_seen_pairs_train_writers": metric(0.6),
  }
  sections = as_markdown(metrics).split("### ")[1:]
  return {
    text.splitlines()[0].partition(" (")[0]: [
      [cell.strip() for cell in line.split("|")[1:-1]]
      for line in text.splitlines()
      if line.startswith("|") and "---" not in line
    ]
    for text in sections
  }


def test_every_row_has_a_cell_for_each_column(tables):
  assert len(tables) == 3
  for rows in tables.values():
    assert len({len(row) for row in rows}) == 1


def test_only_what_was_measured_has_a_column(tables):
  head = tables["Generation"][0]
  assert head == [
    "",
    TAGS[0].replace("_", " "),
    "overall",
    "strict",
    "soft tifa",
  ]
  head = tables["Understanding"][0]
  assert head == ["", "VQA", "MME existence", "CIDEr"]


def test_figures_are_per_cent_points_of_200_and_cider_times_100(tables):
  _, checkpoint, blind, oracle = tables["Understanding"]
  assert checkpoint[1:] == [
    "25.0 [15.0, 35.0]",
    "150.0 [130.0, 170.0]",
    "200.0 [190.0, 210.0]",
  ]
  assert blind == ["without the image", "20.0", "40.0", "20.0"]
  assert oracle == ["true answers", "90.0", "180.0", "90.0"]


def test_cells_that_were_not_measured_are_empty(tables):
  rows = {row[0]: row[1:] for row in tables["By writers and compositions"]}
  assert rows["training writers, seen compositions"] == [
    "60.0 [50.0, 70.0]",
    "",
  ]
  assert rows["unseen writers, held-out compositions"] == ["", ""]
