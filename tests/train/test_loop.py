"""The loop's order of business, with arithmetic in place of training."""

import itertools

import pytest

from ddit_jax.train.loop import Hook, run_loop


def add(step, state, batch):
  """A step whose state shows which batches it has seen."""
  del step
  return (*state, batch), {"sum": sum(state) + batch}


def batches():
  return ((i, {"read": i}) for i in itertools.count(1))


def run(hooks, *, start=0, num_steps=7, stop_at=None, state=()):
  return run_loop(
    add,
    state,
    batches(),
    start=start,
    num_steps=num_steps,
    hooks=hooks,
    is_stop_requested=lambda step: step == stop_at,
  )


def recorder(seen, name="hook"):
  return lambda progress: seen.append((name, progress.step))


def test_every_step_takes_the_next_batch():
  assert run([]) == (1, 2, 3, 4, 5, 6, 7)


def test_a_resumed_run_does_only_what_is_left():
  seen = []
  assert run([Hook(1, recorder(seen))], start=5, state=(0,)) == (0, 1, 2)
  assert [step for _, step in seen] == [6, 7]


def test_a_finished_run_does_nothing():
  seen = []
  assert run([Hook(1, recorder(seen))], start=7, state=("done",)) == ("done",)
  assert seen == []


def test_hooks_are_called_when_due_in_their_order_and_at_the_end():
  seen = []
  run([Hook(3, recorder(seen, "log")), Hook(2, recorder(seen, "save"))])
  assert seen == [
    ("save", 2),
    ("log", 3),
    ("save", 4),
    ("log", 6),
    ("save", 6),
    ("log", 7),
    ("save", 7),
  ]


def test_a_hook_sees_the_step_it_follows():
  seen = []
  run([Hook(3, seen.append)], num_steps=4)
  assert [(p.step, p.state, p.metrics, p.data_position) for p in seen] == [
    (3, (1, 2, 3), {"sum": 6}, {"read": 3}),
    (4, (1, 2, 3, 4), {"sum": 10}, {"read": 4}),
  ]
  assert [(p.is_last, p.is_early_stop) for p in seen] == [
    (False, False),
    (True, False),
  ]


def test_a_stop_ends_the_run_after_its_step():
  seen = []
  hooks = [
    Hook(100, recorder(seen, "save")),
    Hook(100, recorder(seen, "validate"), is_needed_at_stop=False),
    Hook(4, recorder(seen, "due anyway"), is_needed_at_stop=False),
  ]
  assert run(hooks, stop_at=4) == (1, 2, 3, 4)
  assert seen == [("save", 4), ("due anyway", 4)]


def test_a_stop_at_the_last_step_is_an_ordinary_end():
  seen = []
  hook = Hook(100, recorder(seen), is_needed_at_stop=False)
  run([hook], stop_at=7)
  assert seen == [("hook", 7)]


def test_an_error_of_a_step_is_not_swallowed():
  def broken(step, state, batch):
    raise RuntimeError("out of memory")

  with pytest.raises(RuntimeError, match="out of memory"):
    run_loop(
      broken,
      (),
      batches(),
      start=0,
      num_steps=2,
      hooks=[],
      is_stop_requested=lambda step: False,
    )
