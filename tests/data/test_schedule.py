"""Weights by step: parsing, and what may be edited when a run goes on."""

import json

import pytest

from ddit_jax.data.mixture import Interleave
from ddit_jax.data.schedule import Phase, check_schedule_edit, parse_schedule

NAMES = ("art", "photos", "web")


def phases(config, names=None):
  return [
    (phase.start, dict(phase.parts))
    for phase in parse_schedule(config, names).phases
  ]


def test_a_schedule_is_read_from_its_config_form():
  config = {"60000": {"web": 1, "art": 1}, "0": {"web": 3, "art": 1}}
  assert phases(config) == [
    (0, {"art": 1, "web": 3}),
    (60000, {"art": 1, "web": 1}),
  ]
  assert phases(json.loads(json.dumps(config))) == phases(config)
  assert phases({int(step): table for step, table in config.items()}) == (
    phases(config)
  )


@pytest.mark.parametrize(
  ("weights", "parts"),
  [
    ({"web": 6, "art": 2}, {"web": 3, "art": 1}),
    ({"web": 0.1, "art": 0.3}, {"web": 1, "art": 3}),
    ({"web": 0.35, "art": 0.65}, {"web": 7, "art": 13}),
    ({"web": 1e-3, "art": 1.0}, {"web": 1, "art": 1000}),
    ({"web": 558128, "art": 665298}, {"web": 279064, "art": 332649}),
    ({"web": 5, "art": 0}, {"web": 1}),
    ({"web": 0.7}, {"web": 1}),
  ],
)
def test_weights_become_whole_parts(weights, parts):
  assert phases({"0": weights}) == [(0, parts)]


def test_the_order_of_names_does_not_matter():
  one = parse_schedule({"0": {"a": 2, "b": 3}})
  other = parse_schedule({"0": {"b": 3, "a": 2}})
  assert one.phases[0].parts == other.phases[0].parts


def test_equal_neighbours_are_one_phase():
  config = {"0": {"a": 1, "b": 2}, "5": {"a": 2, "b": 4}, "9": {"a": 1}}
  assert [start for start, _ in phases(config)] == [0, 9]


def test_the_phase_of_a_step():
  schedule = parse_schedule({"0": {"a": 1}, "10": {"b": 1}, "20": {"a": 1}})
  starts = [schedule.at(step).start for step in (0, 9, 10, 19, 20, 10**9)]
  assert starts == [0, 0, 10, 10, 20, 20]
  assert schedule.at(10) == Phase(10, (("b", 1),))
  assert schedule.names() == {"a", "b"}


@pytest.mark.parametrize(
  ("config", "message"),
  [
    ({}, 'begin with "0"'),
    ({"5": {"web": 1}}, r"\['5'\]: name each once, and begin"),
    ({"0": {"web": 1}, 0: {"web": 1}}, "name each once"),
    ({"0": {"web": 1}, "00": {"web": 2}}, "name each once"),
    ({"0": {"web": 1}, "-3": {"web": 1}}, "step '-3': give a whole number"),
    ({"0": {"web": 1}, "1e3": {"web": 1}}, "step '1e3': give a whole number"),
    ({"0": {"web": 1}, 2.5: {"web": 1}}, "step 2.5: give a whole number"),
    ({"0": {"web": 1}, True: {"web": 1}}, "step True: give a whole number"),
    ({"0": {"web": -1}}, "step 0 the weight of 'web' is -1: give a finite"),
    ({"0": {"web": float("nan")}}, "'web' is nan: give a finite"),
    ({"0": {"web": float("inf")}}, "'web' is inf: give a finite"),
    ({"0": {"web": "3"}}, "'web' is '3': give a finite"),
    ({"0": {"web": True}}, "'web' is True: give a finite"),
    ({"0": {"web": 1}, "7": {"web": 0}}, "step 7 no source has a positive"),
    ({"0": {}}, "step 0 no source has a positive"),
    (
      {"0": {"web": 0.3333333, "art": 0.6666667}},
      r"for example to \{'art': 667, 'web': 333\}",
    ),
  ],
)
def test_a_senseless_schedule_is_refused(config, message):
  with pytest.raises(ValueError, match=message):
    parse_schedule(config)


def test_the_suggested_weights_are_accepted():
  phases({"0": {"art": 667, "web": 333}})


def test_an_unknown_source_is_named_with_the_nearest():
  config = {"0": {"web": 1}, "9": {"photo": 1, "art": 0}}
  with pytest.raises(
    ValueError, match=r"step 9 name 'photo': did you mean 'photos'\?"
  ):
    parse_schedule(config, NAMES)


def test_a_forgotten_source_is_named():
  with pytest.raises(ValueError, match=r"never \['art', 'photos'\]: give each"):
    parse_schedule({"0": {"web": 1}}, NAMES)
  parse_schedule({"0": {"web": 1, "art": 0, "photos": 0}}, NAMES)


SAVED = {"0": {"web": 3, "art": 1}, "100": {"web": 1, "art": 1}}


@pytest.mark.parametrize(
  ("new", "step"),
  [
    (SAVED, 10**6),
    ({"0": {"web": 6, "art": 2.0}, "100": {"art": 5, "web": 5}}, 10**6),
    ({"0": {"web": 3, "art": 1}}, 100),
    ({"0": {"web": 3, "art": 1}, "60": {"art": 1}}, 60),
    (SAVED | {"200": {"photos": 1}}, 200),
    (SAVED | {"50": {"web": 3, "art": 1}}, 10**6),
    ({"0": {"art": 9}}, 0),
  ],
)
def test_future_weights_may_change(new, step):
  check_schedule_edit(SAVED, new, step)


@pytest.mark.parametrize(
  ("new", "step", "message"),
  [
    ({"0": {"web": 3, "art": 2}}, 1, r"from step 0 are \{'art': 2, 'web': 3\}"),
    ({"0": {"web": 3, "art": 1}}, 101, r"from step 100 .* trained 101 steps"),
    (SAVED | {"60": {"art": 1}}, 61, 'add weights from "61" or later'),
    (SAVED | {"200": {"art": 1}}, 201, "from step 200"),
    # As before from 100 on, but the cycle would begin elsewhere.
    (
      {"0": {"web": 3, "art": 1}, "99": {"web": 1, "art": 1}},
      101,
      "from step 99 .*since step 99",
    ),
  ],
)
def test_past_weights_may_not_change(new, step, message):
  with pytest.raises(ValueError, match=message):
    check_schedule_edit(SAVED, new, step)


def test_all_parts_that_are_accepted_can_be_interleaved():
  config = {"0": {"web": 0.123456, "art": 0.654321}}
  parts = dict(parse_schedule(config).phases[0].parts)
  assert Interleave(parts).counts(sum(parts.values())) == parts
