"""docs/notebook.ipynb: without outputs, with public names only, and it runs."""

import ast
import json
import pathlib
import re

import pytest

import ddit_jax
from ddit_jax.pipelines import ranking
from ddit_jax.pipelines.pipeline import Pipeline

ROOT = pathlib.Path(__file__).parents[2]
PATH = ROOT / "docs" / "notebook.ipynb"
# Set when a pipeline is made.
ATTRIBUTES = {"tokenizer", "image_size"}


@pytest.fixture(scope="module")
def cells():
  book = json.loads(PATH.read_text(encoding="utf-8"))
  assert (book["nbformat"], book["nbformat_minor"]) == (4, 5)
  return book["cells"]


@pytest.fixture(scope="module")
def trees(cells):
  sources = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
  return [ast.parse(source) for source in sources]


def test_it_is_stored_without_outputs_or_paths_of_a_machine(cells):
  assert len({cell["id"] for cell in cells}) == len(cells)
  for cell in cells:
    text = "".join(cell["source"])
    assert not re.search("/(home|root|tmp)/", text)
    if cell["cell_type"] == "code":
      assert cell["outputs"] == [] and cell["execution_count"] is None
      assert all(len(line.rstrip("\n")) <= 80 for line in cell["source"])


def test_it_names_only_what_is_public(trees):
  nodes = [node for tree in trees for node in ast.walk(tree)]
  used = set()
  for node in nodes:
    if isinstance(node, ast.ImportFrom) and "ddit_jax" in node.module:
      assert node.module == ranking.__name__
      assert all(hasattr(ranking, alias.name) for alias in node.names)
    if isinstance(node, ast.Attribute):
      assert not node.attr.startswith("_")
      if isinstance(node.value, ast.Name) and node.value.id == "ddit_jax":
        assert node.attr in ddit_jax.__all__
      if isinstance(node.value, ast.Name) and node.value.id == "pipeline":
        assert hasattr(Pipeline, node.attr) or node.attr in ATTRIBUTES
        used.add(node.attr)
  assert {"text_to_image", "caption", "answer", "infill"} <= used


@pytest.mark.slow
def test_it_runs_from_top_to_bottom(trained, monkeypatch):
  nbformat = pytest.importorskip("nbformat")
  nbclient = pytest.importorskip("nbclient")
  monkeypatch.setenv("DDIT_CHECKPOINT", str(trained))
  monkeypatch.setenv("PYTHONPATH", str(ROOT))
  book = nbformat.read(PATH, 4)
  nbformat.validate(book)
  place = {"metadata": {"path": str(PATH.parent)}}
  nbclient.NotebookClient(book, timeout=600, resources=place).execute()
  shown = [
    output.data
    for cell in book.cells
    if cell.cell_type == "code"
    for output in cell.outputs
    if "data" in output
  ]
  assert sum("image/png" in data for data in shown) >= 5
  assert any("text/html" in data for data in shown)
