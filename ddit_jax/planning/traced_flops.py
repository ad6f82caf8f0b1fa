"""Floating-point operations of a program, counted in its jaxpr."""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core

_PRODUCTS = ("dot_general", "conv_general_dilated")
_KERNEL = "pallas_call"


def traced_flops(jaxpr: core.Jaxpr) -> int:
  """Operations of all matrix products and convolutions.

  Loop bodies count once per iteration, kernels once per cell of their grid.
  Recomputation (remat) is included, elementwise operations are not. Padding of
  convolutions counts as pixels. Inside `jax.shard_map` it is one device's.

  Args:
    jaxpr: for example `jax.make_jaxpr(function)(*shapes).jaxpr`.

  Raises:
    ValueError: a `while` loop contains products, so their number is not known.
  """
  return _sum(jaxpr, _product_flops)


def kernel_flops(jaxpr: core.Jaxpr) -> int:
  """Operations of the Pallas kernels alone, of one device under `shard_map`.

  Raises:
    ValueError: a `while` loop contains kernels or their products.
  """
  return _sum(jaxpr, _kernel_flops)


def _sum(jaxpr: core.Jaxpr, flops_of: Callable[[Any], int | None]) -> int:
  """Sums `flops_of` equations; it returns None to look inside of one."""
  total = 0
  for equation in jaxpr.eqns:
    flops = flops_of(equation)
    total += _inner_flops(equation, flops_of) if flops is None else flops
  return total


def _product_flops(equation: core.JaxprEqn) -> int | None:
  name = equation.primitive.name
  if name == "dot_general":
    return _dot_flops(equation)
  if name == "conv_general_dilated":
    return _convolution_flops(equation)
  return _kernel_flops(equation)


def _kernel_flops(equation: core.JaxprEqn) -> int | None:
  name = equation.primitive.name
  if name == _KERNEL:
    cells = math.prod(equation.params["grid_mapping"].grid)
    return cells * traced_flops(equation.params["jaxpr"])
  return 0 if name in _PRODUCTS else None


def _inner_flops(
  equation: core.JaxprEqn, flops_of: Callable[[Any], int | None]
) -> int:
  name = equation.primitive.name
  inner = [_sum(j, flops_of) for j in _inner_jaxprs(equation.params)]
  if name == "while" and any(inner):
    raise ValueError(
      "a while loop runs matrix products an unknown number of times: use "
      "jax.lax.scan or fori_loop with fixed bounds"
    )
  if name == "cond":
    # Only one branch runs; the most expensive one is an upper bound.
    return max(inner)
  return equation.params.get("length", 1) * sum(inner)


def _inner_jaxprs(params: dict[str, Any]) -> list[core.Jaxpr]:
  leaves = jax.tree.leaves(
    list(params.values()),
    is_leaf=lambda x: isinstance(x, core.Jaxpr | core.ClosedJaxpr),
  )
  found = [x for x in leaves if isinstance(x, core.Jaxpr | core.ClosedJaxpr)]
  return [x.jaxpr if isinstance(x, core.ClosedJaxpr) else x for x in found]


def _dot_flops(equation: core.JaxprEqn) -> int:
  (contracted, _), _ = equation.params["dimension_numbers"]
  left = equation.invars[0].aval.shape
  depth = math.prod(left[axis] for axis in contracted)
  return 2 * depth * math.prod(equation.outvars[0].aval.shape)


def _convolution_flops(equation: core.JaxprEqn) -> int:
  """With groups, the kernel has the inputs of one group."""
  kernel = equation.invars[1].aval.shape
  _, inputs, *sides = equation.params["dimension_numbers"].rhs_spec
  taps = math.prod(kernel[axis] for axis in (inputs, *sides))
  return 2 * taps * math.prod(equation.outvars[0].aval.shape)
