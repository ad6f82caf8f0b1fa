"""Text models that are tables, and the laws of samplers on them, enumerated.

A model of three tokens at three positions says for each of the 4^3 partly
masked states what each position may be. The laws are chains over these states
in float64 NumPy, written from the formulas and without the samplers.
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from ddit_jax.prng import row_keys
from ddit_jax.sampling.text_sampler import infill

MASK, LENGTH = 3, 3
STATES = list(itertools.product(range(MASK + 1), repeat=LENGTH))
START = (MASK,) * LENGTH


def logits_table(seed: int = 0, spread: float = 1.5) -> np.ndarray:
  """Logits of each state, [4, 4, 4, positions, tokens and mask]."""
  rng = np.random.default_rng(seed)
  table = rng.normal(size=(*(MASK + 1,) * LENGTH, LENGTH, MASK + 1)) * spread
  # A confident mask, to show that it is never drawn.
  table[..., MASK] = 99.0
  return table.astype(np.float32)


def predict_from(table: np.ndarray):
  """A network that looks its answer up."""
  rows = jnp.asarray(table)
  return lambda states: rows[tuple(states.T)]


def probabilities(table: np.ndarray, state) -> np.ndarray:
  """[positions, tokens], float64."""
  logits = np.asarray(table[state], np.float64)[:, :MASK]
  weights = np.exp(logits - logits.max(-1, keepdims=True))
  return weights / weights.sum(-1, keepdims=True)


def sampled(table, sampling, rows: int, *, seed: int = 0, **options):
  """The sampler's texts about nothing, `rows` of them."""

  @jax.jit
  def run(keys):
    return infill(
      predict_from(table),
      jnp.zeros((rows, LENGTH), jnp.int32),
      jnp.zeros((rows, LENGTH), bool),
      keys,
      mask_id=MASK,
      sampling=sampling,
      **options,
    )

  return run(row_keys(jax.random.key(seed), jnp.arange(rows)))


def chain(law: dict, table, moves) -> dict:
  """One step of a chain whose positions move independently.

  Args:
    law: state -> probability.
    table: the model.
    moves: (token or mask, its probabilities over tokens) -> probabilities over
      tokens and mask.
  """
  after = dict.fromkeys(STATES, 0.0)
  for state, weight in law.items():
    if not weight:
      continue
    tokens = probabilities(table, state)
    each = [moves(now, p) for now, p in zip(state, tokens, strict=True)]
    for new in STATES:
      after[new] += weight * math.prod(
        row[token] for row, token in zip(each, new, strict=True)
      )
  return after


def posterior(chance: float, change=lambda p: p):
  """Paper eq. 5: a masked token is revealed with `chance`."""

  def moves(now, p):
    if now != MASK:
      return np.eye(MASK + 1)[now]
    return np.append(chance * change(p), 1 - chance)

  return moves


def ancestral_law(table, num_steps: int, change=lambda p: p) -> dict:
  """T steps of equal size from time 1 to 0."""
  law = {START: 1.0}
  for step in range(num_steps):
    t, s = 1 - step / num_steps, 1 - (step + 1) / num_steps
    law = chain(law, table, posterior((t - s) / t, change))
  return law


def one_by_one_law(table) -> dict:
  """The limit of many steps: each order of the positions is as likely."""
  law = dict.fromkeys(STATES, 0.0)
  orders = list(itertools.permutations(range(LENGTH)))
  for order in orders:
    for text in itertools.product(range(MASK), repeat=LENGTH):
      state, weight = list(START), 1 / len(orders)
      for position in order:
        weight *= probabilities(table, tuple(state))[position, text[position]]
        state[position] = text[position]
      law[text] += weight
  return law


def p_value(tokens, law: dict) -> float:
  """Of chi-square between texts [rows, length] and their law."""
  texts = [state for state in STATES if law[state] > 0]
  code = (MASK + 1) ** np.arange(LENGTH)[::-1]
  counts = np.bincount(np.asarray(tokens) @ code, minlength=len(STATES))
  counts = dict(zip(STATES, counts, strict=True))
  seen = np.array([counts[text] for text in texts])
  assert seen.sum() == len(tokens), "a text that the law excludes"
  expected = np.array([law[text] for text in texts]) * len(tokens)
  # Chi-square wants five expected each: the rarest are pooled.
  order = np.argsort(expected)
  seen, expected = seen[order], expected[order]
  cut = int(np.searchsorted(np.cumsum(expected), 5)) + 1
  while expected[cut] < 5:
    cut += 1
  seen, expected = (np.append(x[:cut].sum(), x[cut:]) for x in (seen, expected))
  return stats.chisquare(seen, expected * seen.sum() / expected.sum()).pvalue
