"""Which errors are a full disk, however they are dressed."""

import errno

import pytest

from ddit_jax.errors import InputError
from ddit_jax.experiment.trainer import stopping_clearly


class Store:
  """A store with one finished checkpoint, or none."""

  def __init__(self, step):
    self._step = step

  def wait(self):
    """Nothing is under way."""

  def latest_step(self):
    return self._step


def chained(error):
  try:
    try:
      raise error
    except Exception as inner:
      raise RuntimeError("saving step 5 failed") from inner
  except RuntimeError as outer:
    return outer


FULL = OSError(errno.ENOSPC, "No space left on device")
# As TensorStore words it: no OSError, no errno.
TENSORSTORE = ValueError(
  "OUT_OF_RANGE: Failed to write [source locations='x.cc:1', "
  f"os_error_code='{errno.EFBIG}']"
)


@pytest.mark.parametrize(
  ("error", "words"),
  [
    (FULL, "No space left on device"),
    (chained(FULL), "No space left on device"),
    (TENSORSTORE, "File too large"),
    (chained(TENSORSTORE), "File too large"),
  ],
)
@pytest.mark.parametrize(
  ("step", "left"),
  [(None, "no checkpoint was finished"), (4, "of step 4 is intact")],
)
def test_a_full_disk_is_one_line(error, words, step, left):
  with pytest.raises(InputError) as caught, stopping_clearly(Store(step)):
    raise error
  line = str(caught.value)
  assert words in line and left in line and "\n" not in line


@pytest.mark.parametrize(
  "error",
  [
    OSError(errno.EIO, "Input/output error"),
    ValueError("a shape does not fit"),
    ValueError(f"os_error_code='{errno.EIO}'"),
  ],
)
def test_other_errors_stay_as_they_are(error):
  with pytest.raises(type(error)) as caught, stopping_clearly(Store(4)):
    raise error
  assert caught.value is error
