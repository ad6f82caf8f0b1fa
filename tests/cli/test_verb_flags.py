"""Flags of one verb, and what is said about wrong ones."""

import pytest
from absl import flags

from ddit_jax.cli.verb_flags import HelpRequested, Verb, require
from ddit_jax.errors import InputError


def define(values: flags.FlagValues) -> None:
  flags.DEFINE_string("out", None, "folder for results", flag_values=values)
  flags.DEFINE_bool("quick", False, "leave half out", flag_values=values)
  flags.DEFINE_integer("seed", 0, "of the draws", flag_values=values)
  flags.DEFINE_multi_string("word", None, "a word", flag_values=values)


VERB = Verb(
  name="mow",
  summary="cut the grass",
  description="\nCuts the grass.\n",
  define=define,
  run=lambda values, overrides: 0,
)


def test_flags_are_read():
  values = VERB.parse(
    ["--out=here", "--quick", "--seed", "3", "--word=a", "--word=b"]
  )
  assert (values.out, values.quick, values.seed) == ("here", True, 3)
  assert values.word == ["a", "b"]
  assert VERB.parse(["--noquick"]).quick is False
  assert VERB.parse([]).out is None


@pytest.mark.parametrize(
  ("argv", "message"),
  [
    (["--ouut=x"], "ddit mow has no flag --ouut: did you mean 'out'?"),
    (["--xyz"], "ddit mow has no flag --xyz: there are out, quick, seed, word"),
    (["--seed=many"], "flag --seed=many: invalid literal for int"),
    (["--seed"], "--seed"),
    (["--noseed"], "noseed"),
    (["--quick=perhaps"], "Non-boolean argument to boolean flag"),
    (["here"], "ddit mow does not know what 'here' is for: write flags as"),
    (["--out=x", "here"], "does not know what 'here' is for"),
  ],
)
def test_wrong_flags_are_named_in_one_line(argv, message):
  with pytest.raises(InputError) as caught:
    VERB.parse(argv)
  assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("flag", ["--help", "-h", "--helpfull"])
def test_help_wins_over_everything_else_and_explains_all_flags(flag):
  with pytest.raises(HelpRequested) as caught:
    VERB.parse(["--seed=many", flag])
  text = str(caught.value)
  assert text.startswith("ddit mow: cut the grass\n\nCuts the grass.\n")
  for line in ("--out: folder for results", "--seed: of the draws (default 0)"):
    assert line in text
  assert "--config.KEY=VALUE" in text


def test_an_empty_value_counts_as_missing():
  require(VERB.parse(["--out=x"]), "out")
  for argv in ([], ["--out="]):
    with pytest.raises(InputError, match="--out is missing: folder for resul"):
      require(VERB.parse(argv), "out")


def test_verbs_share_no_flags_with_absl_or_each_other():
  VERB.parse(["--out=x"])
  assert "out" not in flags.FLAGS
  assert VERB.parse([]).out is None
