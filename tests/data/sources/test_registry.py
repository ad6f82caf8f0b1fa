"""Every kind of source is opened from a mapping, or refused kindly."""

import importlib
import inspect
import json
import pathlib
import pkgutil
import re
import subprocess
import sys

import pyarrow
import pytest
from pyarrow import parquet

from ddit_jax.data import sources
from ddit_jax.data.example import has_images, has_pairs
from ddit_jax.data.sources.registry import (
  SOURCE_KINDS,
  generated_spec,
  keys_of,
  may_have_images,
  open_source,
)
from tests.source_files import encoded, write_shard

REPOSITORY = pathlib.Path(__file__).parents[3]
KEY = inspect.Parameter.KEYWORD_ONLY


def openers(module):
  """Kinds that a module opens: its functions open_KIND(name, *, ...)."""
  for name, value in vars(importlib.import_module(module)).items():
    is_own = getattr(value, "__module__", "") == module
    if name.startswith("open_") and is_own:
      parameters = inspect.signature(value).parameters.values()
      if [each.name for each in parameters if each.kind != KEY] == ["name"]:
        yield name.removeprefix("open_")


def test_the_table_has_each_opener_of_the_folder():
  found = {
    kind: info.name
    for info in pkgutil.iter_modules(sources.__path__)
    for kind in openers(f"{sources.__name__}.{info.name}")
  }
  assert found == {kind: row.module for kind, row in SOURCE_KINDS.items()}


def test_the_documentation_lists_each_kind():
  section = (REPOSITORY / "docs/data.md").read_text()
  section = section.partition("## Kinds of sources")[2].partition("\n\nThe ")[0]
  names = " ".join(re.findall(r"^\| (`.*?) \|", section, re.MULTILINE))
  assert sorted(re.findall(r"`(\w+)`", names)) == sorted(SOURCE_KINDS)


@pytest.mark.parametrize("kind", SOURCE_KINDS)
def test_texts_of_a_kind_are_generated_for_dry_runs(kind):
  source = open_source("dry", generated_spec(kind))
  texts = SOURCE_KINDS[kind].texts
  assert has_pairs(source) == (texts == "pairs")
  assert has_images(source) == (texts != "documents")


def test_texts_of_unknown_kinds_are_not_generated():
  with pytest.raises(ValueError, match=r"no source of kind 'webdatset'.*webd"):
    generated_spec("webdatset")


def test_every_kind_has_an_opener_with_keys():
  for kind in SOURCE_KINDS:
    keys = keys_of(kind)
    assert keys and "name" not in keys
    assert keys.get("path", True) or kind in ("easy_vqa",)


def test_kinds_name_the_keys_they_need():
  assert keys_of("webdataset") == {
    "path": True,
    "filters": False,
    "caption_key": False,
    "rewritten_key": False,
    "index_folder": False,
    "workers": False,
  }
  needed = {key for key, is_needed in keys_of("vqav2").items() if is_needed}
  assert needed == {"questions", "annotations", "images"}


def test_a_mapping_opens_a_source(tmp_path):
  write_shard(tmp_path / "a.tar", ["0", "1"])
  spec = {"kind": "webdataset", "path": str(tmp_path), "workers": 1}
  source = open_source("shards", spec)
  assert (source.name, len(source)) == ("shards", 2)
  assert spec["kind"] == "webdataset"


def test_mappings_say_whether_their_sources_have_images(tmp_path):
  rows = {"image": [encoded(60, 60)], "text": ["a dog"]}
  parquet.write_table(pyarrow.table(rows), tmp_path / "a.parquet")
  (tmp_path / "a.txt").write_text("a dog")
  table = {"kind": "parquet", "path": str(tmp_path)}
  specs = [
    {"kind": "digits"},
    {"kind": "digits", "texts": "questions"},
    {"kind": "digits", "texts": "documents"},
    table,
    table | {"image_column": None},
    {"kind": "plain_text", "path": f"{tmp_path}/a.txt"},
    {"kind": "plain_text", "path": f"{tmp_path}/a.parquet", "is_packed": True},
  ]
  found = [has_images(open_source("one", spec)) for spec in specs]
  assert found == [True, True, False, True, False, False, False]
  assert [may_have_images(spec) for spec in specs] == found


