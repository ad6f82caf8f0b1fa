"""Imports point one way: who may use whom, no cycles, jax-free parts."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2] / "ddit_jax"

# Folder or top-level module -> the others it may use.
MAY_IMPORT = {
  "errors": set(),
  "files": {"errors"},
  "json_files": {"files"},
  "prng": {"errors"},
  "batch": set(),
  "config": {"data", "errors"},
  "evaluation": set(),
  "digits": {"evaluation"},
  "scoring": {"errors", "evaluation", "files", "json_files"},
  "protocols": {"errors", "files", "json_files", "scoring"},
  "report": {"files", "monitor"},
  "monitor": {"errors", "files", "json_files"},
  "planning": {"errors"},
  "checkpoint": {"errors", "files", "json_files"},
  "sharding": set(),
  "diffusion": {"errors"},
  "data": {"batch", "digits", "errors", "files", "json_files", "sharding"},
  "models": {"errors", "sharding"},
  "encoders": {"errors", "models", "sharding"},
  "losses": {"batch", "diffusion", "errors", "prng", "sharding"},
  "sampling": {"diffusion", "errors", "prng", "sharding"},
  "train": {
    "batch",
    "errors",
    "losses",
    "models",
    "monitor",
    "planning",
    "prng",
    "sharding",
  },
  "post_training": {
    "batch",
    "data",
    "diffusion",
    "digits",
    "errors",
    "evaluation",
    "losses",
    "monitor",
    "prng",
    "sampling",
    "sharding",
    "train",
  },
  "conversion": {
    "checkpoint",
    "data",
    "encoders",
    "errors",
    "files",
    "json_files",
    "lora",
    "models",
    "prng",
  },
  "lora": {"errors", "models"},
}
# The composition roots: they may use every part above, and these.
ROOTS = {
  "experiment": set(),
  "pipelines": {"experiment"},
  "serving": {"pipelines"},
  "demo": {"experiment", "pipelines", "serving"},
  "cli": {"demo", "experiment", "pipelines", "serving"},
  "__main__": {"cli"},
  "__init__": {"experiment", "pipelines"},
}


def module_of(path: pathlib.Path) -> str:
  """ "models/mmdit.py" -> "models.mmdit"; a package's file is its folder."""
  parts = path.relative_to(ROOT).with_suffix("").parts
  return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_names(node: ast.AST) -> list[str]:
  """Dotted names of one import statement, what it binds included."""
  if isinstance(node, ast.Import):
    return [alias.name for alias in node.names]
  if isinstance(node, ast.ImportFrom):
    assert node.level == 0, "relative import"
    return [f"{node.module}.{alias.name}" for alias in node.names]
  return []


def imports_of(path: pathlib.Path) -> set[str]:
  """Every dotted name that a file imports, lazily too."""
  tree = ast.parse(path.read_text())
  return {name for node in ast.walk(tree) for name in imported_names(node)}


def part_of(path: pathlib.Path) -> str:
  return path.relative_to(ROOT).with_suffix("").parts[0]


FILES = sorted(ROOT.rglob("*.py"))
PARTS = sorted({part_of(path) for path in FILES})


def own_parts(path: pathlib.Path) -> set[str]:
  """Our own folders and top-level modules that a file uses."""
  used = set()
  for name in imports_of(path):
    pieces = name.split(".")
    if pieces[0] == "ddit_jax" and len(pieces) > 1:
      used.add(pieces[1])
  return used - {part_of(path)}


def test_every_part_is_in_the_table():
  assert set(PARTS) == set(MAY_IMPORT) | set(ROOTS)


@pytest.mark.parametrize("part", sorted(MAY_IMPORT))
def test_a_part_uses_only_what_it_may(part):
  files = [path for path in FILES if part_of(path) == part]
  assert files
  wrong = {
    str(path.relative_to(ROOT)): sorted(own_parts(path) - MAY_IMPORT[part])
    for path in files
    if own_parts(path) - MAY_IMPORT[part]
  }
  assert wrong == {}


@pytest.mark.parametrize("part", sorted(ROOTS))
def test_the_composition_roots_are_on_top(part):
  files = [path for path in FILES if part_of(path) == part]
  assert files
  allowed = set(MAY_IMPORT) | ROOTS[part]
  for path in files:
    assert own_parts(path) <= allowed, path


def test_losses_and_samplers_never_see_the_network():
  for part in ("losses", "sampling", "diffusion"):
    assert not MAY_IMPORT[part] & {"models", "encoders", "train"}


def dependencies() -> dict[str, set[str]]:
  """Module -> our modules that it imports."""
  modules = {module_of(path): path for path in FILES}
  graph = {}
  for module, path in modules.items():
    graph[module] = set()
    for name in imports_of(path):
      if name.split(".")[0] != "ddit_jax":
        continue
      target = name.removeprefix("ddit_jax").lstrip(".")
      while target and target not in modules:
        target = target.rpartition(".")[0]
      graph[module].add(target)
    # The top level only forwards names, and lazily.
    graph[module] -= {module, ""}
  return graph


def cycle_in(graph: dict[str, set[str]]) -> list[str]:
  """What is left after taking away, again and again, modules that use none."""
  graph = {name: set(used) for name, used in graph.items()}
  while free := {name for name, used in graph.items() if not used & set(graph)}:
    for name in free:
      del graph[name]
  return sorted(graph)


def test_cycles_are_found():
  assert cycle_in({"a": {"b"}, "b": set(), "c": {"a"}}) == []
  assert cycle_in({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["a", "b", "c"]


def test_no_module_imports_itself_by_way_of_others():
  graph = dependencies()
  assert sum(map(len, graph.values())) > 100
  assert cycle_in(graph) == []


@pytest.mark.parametrize(
  "part", ["evaluation", "digits", "scoring", "protocols", "config", "errors"]
)
def test_parts_without_jax_say_so(part):
  for path in FILES:
    if part_of(path) == part:
      outside = {name.split(".")[0] for name in imports_of(path)}
      assert not outside & {"jax", "flax", "optax", "orbax"}, path


def test_digits_and_evaluation_run_where_jax_cannot_be_imported():
  """Neither the package itself nor their libraries bring it in."""
  parts = ("digits", "evaluation", "scoring", "protocols", "config")
  modules = [
    f"ddit_jax.{module_of(path)}" for path in FILES if part_of(path) in parts
  ]
  script = (
    "import importlib, sys\n"
    "sys.modules['jax'] = None\n"
    f"for name in {modules!r}:\n"
    "  importlib.import_module(name)\n"
  )
  result = subprocess.run(
    [sys.executable, "-c", script], capture_output=True, text=True, check=False
  )
  assert result.returncode == 0, result.stderr
