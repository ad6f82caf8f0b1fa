"""An error on one process reaches all of them."""

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from ddit_jax.checkpoint.manifest import CheckpointError, raise_on_all


def test_one_process_raises_its_own_error_or_nothing():
  raise_on_all(None, doing="saving")
  with pytest.raises(OSError, match="disk full"):
    raise_on_all(OSError("disk full"), doing="saving")


def test_a_healthy_process_hears_of_the_others(monkeypatch):
  monkeypatch.setattr(jax, "process_count", lambda: 3)
  monkeypatch.setattr(
    multihost_utils,
    "process_allgather",
    lambda mine, tiled: np.concatenate([mine, [True], [False]]),
  )
  with pytest.raises(CheckpointError, match=r"saving failed on process \[1\]"):
    raise_on_all(None, doing="saving")
  with pytest.raises(OSError, match="disk full"):
    raise_on_all(OSError("disk full"), doing="saving")
