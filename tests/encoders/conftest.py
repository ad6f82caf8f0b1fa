"""Full-precision matrix products, so that accelerators compare too."""

import jax
import pytest


@pytest.fixture(autouse=True)
def full_precision():
  with jax.default_matmul_precision("highest"):
    yield
