"""When a held-out reward counts as fallen, from lines of a log."""

from ddit_jax.post_training.held_out import falls_in_row as falls_with

NAME, TRAINED = "held_out/text_to_image/digits", "reward/text_to_image/digits"


def falls_in_row(lines):
  return falls_with(lines, {TRAINED: 1.0})


def validation(value, half=0.05):
  return {
    NAME: value,
    f"{NAME}/low": value - half,
    f"{NAME}/high": value + half,
  }


def log(*rows):
  """Pairs (training reward, held-out reward), each a step and a validation."""
  lines = []
  for reward, value in rows:
    lines += [{TRAINED: reward, f"{TRAINED}/low": 0.0}, validation(value)]
  return lines


def test_a_fall_counts_only_beyond_the_intervals_and_while_the_reward_rises():
  assert falls_in_row([]) == {}
  assert falls_in_row(log((0.1, 0.5), (0.2, 0.6))) == {NAME: 0}
  # Within both intervals.
  assert falls_in_row(log((0.1, 0.6), (0.2, 0.52))) == {NAME: 0}
  # The training reward fell as well: the policy got worse, it does not cheat.
  assert falls_in_row(log((0.3, 0.6), (0.2, 0.3))) == {NAME: 0}
  assert falls_in_row(log((0.1, 0.6), (0.2, 0.3))) == {NAME: 1}
  falling = log((0.1, 0.6), (0.2, 0.3), (0.3, 0.2), (0.4, 0.4))
  assert falls_in_row(falling) == {NAME: 3}
  assert falls_in_row([*falling, *log((0.4, 0.6))]) == {NAME: 0}


def test_only_what_is_trained_on_has_to_rise_by_its_weight():
  other = "reward/text_to_image/size"
  lines = log((0.1, 0.6), (0.2, 0.3))
  for line, value in zip(lines[::2], (50.0, 10.0), strict=True):
    line[other] = value
  assert falls_with(lines, {TRAINED: 1.0}) == {NAME: 1}
  assert falls_with(lines, {TRAINED: 1.0, other: 1.0}) == {NAME: 0}
  assert falls_with(lines, {TRAINED: 1000.0, other: 1.0}) == {NAME: 1}
  assert falls_with(lines, {}) == {NAME: 0}
