"""Outputs survive a kill, whole and once."""

import json

import pytest

from ddit_jax.errors import InputError
from ddit_jax.protocols.journal import Journal

FACTS = {"task": "vqav2", "weights": "ab", "settings": {"seed": 0}}


@pytest.fixture
def path(tmp_path):
  journal = Journal(tmp_path / "outputs.jsonl", FACTS)
  journal.append({"1": "red", "2": "a\u2028b"})
  return tmp_path / "outputs.jsonl"


def test_outputs_are_there_when_it_is_opened_again(path):
  journal = Journal(path, FACTS)
  assert journal.outputs == {"1": "red", "2": "a\u2028b"}
  journal.append({"3": {"nats": 0.5}})
  again = Journal(path, FACTS)
  assert again.outputs["3"] == {"nats": 0.5}
  assert len(path.read_bytes().splitlines()) == 4


def test_a_part_of_a_line_is_removed(path):
  whole = path.read_bytes()
  for cut in range(1, len(whole) - len(whole.splitlines()[0])):
    path.write_bytes(whole[:-cut])
    outputs = Journal(path, FACTS).outputs
    assert list(outputs) == ["1", "2"][: len(outputs)]
    assert path.read_bytes().endswith(b"\n")


def test_a_file_without_a_whole_header_begins_anew(path):
  path.write_bytes(b'{"form')
  journal = Journal(path, FACTS)
  assert journal.outputs == {}
  assert json.loads(path.read_bytes()) == {"format": 1, **FACTS}


def test_outputs_of_other_settings_are_refused(path):
  other = FACTS | {"settings": {"seed": 1}}
  with pytest.raises(InputError, match="holds outputs of settings"):
    Journal(path, other)


def test_nothing_is_kept_twice(path):
  with pytest.raises(ValueError, match="'2' was sampled twice"):
    Journal(path, FACTS).append({"2": "blue"})
  lines = path.read_bytes().splitlines()
  path.write_bytes(b"\n".join([*lines, lines[-1], b""]))
  with pytest.raises(InputError, match="line 4 is damaged"):
    Journal(path, FACTS)


@pytest.mark.parametrize("line", [b"[]", b"{", b'{"key": 1, "output": 2}'])
def test_damage_is_refused(path, line):
  path.write_bytes(path.read_bytes() + line + b"\n")
  with pytest.raises(InputError, match="line 4 is damaged"):
    Journal(path, FACTS)


def test_numbers_that_are_not_finite_are_refused(path):
  """A journal with them would not be JSON."""
  whole = path.read_bytes()
  with pytest.raises(InputError, match="the model's numbers are not finite"):
    Journal(path, FACTS).append({"3": {"nats": float("nan")}})
  assert path.read_bytes() == whole