def test_config_dicts_are_mappings_too(tmp_path):
  from ml_collections import ConfigDict

  (tmp_path / "a.jpg").write_bytes(encoded(60, 60))
  (tmp_path / "a.txt").write_text("a dog")
  spec = {"kind": "image_folder", "path": str(tmp_path)}
  spec["filters"] = {"min_short_side": 50}
  assert len(open_source("folder", ConfigDict(spec))) == 1


def test_every_question_kind_can_be_opened(tmp_path):
  entry = {"image": "a.jpg", "question": "Is it?", "answers": [{"answer": "x"}]}
  (tmp_path / "v.json").write_text(json.dumps([entry]))
  spec = {
    "kind": "vizwiz",
    "path": f"{tmp_path}/v.json",
    "images": str(tmp_path),
  }
  assert open_source("viz", spec).name == "viz"


@pytest.mark.parametrize(
  ("spec", "message"),
  [
    ({}, "^set: the key 'kind' is missing: there are array_record, digits"),
    ({"kind": "webdatset"}, "^set: .* 'webdatset': did you mean 'webdataset'"),
    ({"kind": "vqa_v2"}, "did you mean 'vqav2'"),
    ({"kind": 7}, "^set: there is no source of kind 7: there are"),
    ({"kind": None}, "there is no source of kind None"),
    (
      {"kind": "webdataset", "path": "x", "filter": {}},
      "^set: a source of kind 'webdataset' has no key 'filter': did you mean "
      "'filters'",
    ),
    ({"kind": "webdataset", "name": "x"}, "has no key 'name'"),
    ({"kind": "webdataset"}, "^set: .* needs the key path$"),
    (
      {"kind": "vqav2", "images": "x"},
      "needs the key questions and annotations",
    ),
    ({"kind": "webdataset", "path": "/none.tar"}, "^set: path /none.tar is no"),
    (
      {"kind": "image_folder", "path": "/none"},
      "^set: path must be a file, but",
    ),
    ({"kind": "llava", "path": "/none", "images": "/"}, "/none does not exist"),
    (
      {"kind": "image_folder", "path": "/", "image_key": ["a"]},
      r"^set: image_key must be of type str, not list \['a'\]",
    ),
    (
      {"kind": "parquet", "path": "/", "rewritten_column": 7},
      "rewritten_column must be of type str or NoneType, not int 7",
    ),
    ({"kind": "plain_text", "path": "/none"}, "^set: path /none is not a file"),
    ({"kind": "parquet", "path": "/none"}, "^set: [^:]*/none"),
    ({"kind": "array_record", "path": "/none"}, "^set: .*/none"),
  ],
)
def test_what_is_wrong_is_told_with_the_way_out(spec, message):
  with pytest.raises(ValueError, match=message):
    open_source("set", spec)


def test_a_kind_whose_package_is_absent_is_refused(monkeypatch):
  def fail(name):
    raise ImportError("No module named 'x'")

  monkeypatch.setattr(importlib, "import_module", fail)
  with pytest.raises(ValueError, match="kind 'tfds' cannot be used: No module"):
    open_source("set", {"kind": "tfds", "path": "x"})


def test_sources_open_where_jax_cannot_be_imported(tmp_path):
  """Index tools and worker processes start quickly."""
  write_shard(tmp_path / "a.tar", ["0"])
  script = (
    "import sys\n"
    "sys.modules['jax'] = sys.modules['pyarrow'] = None\n"
    "from ddit_jax.data.sources.registry import open_source\n"
    "source = open_source('s', {'kind': 'webdataset', 'path': sys.argv[1]})\n"
    "assert source[0].texts == ('0',)\n"
    "import ddit_jax.data.sources.plain_text\n"
    "import ddit_jax.data.sources.image_folder\n"
    "import ddit_jax.data.sources.plain_text\n"
    "import ddit_jax.data.sources.vqa\n"
  )
  subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
