"""One pipeline of the tiny run; without Gradio the page is not tested."""

import importlib.util

import jax
import pytest

from ddit_jax.pipelines.load import load
from ddit_jax.sharding.mesh import MeshConfig

# The page's own imports need it.
HAS_PAGE = importlib.util.find_spec("gradio") is not None
collect_ignore = [] if HAS_PAGE else ["test_page.py", "test_write_tab.py"]


@pytest.fixture(scope="package")
def pipeline(trained):
  return load(str(trained), mesh=MeshConfig().make(jax.devices()[:1]))
