"""While preparing, bad values become one line; bugs stay tracebacks."""

import pytest

from ddit_jax.errors import InputError, preparing


@pytest.mark.parametrize("error", [ValueError, OSError, UnicodeError])
def test_bad_values_become_input_errors_of_one_line(error):
  if error is UnicodeError:
    cause = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad\nbyte")
  else:
    cause = error("a batch\n  does not divide")
  with pytest.raises(InputError) as caught, preparing():
    raise cause
  assert "\n" not in str(caught.value)
  assert caught.value.__cause__ is cause


def test_input_errors_pass_through_and_bugs_are_not_hidden():
  with pytest.raises(InputError, match=r"^two\n words$"), preparing():
    raise InputError("two\n words")
  with pytest.raises(KeyError), preparing():
    raise KeyError("bug")
