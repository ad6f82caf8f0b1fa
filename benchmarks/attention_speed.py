"""Attention's kernels on a CPU, forward and backward, beside PyTorch's.

  python benchmarks/attention_speed.py --rounds=20

In float32, on random queries, keys and values. The sides take turns; a time is
the median of the rounds. Prints the rows of the table in docs/sharding.md.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import jax
import torch

from ddit_jax.models.attention import attend

KERNELS = ("xla", "chunked")
# Examples, tokens, heads, features of a head.
SHAPES = ((64, 80, 4, 24), (16, 208, 8, 32), (8, 208, 8, 64), (4, 640, 8, 64))


def ours(kernel: str, shape: tuple[int, ...]) -> Callable[[], object]:
  *arrays, pulled = jax.random.normal(jax.random.key(0), (4, *shape))

  @jax.jit
  def run(arrays, pulled):
    attended, pull = jax.vjp(lambda *x: attend(*x, kernel=kernel), *arrays)
    return attended, pull(pulled)

  return lambda: jax.block_until_ready(run(arrays, pulled))


def theirs(shape: tuple[int, ...]) -> Callable[[], object]:
  arrays = [torch.randn(shape, requires_grad=True) for _ in range(3)]
  pulled = torch.randn(shape)

  def run():
    query, key, value = (x.transpose(1, 2) for x in arrays)
    attended = torch.nn.functional.scaled_dot_product_attention(
      query, key, value
    )
    return torch.autograd.grad(attended.transpose(1, 2), arrays, pulled)

  return run


def measure(shape: tuple[int, ...], rounds: int) -> list[float]:
  """Milliseconds of each of our kernels and of PyTorch's."""
  sides = [ours(kernel, shape) for kernel in KERNELS] + [theirs(shape)]
  times = [[] for _ in sides]
  for number in range(rounds + 1):
    for side, seconds in zip(sides, times, strict=True):
      start = time.perf_counter()
      side()
      if number:  # The first compiles.
        seconds.append(time.perf_counter() - start)
  return [1e3 * statistics.median(seconds) for seconds in times]


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--rounds", type=int, default=20)
  rounds = parser.parse_args().rounds
  for shape in SHAPES:
    cells = [f"{ms:.0f}" for ms in measure(shape, rounds)]
    print("|", ", ".join(map(str, shape)), "|", " | ".join(cells), "|")


if __name__ == "__main__":
  main()
