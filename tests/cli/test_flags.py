"""Flags of one verb, and what is said about wrong ones."""

import pytest

from ddit_jax.cli.flags import Flag, Verb
from ddit_jax.errors import InputError

VERB = Verb(
  name="mow",
  summary="cut the grass",
  description="\nCuts the grass.\n",
  flags={
    "out": Flag("folder for results", is_path=True),
    "quick": Flag("leave half out", bool, False),
    "seed": Flag("of the draws", int, 0),
    "word": Flag("a word", is_repeated=True),
    "file": Flag("a file", is_repeated=True, is_path=True),
  },
  run=lambda values, overrides: 0,
)


def test_flags_are_read():
  values = VERB.parse(
    ["--out=here", "--quick", "--seed", "3", "--word=a", "--word=b"]
  )
  assert (values.out, values.quick, values.seed) == ("here", True, 3)
  assert values.word == ["a", "b"]
  assert values.given == {"out", "quick", "seed", "word"}
  values = VERB.parse([])
  assert (values.out, values.quick, values.seed) == (None, False, 0)
  assert (values.word, values.given) == ([], frozenset())


def test_the_home_folder_is_found_where_a_shell_does_not(monkeypatch):
  monkeypatch.setenv("HOME", "/home/me")
  argv = ["--out=~/run", "--file=a", "--file=~/b", "--word=~"]
  values = VERB.parse(argv)
  assert (values.out, values.word) == ("/home/me/run", ["~"])
  assert values.file == ["a", "/home/me/b"]


@pytest.mark.parametrize(
  ("argv", "message"),
  [
    (["--ouut=x"], "ddit mow has no flag --ouut: did you mean 'out'?"),
    (["--xyz"], "ddit mow has no flag --xyz: there are file, out, quick, seed"),
    (["--seed=many"], "--seed: invalid int value: 'many'"),
    (["--seed"], "--seed: expected one argument"),
    (["--see=1"], "ddit mow has no flag --see: did you mean 'seed'?"),
    (["--quick=perhaps"], "--quick: ignored explicit argument 'perhaps'"),
    (["here"], "ddit mow does not know what 'here' is for: write flags as"),
    (["--out=gs://b/run"], "--out=gs://b/run is a bucket address: mount"),
    (["--file=a", "--file=s3://b/c"], "--file=s3://b/c is a bucket address"),
    (["--out=x", "here"], "does not know what 'here' is for"),
  ],
)
def test_wrong_flags_are_named_in_one_line(argv, message):
  with pytest.raises(InputError) as caught:
    VERB.parse(argv)
  assert message in str(caught.value) and "\n" not in str(caught.value)


def test_the_help_text_explains_all_flags():
  text = VERB.help_text()
  assert text.startswith("ddit mow: cut the grass\n\nCuts the grass.\n")
  for line in ("--out: folder for results", "--seed: of the draws (default 0)"):
    assert line in text
  assert "--config.KEY=VALUE" in text


def test_an_empty_value_counts_as_missing():
  VERB.require(VERB.parse(["--out=x"]), "out")
  for argv in ([], ["--out="]):
    with pytest.raises(InputError, match="--out is missing: folder for resul"):
      VERB.require(VERB.parse(argv), "out")
