"""Errors of `config.json` name the file and the field."""

import pathlib

import pytest

from ddit_jax.conversion.config_fields import (
  JsonConfig,
  count_numbered,
  read_json,
  shape_of,
)
from ddit_jax.conversion.errors import ConversionError
from ddit_jax.conversion.safetensors_files import StoredTensor

CONFIG = JsonConfig(
  pathlib.Path("x/config.json"), {"depth": 3, "act": "silu", "eps": 1e-6}
)


def tensor(name, shape):
  return StoredTensor(
    name=name, file=pathlib.Path("f"), dtype="F32", shape=shape, start=0
  )


def test_need():
  assert CONFIG.need("depth") == 3
  assert CONFIG.need("eps", float, int) == 1e-6
  with pytest.raises(ConversionError, match=r"x/config.json lacks .*'width'"):
    CONFIG.need("width")
  with pytest.raises(ConversionError, match="eps = 1e-06, which is no int"):
    CONFIG.need("eps")


def test_refuse_unless():
  CONFIG.refuse_unless("act", "silu", reason="is bad")
  CONFIG.refuse_unless("absent", 1, reason="is bad")
  with pytest.raises(ConversionError, match="act = 'silu', which is bad"):
    CONFIG.refuse_unless("act", "relu", "gelu", reason="is bad")


def test_read_json(tmp_path):
  path = tmp_path / "config.json"
  with pytest.raises(ConversionError, match="is missing"):
    read_json(path)
  for content, message in (("{", "is not JSON"), ("[]", "not a JSON table")):
    path.write_text(content)
    with pytest.raises(ConversionError, match=message):
      read_json(path)
  path.write_text('{"a": 1}')
  assert read_json(path).need("a") == 1


def test_shape_of():
  tensors = {"a": tensor("pre.a", (2, 3))}
  assert shape_of(tensors, "a", 2) == (2, 3)
  with pytest.raises(ConversionError, match=r"pre.a of f has shape \[2, 3\]"):
    shape_of(tensors, "a", 1)
  with pytest.raises(ConversionError, match=r"^f lacks tensor b"):
    shape_of(tensors, "b", 1)


def test_count_numbered():
  names = ("b.0.x", "b.0.y", "b.1.x", "c.7.x")
  tensors = {name: tensor(name, ()) for name in names}
  assert count_numbered(tensors, "b.") == 2
  for prefix in ("c.", "d."):
    with pytest.raises(ConversionError, match="incomplete"):
      count_numbered(tensors, prefix)
