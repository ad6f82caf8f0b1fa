"""`ddit sample` checks its flags and hands the requests over."""

import pytest

from ddit_jax.cli import sample
from ddit_jax.errors import InputError
from ddit_jax.pipelines import requests as generating
from ddit_jax.pipelines.requests import NEEDED


def run(*argv):
  return sample.VERB.run(sample.VERB.parse(list(argv)), {})


@pytest.mark.parametrize(
  ("argv", "message"),
  [
    (["--task=t2i"], "--checkpoint is missing: folder of a run"),
    (["--checkpoint=c"], "--task is missing: t2i, caption or vqa"),
    (["--checkpoint=c", "--task=captoin"], "unknown task 'captoin': did you "),
    (["--checkpoint=c", "--task=x"], "there are caption, t2i, vqa"),
    (["--checkpoint=c", "--task=t2i", "--seed=-1"], "seed must lie in 0"),
    (["--checkpoint=c", "--task=t2i", "--seed=4294967296"], "seed must"),
  ],
)
def test_wrong_flags_are_named(argv, message):
  with pytest.raises(InputError, match=message):
    run(*argv)


def test_there_is_something_to_do_before_the_checkpoint_is_opened():
  with pytest.raises(InputError, match="nothing to do: give --prompt, or"):
    run("--checkpoint=nowhere", "--task=t2i")


def test_the_tasks_are_those_that_can_be_requested():
  assert set(sample.TASKS) == set(NEEDED)


def test_requests_and_options_are_handed_over(monkeypatch):
  calls = []
  monkeypatch.setattr(
    generating, "generate", lambda *args, **named: calls.append((args, named))
  )
  run(
    *("--checkpoint=c", "--task=vqa", "--image=a.png", "--image=b.png"),
    *("--question=is it red?", "--seed=4294967295", "--step=3"),
  )
  [((checkpoint, requests), named)] = calls
  assert (checkpoint, requests.task) == ("c", "vqa")
  assert requests.rows == [
    {"image": "a.png", "question": "is it red?"},
    {"image": "b.png", "question": "is it red?"},
  ]
  assert named == {
    "out": "samples",
    "weights": "ema",
    "step": 3,
    "seed": 2**32 - 1,
  }
