"""Without the extra `serve` and a client, the server is not tested."""

import importlib.util

import jax
import pytest

from ddit_jax.pipelines.load import load
from ddit_jax.sharding.mesh import MeshConfig

NEEDED = ("openai", "starlette", "uvicorn")
collect_ignore = [
  "test_app.py" for name in NEEDED if importlib.util.find_spec(name) is None
]


@pytest.fixture(scope="package")
def pipeline(trained):
  return load(str(trained), mesh=MeshConfig().make(jax.devices()[:1]))
