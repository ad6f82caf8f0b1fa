"""Bad values become one line with the way out; bugs stay tracebacks."""

import pytest

from ddit_jax.errors import (
  InputError,
  check_known,
  first_few,
  one_line,
  preparing,
  printable,
)


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


def test_a_message_cannot_steer_the_terminal():
  hostile = "a\x1b[2J\nb\r\x07\u202ec\ud800 é 漢 \x85\u2028d"
  line = "a\\x1b[2J b \\x07\\u202ec\\ud800 é 漢 d"
  assert one_line(ValueError(hostile)) == line
  assert printable("a\nb\x1b") == "a\nb\\x1b"
  long = one_line("x" * 10**6)
  assert len(long) < 2000 and " ... " in long


def test_known_names_pass():
  check_known(["b", "a"], ["a", "b", "c"], what="no key")
  check_known([], [], what="no key")


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("colour", "^no key 'colour': did you mean 'color'\\?$"),
    ("zzzzzz", "^no key 'zzzzzz': there are color, x$"),
    (7, "^no key 7: there are color, x$"),
  ],
)
def test_an_unknown_name_is_refused(name, message):
  with pytest.raises(ValueError, match=message):
    check_known(["x", name], ["x", "color"], what="no key")


def test_the_first_few_of_many_and_how_many_more():
  assert first_few("ab") == "a, b"
  assert first_few(range(6)) == "0, 1, 2, 3 and 2 more"
