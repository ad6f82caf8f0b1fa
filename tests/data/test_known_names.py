"""Unknown names are refused, and the nearest known one is told."""

import pytest

from ddit_jax.files import check_known


def test_known_names_pass():
  check_known(["b", "a"], ["a", "b", "c"], what="no key")
  check_known([], [], what="no key")


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("colour", "^no key 'colour': did you mean 'color'\\? there are color, x$"),
    ("zzzzzz", "^no key 'zzzzzz': there are color, x$"),
    (7, "^no key 7: there are color, x$"),
  ],
)
def test_an_unknown_name_is_refused(name, message):
  with pytest.raises(ValueError, match=message):
    check_known(["x", name], ["x", "color"], what="no key")
