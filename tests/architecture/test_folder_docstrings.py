"""Every folder's docstring is a map: one line for each of its modules."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[2] / "ddit_jax"
FOLDERS = sorted(path.parent for path in ROOT.rglob("__init__.py"))


@pytest.mark.parametrize(
  "folder", FOLDERS, ids=lambda path: str(path.relative_to(ROOT.parent))
)
def test_a_folders_docstring_names_its_modules(folder):
  tree = ast.parse((folder / "__init__.py").read_text())
  named = re.findall(r"^- `(\w+)`: \S", ast.get_docstring(tree) or "", re.M)
  modules = {path.stem for path in folder.glob("[!_]*.py")}
  modules |= {path.parent.name for path in folder.glob("*/__init__.py")}
  assert len(named) == len(set(named))
  assert set(named) == modules
