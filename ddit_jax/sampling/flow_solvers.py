"""Solvers of the flow ODE, one network call at a time.

A solver turns descending times into a table with a row for each call of the
network, and a velocity into the next state:

  calls = solver.calls(sigmas)
  state = solver.begin(latents)
  for call in calls:
    state = solver.step(state, velocity(state.latents, call.sigma), call, draw)

so that every solver runs in the same scan. x is the latents, v the velocity
and x - sigma * v the predicted clean latents.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

Latents = Float[Array, "batch height width channels"]
_Times = Float[Array | np.ndarray, " grid"]


class Calls(NamedTuple):
  """Calls of the network in their order; all arrays have a row for each.

  Attributes:
    sigma: time at which the network is asked.
    next_sigma: time of the latents after the call.
    step: the step that the call belongs to, from 0.
    weights: the solver's own coefficients.
  """

  sigma: Float[Array | np.ndarray, " *calls"]
  next_sigma: Float[Array | np.ndarray, " *calls"]
  step: Int[Array | np.ndarray, " *calls"]
  weights: Any = ()


class State(NamedTuple):
  """Where a solver stands.

  Attributes:
    latents: float32.
    memory: what it keeps of earlier calls.
  """

  latents: Latents
  memory: Any = ()


# Standard normal noise of a call; only stochastic solvers draw it.
_Draw = Callable[[], Latents]


class Solver(Protocol):
  """One method; see the module."""

  def calls(self, sigmas: _Times) -> Calls:
    """The table of calls for descending times that end with 0."""

  def begin(self, latents: Latents) -> State:
    """The state before the first call."""

  def step(
    self, state: State, velocity: Latents, call: Calls, draw: _Draw
  ) -> State:
    """The state after a call, given one row of the table."""


class Euler:
  """First order; diffusers' FlowMatchEulerDiscreteScheduler."""

  def calls(self, sigmas: _Times) -> Calls:
    """One call a step."""
    return Calls(sigmas[:-1], sigmas[1:], np.arange(len(sigmas) - 1))

  def begin(self, latents: Latents) -> State:
    """Keeps nothing."""
    return State(latents)

  def step(
    self, state: State, velocity: Latents, call: Calls, draw: _Draw
  ) -> State:
    """Moves along the velocity."""
    del draw
    size = call.next_sigma - call.sigma
    return State(state.latents + size * velocity)


class StochasticEuler(Euler):
  """Euler with new noise at each step (`stochastic_sampling` in diffusers)."""

  def step(
    self, state: State, velocity: Latents, call: Calls, draw: _Draw
  ) -> State:
    """Takes the predicted clean latents, and noises them again."""
    clean = state.latents - call.sigma * velocity
    after = call.next_sigma
    return State((1 - after) * clean + after * draw())


class Heun:
  """Second order, two calls a step; FlowMatchHeunDiscreteScheduler.

  The last step is Euler's.
  """

  def calls(self, sigmas: _Times) -> Calls:
    """Predictor and corrector of each step, alternately."""
    rows = []
    for step, (now, after) in enumerate(itertools.pairwise(sigmas)):
      rows.append((now, after, step, (after - now, False)))
      if step < len(sigmas) - 2:
        rows.append((after, after, step, (after - now, True)))
    sigma, after, step, weights = zip(*rows, strict=True)
    size, is_corrector = zip(*weights, strict=True)
    sigma, after, size = np.float32(sigma), np.float32(after), np.float32(size)
    return Calls(sigma, after, np.array(step), (size, np.array(is_corrector)))

  def begin(self, latents: Latents) -> State:
    """Keeps where a step began, and its first velocity."""
    return State(latents, (latents, jnp.zeros_like(latents)))

  def step(
    self, state: State, velocity: Latents, call: Calls, draw: _Draw
  ) -> State:
    """Corrects from the mean of both velocities, or predicts."""
    del draw
    size, is_corrector = call.weights
    start, first = state.memory
    slope = jnp.where(is_corrector, (first + velocity) / 2, velocity)
    start = jnp.where(is_corrector, start, state.latents)
    return State(start + size * slope, (start, velocity))


class DpmSolver2M:
  """DPM-Solver++(2M), midpoint (arXiv:2211.01095, algorithm 2).

  In flow form, alpha = 1 - sigma, as diffusers' DPMSolverMultistepScheduler
  with `use_flow_sigmas`. Second order from two predictions of the clean
  latents; the first and the last step are of first order.
  """

  def calls(self, sigmas: _Times) -> Calls:
    """One call a step, with the weights of x and of both predictions."""
    times = np.asarray(sigmas, np.float64)
    # At the ends, log(alpha / sigma) is infinite; both limits are finite.
    with np.errstate(divide="ignore"):
      log_ratio = np.log(1 - times) - np.log(times)
    size = np.diff(log_ratio)
    keep = times[1:] / times[:-1]
    newest = -(1 - times[1:]) * np.expm1(-size)
    slope = np.zeros_like(newest)
    slope[1:-1] = newest[1:-1] / 2 * size[1:-1] / size[:-2]
    weights = tuple(np.float32(x) for x in (keep, newest, slope))
    return Euler().calls(np.float32(sigmas))._replace(weights=weights)

  def begin(self, latents: Latents) -> State:
    """Keeps the last prediction of the clean latents."""
    return State(latents, jnp.zeros_like(latents))

  def step(
    self, state: State, velocity: Latents, call: Calls, draw: _Draw
  ) -> State:
    """Extrapolates both predictions of the clean latents."""
    del draw
    keep, newest, slope = call.weights
    clean = state.latents - call.sigma * velocity
    change = clean - state.memory
    latents = keep * state.latents + newest * clean + slope * change
    return State(latents, clean)


SOLVERS: dict[str, Solver] = {
  "euler": Euler(),
  "euler_stochastic": StochasticEuler(),
  "heun": Heun(),
  "dpmpp_2m": DpmSolver2M(),
}


def row(calls: Calls, index: int) -> Calls:
  """One call of a table."""
  return jax.tree.map(lambda column: column[index], calls)
