"""What the documents name exists: paths, modules, classes, config keys."""

import ast
import dataclasses
import functools
import importlib
import pathlib
import re
import typing

import pytest

from ddit_jax.config.load import config_module, load_job
from ddit_jax.experiment.config import Config, default_config

ROOT = pathlib.Path(__file__).parents[2]
DOCUMENTS = [
  ROOT / "README.md",
  *sorted(ROOT.glob("docs/*.md")),
  *sorted(ROOT.glob("launch/*")),
]
PROGRAMS = sorted(
  path
  for folder in ("configs", "benchmarks", "tools")
  for path in (ROOT / folder).rglob("*.py")
)
_FOLDERS = "configs|ddit_jax|docs|tools|tests|benchmarks|launch"
_PATH = re.compile(rf"(?<![\w/.])(?:{_FOLDERS})/[\w/.*-]*")
_DOTTED = re.compile(r"(?<![\w/.])ddit_jax(?:\.\w+)+")
_LINK = re.compile(r"\]\(([^)#:]*)(?:#([^)]*))?\)")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
_CODE = re.compile(r"`([^`\n]+)`")
_MEMBER = re.compile(r"([A-Z][a-z]\w+|[A-Z]{2}\w*[a-z]\w*)\.(\w+)")
_CONFIG = re.compile(r"(?<![\w/])configs/\w+\.py(?::\w+)?")
_OVERRIDE = re.compile(r"--config\.([\w.]+)=([^\s`\"]+)")
# Classes of other packages whose members the documents name.
_FOREIGN = {"StableDiffusion3Pipeline", "SD3Transformer2DModel"}


def name_of(path: pathlib.Path) -> str:
  return str(path.relative_to(ROOT))


def commands(text: str) -> list[str]:
  """Lines, with continued lines joined."""
  return text.replace("\\\n", " ").splitlines()


@functools.cache
def members() -> dict[str, set[str]]:
  """Every class of the package with the names that its body defines."""
  found = {}
  for path in (ROOT / "ddit_jax").rglob("*.py"):
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.ClassDef):
        found.setdefault(node.name, set()).update(_defined(node.body))
  return found


def _defined(body: list[ast.stmt]) -> set[str]:
  names = set()
  for node in body:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
      names.add(node.name)
    elif isinstance(node, ast.AnnAssign):
      names.add(ast.unparse(node.target))
    elif isinstance(node, ast.Assign):
      names.update(map(ast.unparse, node.targets))
  return names


def is_defined(dotted: str) -> bool:
  """Whether "ddit_jax.models.config.SIZES" is a module or a name in one."""
  *parents, last = dotted.split(".")
  path = ROOT.joinpath(*parents, last)
  if path.is_dir() or path.with_suffix(".py").is_file():
    return True
  module = ROOT.joinpath(*parents)
  if module.is_dir():
    # Packages give their names lazily.
    return last in dir(importlib.import_module(".".join(parents)))
  if not module.with_suffix(".py").is_file():
    # Of a class that a package gives.
    *package, owner = parents
    found = importlib.import_module(".".join(package))
    return hasattr(getattr(found, owner, None), last)
  tree = ast.parse(module.with_suffix(".py").read_text())
  return last in _defined(tree.body)


def has_key(values, dotted: str) -> bool:
  """Whether a config has a key; keys below an open mapping are free."""
  for key in dotted.split("."):
    if not hasattr(values, "keys") or key not in values:
      return False
    values = values[key]
    if hasattr(values, "keys") and not values:
      return True
  return True


@pytest.mark.parametrize("path", [*DOCUMENTS, *PROGRAMS], ids=name_of)
def test_paths_and_names_exist(path):
  text = path.read_text()
  named = {name.rstrip(".") for name in _PATH.findall(text)}
  missing = sorted(name for name in named if not list(ROOT.glob(name)))
  missing += sorted(n for n in _DOTTED.findall(text) if not is_defined(n))
  assert not missing
  assert not re.findall(r"@[A-Z_]+@", text)


@pytest.mark.parametrize(
  "path", [path for path in DOCUMENTS if path.suffix == ".md"], ids=name_of
)
def test_links_resolve(path):
  for link, anchor in _LINK.findall(path.read_text()):
    target = path.parent / link if link else path
    assert target.exists(), link
    if anchor:
      headings = _HEADING.findall(target.read_text())
      assert anchor in map(anchor_of, headings), (link, anchor)


def anchor_of(heading):
  """What GitHub links to."""
  kept = re.sub(r"[^\w\- ]", "", heading.lower())
  return kept.replace(" ", "-")


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_classes_and_config_keys_exist(path):
  classes, config = members(), default_config()
  text, unknown = path.read_text(), []
  for code in _CODE.findall(text):
    if match := _MEMBER.fullmatch(code):
      known = classes.get(match[1], set())
      if match[1] not in _FOREIGN and match[2] not in known:
        unknown.append(code)
    key = code.split("=")[0].strip()
    section = key.split(".")[0]
    is_key = re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", key) and section in config
    # A program in the document may have a variable of this name.
    is_key = is_key and f"\n{section} = " not in text
    if is_key and not has_key(config, key):
      unknown.append(code)
  assert not unknown


@pytest.mark.parametrize("path", [*DOCUMENTS, *PROGRAMS], ids=name_of)
def test_configs_and_overrides_load(path):
  for line in commands(path.read_text()):
    configs = _CONFIG.findall(line)
    for name in configs:
      file, _, variant = name.partition(":")
      module = config_module(ROOT / file)
      module.get_config(*[variant] if variant else [])
    overrides = {
      key: value.rstrip(",.")
      for key, value in _OVERRIDE.findall(line)
      if not key.endswith("key")
    }
    if not overrides or any("$" in value for value in overrides.values()):
      continue
    is_job = any(key.split(".")[0] in ("stages", "order") for key in overrides)
    default = "configs/ddit_sd3.py:all" if is_job else "configs/digits.py"
    config = configs[0] if configs else default
    load_job(Config, str(ROOT / config), overrides)


def sections(part: type) -> set[type]:
  """A config's dataclass and those below it."""
  kinds = typing.get_type_hints(part).values()
  below = map(sections, filter(dataclasses.is_dataclass, kinds))
  return {part}.union(*below)


def test_the_table_of_sections_has_every_dataclass_and_its_module():
  text = (ROOT / "docs" / "configuration.md").read_text()
  rows = [line for line in text.splitlines() if line.startswith("| ")]
  for part in sections(Config):
    module = "/".join(part.__module__.split(".")[1:])
    assert any(
      f"`{part.__name__}`" in row and f"`{module}.py`" in row for row in rows
    ), part


def test_the_map_has_every_part_in_reading_order():
  """Modules are in the folders' docstrings, see tests/architecture."""
  text = (ROOT / "docs" / "architecture.md").read_text()
  rows = re.findall(r"^\| \[`(\w+)`\]\(\.\./ddit_jax/(\S+)\) \| \S", text, re.M)
  for name, link in rows:
    assert link in (f"{name}.py", f"{name}/__init__.py")
  package = ast.parse((ROOT / "ddit_jax" / "__init__.py").read_text())
  parts = re.findall(r"^- `(\w+)`", ast.get_docstring(package), re.M)
  assert [name for name, _ in rows] == parts
